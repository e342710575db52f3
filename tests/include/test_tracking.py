"""MLflow as tasks use it, where two of them come at once."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from include import tracking


def test_two_that_miss_an_experiment_at_once_make_it_once(mlflow_server, monkeypatch):
    from mlflow import MlflowClient

    look, both_miss_it = MlflowClient.get_experiment_by_name, Barrier(2, timeout=30)

    def looked(client, name):
        found = look(client, name)
        if found is None:
            both_miss_it.wait()
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", looked)
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", mlflow_server.connection)
    with ThreadPoolExecutor(2) as callers:
        one, other = callers.map(tracking._experiment, ["missed"] * 2)
    assert one == other
