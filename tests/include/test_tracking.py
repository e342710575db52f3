"""MLflow as tasks use it, where two of them come at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier

import pytest
from airflow.sdk import RetryAction

from include import processes, retries, tracking
from tests.services import http_connection


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


@pytest.fixture
def answers(monkeypatch):
    """A server at MLflow's address that gives every request the same status."""

    class Answers(BaseHTTPRequestHandler):
        status = 200

        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(Answers.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = answer

        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", http_connection(server.server_port))
        yield Answers
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, PermissionError, "refuses us: HTTP 401. Look at host, port, login and password"),
        (403, PermissionError, "refuses us: HTTP 403"),
        (404, ValueError, "answers, but not as MLflow: HTTP 404"),
        (429, ConnectionError, "can't answer now: HTTP 429"),
        (503, ConnectionError, "can't answer now: HTTP 503"),
    ],
)
def test_a_refusal_says_what_to_look_at_and_whether_another_try_helps(answers, status, error, said):
    answers.status = status
    for ask in (tracking.server, lambda: tracking.versions("churn")):
        with pytest.raises(error, match=said) as refused:
            ask()
        action = retries.POLICY.evaluate(refused.value, try_number=1, max_tries=3).action
        assert action == (RetryAction.RETRY if error is ConnectionError else RetryAction.FAIL)


def test_each_call_to_a_dead_server_says_how_to_start_one(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", http_connection(processes.free_port()))
    for ask in (
        tracking.server,
        lambda: tracking.champion("churn"),
        lambda: tracking.load("churn", "1"),
        lambda: tracking.artifact_folders("churn"),
    ):
        with pytest.raises(ConnectionError, match=r"does not answer at .*make up.*mlflow_default"):
            ask()
