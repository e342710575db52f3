"""MLflow as tasks use it: two that come at once, and names that tell runs and models apart."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier
from types import SimpleNamespace

import pandas as pd
import pytest
from airflow.sdk import RetryAction
from sklearn.dummy import DummyClassifier

from include import processes, retries, runs, tracking
from tests.services import http_connection

PLACE = runs.Place("a_registry", "20260104T000000", "register", -1, 1, "settings")


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


def test_another_server_is_not_shown_the_login_of_an_earlier_one(monkeypatch):
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")

    def shown(login=None, password=None):
        known = {"login": login, "password": password} if login else {}
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": 1} | known
        monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(connection))
        assert tracking.address() == "http://127.0.0.1:1"
        return [os.environ.get(name) for name in names]

    for name in names:
        monkeypatch.setenv(name, "yours")
    monkeypatch.setattr(tracking, "_lent", {})
    assert shown() == ["yours", "yours"]
    assert shown("one", "its own") == ["one", "its own"]
    assert shown("another") == ["another", ""]
    assert shown() == [None, None]


@pytest.fixture
def stands(monkeypatch, mlflow_store):
    """Puts the task into a run, in place of Airflow's context; in the first one to begin with."""

    def stands(**other):
        monkeypatch.setattr(runs, "here", lambda: replace(PLACE, **other))

    ti = SimpleNamespace(xcom_push=lambda key, value: None)
    monkeypatch.setattr(tracking, "get_current_context", lambda: {"ti": ti})
    stands()
    return stands


def run_id():
    with tracking.run() as opened:
        return opened.info.run_id


def test_a_run_is_found_by_its_key_and_its_settings(stands):
    first = run_id()
    assert run_id() == first
    stands(settings="other")
    other_settings = run_id()
    stands(key="20260105T000000")
    assert len({first, other_settings, run_id()}) == 3


def test_a_reference_has_one_version_in_each_run(stands):
    def registered(reference):
        with tracking.run():
            return tracking.register_reference(reference)

    first = registered("file:///a#sha256=1")
    assert registered("file:///a#sha256=1") == first
    another = registered("file:///a#sha256=2")
    stands(key="20260106T000000")
    assert len({first, another, registered("file:///a#sha256=1")}) == 3


def test_a_model_has_one_version_in_each_run(stands):
    def registered(content):
        with tracking.run() as opened:
            logged = SimpleNamespace(
                tags={"sha256": content},
                source_run_id=opened.info.run_id,
                model_uri=f"{opened.info.artifact_uri}/model",
                model_id=None,
            )
            return tracking.register_logged(logged)

    first = registered("one")
    assert registered("one") == first
    another = registered("another")
    stands(key="20260107T000000")
    assert len({first, another, registered("one")}) == 3


def test_a_second_model_of_a_run_is_kept_beside_the_first(stands):
    rows, labels = pd.DataFrame({"x": [0.0, 1.0]}), [0, 1]
    models = [DummyClassifier(strategy=each).fit(rows, labels) for each in ("prior", "uniform")]
    with tracking.run():
        one, other, *again = (tracking.log_model(each, rows).model_id for each in models * 2)
    assert again == [one, other]
    assert one != other
