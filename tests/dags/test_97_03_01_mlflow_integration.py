"""97.3.1 MLflow Integration: against a real server, read with MLflow's own client over HTTP."""

import json
import struct
import sys
from urllib.request import urlopen

import psutil
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from include import processes
from tests.services import http_connection

DAG = "97_03_01_mlflow_integration"
NAMES = ["careful", "usual", "eager"]


@pytest.fixture(scope="module", autouse=True)
def connected(mlflow_server):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", mlflow_server.connection)
        yield


@pytest.fixture(scope="module")
def run(run_dag, connected):
    return run_dag(DAG)


@pytest.fixture(scope="module")
def client(mlflow_server):
    from mlflow import MlflowClient

    return MlflowClient(mlflow_server.with_login)


def versions(run, client):
    """The versions that a run made: the server has those of other dates, too."""
    ours = {child.info.run_id for child in children(run, client).values()}
    found = client.search_model_versions(f"name = '{DAG}'")
    return [each.version for each in found if each.run_id in ours]


def children(run, client):
    parent = client.get_run(run.xcom("server.check"))
    found = client.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    )
    return {each.info.run_name: each for each in found}


@pytest.mark.shows("97.3.1", "MLflow tracking server")
def test_the_run_is_on_the_server_and_its_page_opens(run, client, mlflow_server):
    parent = client.get_run(run.xcom("server.check"))
    assert parent.info.status == "FINISHED"
    link = run.xcom("server.check", key="mlflow_run")
    assert link.startswith(mlflow_server.address)
    assert parent.info.run_id in link
    with urlopen(mlflow_server.page(link), timeout=30) as page:
        assert page.status == 200


@pytest.mark.shows("97.3.1", "Experiment logging")
def test_each_configuration_has_its_settings_curve_data_picture_and_model(run, client):
    logged = children(run, client)
    assert sorted(logged) == sorted(NAMES)
    holdout = run.frame("experiments.prepare", "holdout")
    for index, name in enumerate(NAMES):
        child = logged[name]
        curve = client.get_metric_history(child.info.run_id, "auc")
        assert [point.step for point in curve] == list(range(1, 41))
        model = run.model("experiments.train", "model", map_index=index)
        expected = roc_auc_score(holdout.churned, model.predict_proba(holdout)[:, 1])
        assert curve[-1].value == pytest.approx(expected)
        assert child.data.params["max_iter"] == "40"
        assert [each.dataset.name for each in child.inputs.dataset_inputs] == ["customers"]
        assert [each.path for each in client.list_artifacts(child.info.run_id)] == ["curve.png"]
        (model_output,) = child.outputs.model_outputs
        folder = client.get_logged_model(model_output.model_id)
        assert folder.name == "model"


@pytest.mark.shows("97.3.1", "Run comparison")
def test_the_query_finds_the_best_and_the_evaluation_is_scikit_learns(run, client):
    logged = children(run, client)
    queried = run.xcom("compare.query")
    best = max(logged.values(), key=lambda child: child.data.metrics["auc"])
    assert queried["best"] == best.info.run_id
    assert set(queried["auc"]) == set(NAMES)
    holdout = run.frame("experiments.prepare", "holdout")
    model = run.model("experiments.train", "model", map_index=NAMES.index(best.info.run_name))
    expected = accuracy_score(holdout.churned, model.predict(holdout))
    assert run.xcom("compare.evaluate")["accuracy_score"] == pytest.approx(expected)
    parent = run.xcom("server.check")
    assert "comparison.png" in [each.path for each in client.list_artifacts(parent)]


@pytest.mark.shows("97.3.1", "Model registry")
def test_the_best_one_is_what_callers_get_by_the_alias(run, client):
    champion = client.get_model_version_by_alias(DAG, "champion")
    assert champion.run_id == run.xcom("compare.query")["best"]
    assert float(champion.tags["accuracy_score"]) == pytest.approx(
        run.xcom("compare.evaluate")["accuracy_score"], abs=1e-4
    )
    assert run.xcom("registry.verify") == {
        "rows": len(run.frame("experiments.prepare", "holdout")),
        "version": champion.version,
        "callers_get": champion.version,
    }


def test_the_same_date_again_adds_no_run_no_point_and_no_version(run, run_dag, client):
    before = {name: child.info.run_id for name, child in children(run, client).items()}
    assert len(versions(run, client)) == 1
    again = run_dag(DAG, logical_date=run.logical_date)
    assert {n: child.info.run_id for n, child in children(again, client).items()} == before
    assert len(client.get_metric_history(before["usual"], "auc")) == 40
    parent = run.xcom("server.check")
    assert len(client.get_metric_history(parent, "accuracy_score")) == 1
    assert len(versions(run, client)) == 1
    assert again.xcom("experiments.offline") == run.xcom("experiments.offline")


def test_a_server_that_is_away_loses_nothing(run_dag, client, mlflow_server, monkeypatch):
    from include import tracking

    dead = http_connection(processes.free_port())
    part, failures = tracking.part, []

    def away_at_first(name):
        if name == "usual" and not failures:
            failures.append(name)
            monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", dead)
            try:
                with part(name) as opened:
                    return opened
            finally:
                monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", mlflow_server.connection)
        return part(name)

    monkeypatch.setattr(tracking, "part", away_at_first)
    run = run_dag(DAG)
    assert failures == ["usual"]
    assert run.tries("experiments.log[1]") == 2
    assert run.tries("experiments.train[1]") == 1
    curve = client.get_metric_history(children(run, client)["usual"].info.run_id, "auc")
    assert [point.value for point in curve] == curve_written(run, 1)


def curve_written(run, index):
    from include import storage

    return storage.read_json(run.reference("experiments.train", "curve", map_index=index))["auc"]


def wandb_records(file):
    """What `wandb sync` reads: the vendor's own records, in the blocks of a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, block, record = 7, 32 * 1024, b""
    assert file[:4] == b":W&B"
    while at + 7 <= len(file):
        length, kind = struct.unpack("<HB", file[at + 4 : at + 7])
        record += file[at + 7 : at + 7 + length]
        at += 7 + length
        if block - at % block < 7:  # no room for another head
            at += block - at % block
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def test_weights_and_biases_gets_the_same_curves_without_its_server(run):
    from include import storage

    kept = run.xcom("experiments.offline")
    assert list(kept) == NAMES
    for index, name in enumerate(NAMES):
        records = list(wandb_records(storage.read_bytes(kept[name])))
        assert records[-1].HasField("exit")  # whole: nothing was read before it was written
        (head,) = (each.run for each in records if each.HasField("run"))
        assert (head.project, head.display_name) == (DAG, name)
        curve = run.digest("experiments.train", "curve", map_index=index)
        assert head.run_id == f"{run.key}-{name}-{curve[:12]}"
        settings = {each.key: json.loads(each.value_json) for each in head.config.update}
        assert settings["max_iter"] == 40
        points = [
            {item.nested_key[0]: json.loads(item.value_json) for item in each.history.item}
            for each in records
            if each.HasField("history")
        ]
        assert [point["auc"] for point in points] == curve_written(run, index)
        assert [point["_step"] for point in points] == list(range(1, 41))
    assert "wandb-core" not in [each.name() for each in psutil.Process().children(recursive=True)]


def test_without_weights_and_biases_nothing_else_changes(run_dag, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = run_dag(DAG, conf={"trees": 2})
    assert run.states.pop("experiments.offline") == "skipped"
    assert set(run.states.values()) == {"success"}


def test_no_server_fails_with_its_address_and_the_way_out(run_dag, monkeypatch):
    port = processes.free_port()
    dead = http_connection(port)
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", dead)
    failed = run_dag(DAG, expect="failed")
    message = failed.error("server.check")
    assert f"MLflow does not answer at http://127.0.0.1:{port}" in message
    assert "make up" in message
    assert "mlflow_default" in message
    assert failed.states["experiments.log"] == "upstream_failed"


def test_a_store_without_a_server_is_refused_at_once(run_dag, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", '{"conn_type": "sqlite", "host": "/x.db"}')
    failed = run_dag(DAG, expect="failed")
    assert "type http or https" in failed.error("server.check")
    assert failed.tries("server.check") == 1
