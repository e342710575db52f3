"""The gateway with real scorers behind it: nothing is lost, whatever is done to it."""

import json
import os
import secrets
import shutil
import signal
import socket
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, url2pathname, urlopen

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from include import processes
from include.serving import fleet, launch, load
from include.serving.client import Gateway, Refused
from include.tools import services
from tests.waiting import until

ROUTE = "churn"


@pytest.fixture(scope="module")
def shared(start_gateway):
    return start_gateway()[0]


@pytest.fixture
def gateway(shared, exported):
    """Two versions of one model, all traffic on the first."""
    for version in ("1", "2"):
        shared.start_version("churn", version, str(exported))
    shared.set_route(ROUTE, "churn", {"1": 1.0})
    yield shared
    shared.set_route(ROUTE, "churn", {"1": 1.0})
    for version in shared.versions("churn").keys() - {"1", "2"}:
        shared.stop_version("churn", version)


def test_it_answers_as_the_model_does_and_says_by_which_version(gateway, model, rows, customers):
    answer, version = gateway.ask(ROUTE, rows)
    expected = model.predict_proba(customers.drop(columns="churned").head(len(rows)))[:, 1]
    assert version == "1"
    assert answer["scores"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert answer["predictions"] == [int(score > 0.5) for score in expected]


def test_without_the_token_nothing_is_told_or_done(gateway):
    with pytest.raises(Refused, match=r"401.*model_gateway"):
        Gateway(gateway.address, "guessed").route(ROUTE)
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{gateway.address}/models")


def test_a_token_in_a_header_that_can_not_be_read_is_in_no_log(start_gateway):
    gateway, process = start_gateway()
    url = urlsplit(gateway.address)
    for spoiled in (
        f"{gateway.token}\x00",
        f"{gateway.token}\x07",
        gateway.token + 9000 * " " + "x",
    ):
        head = (
            f"GET /models HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {spoiled}\r\n\r\n"
        )
        with socket.create_connection((url.hostname, url.port), timeout=30) as line:
            line.sendall(head.encode())
            assert b" 400 Bad Request" in line.recv(1000)
    log = Path(process.log).read_text()
    assert log.count("a request was refused that is no HTTP") == 3
    assert gateway.token not in log


@pytest.fixture
def with_a_registry(mlflow_server, exported, tmp_path, monkeypatch):
    """A gateway as `make up` starts it, beside an MLflow that asks for a password."""
    for name in fleet.REGISTRYS:
        monkeypatch.delenv(name, raising=False)  # a test before this one may have logged in
    port, token = processes.free_port(), secrets.token_urlsafe()
    env = {
        "GATEWAY_PORT": str(port),
        "GATEWAY_SOURCES": str(exported.parent),
        "GATEWAY_TOKEN": token,
        "AIRFLOW__API_AUTH__JWT_SECRET": "airflows",
        "AIRFLOW_CONN_BANK": "airflows",
        "AIRFLOW_VAR_KEY": "airflows",
        "MLFLOW_PASSWORD": json.loads(mlflow_server.connection)["password"],
        "MLFLOW_PORT": str(mlflow_server.port),
    }
    (service,) = (each for each in services.SERVICES if each.name == "gateway")
    process = services.start(service, tmp_path, tmp_path / "services", env)
    yield Gateway(f"http://127.0.0.1:{port}", token), process
    processes.stop(tmp_path / "services", [process])
    assert not process.family()


@pytest.fixture
def registered(mlflow_server, exported):
    """The name of a model that this MLflow knows."""
    registry = MlflowClient(mlflow_server.with_login)
    registry.create_registered_model("behind_a_login")
    run = registry.create_run("0").info  # a server takes files of a run's own folder alone
    folder = Path(url2pathname(urlsplit(run.artifact_uri).path)) / "model"
    shutil.copytree(exported, folder)
    registry.create_model_version("behind_a_login", folder.as_uri(), run.run_id)
    return "models:/behind_a_login/1"


def test_a_scorer_logs_in_to_the_registry_and_only_where_its_model_comes_from_there(
    with_a_registry, registered, mlflow_server, exported, rows
):
    gateway, process = with_a_registry
    password = json.loads(mlflow_server.connection)["password"]
    gateway.start_version("churn", "1", registered)
    gateway.start_version("churn", "2", str(exported))
    gateway.set_route(ROUTE, "churn", {"1": 1.0})
    assert gateway.ask(ROUTE, rows[:1])[1] == "1"
    of_registry, of_folder = (
        psutil.Process(gateway.versions("churn")[number]["pid"]).environ() for number in "12"
    )
    assert of_registry["MLFLOW_TRACKING_PASSWORD"] == password
    assert password not in of_folder.values()
    seen = {*of_registry, *of_registry.values(), *of_folder, *of_folder.values()}
    assert not {"airflows", gateway.token, *fleet.OURS} & seen
    commands = [" ".join(each.cmdline()) for each in process.family()]
    assert len(commands) == 3
    assert not [each for each in commands if password in each or gateway.token in each]


def test_switching_under_load_loses_no_request(gateway, rows):
    address = load.route_address(gateway, ROUTE)
    with load.running(address, rows, rate=100, headers=[load.token(gateway)]) as traffic:
        for turn in range(20):
            gateway.set_route(ROUTE, "churn", {"1": turn % 2, "2": (turn + 1) % 2})
    assert len(traffic.answers) > 20
    assert traffic.failed == 0
    assert set(traffic.by_version()) == {"1", "2"}


def test_callers_stay_with_their_version(gateway, rows):
    gateway.set_route(ROUTE, "churn", {"1": 0.5, "2": 0.5}, sticky="X-Customer")
    met = {
        customer: {gateway.ask(ROUTE, rows[:1], {"X-Customer": str(customer)})[1] for _ in range(3)}
        for customer in range(20)
    }
    assert all(len(versions) == 1 for versions in met.values())
    assert {version for versions in met.values() for version in versions} == {"1", "2"}


def test_a_killed_version_is_covered_for_and_comes_back(gateway, rows):
    gateway.set_route(ROUTE, "churn", {"1": 0.5, "2": 0.5})
    killed = gateway.versions("churn")["1"]["pid"]
    os.kill(killed, signal.SIGKILL)
    assert all(gateway.ask(ROUTE, rows[:1]) for _ in range(50))
    until(lambda: gateway.versions("churn"), "version 1", lambda found: found["1"]["healthy"])
    assert gateway.versions("churn")["1"]["pid"] != killed
    until(lambda: gateway.ask(ROUTE, rows[:1])[1], "an answer by version 1", "1".__eq__)


def test_a_slow_shadow_is_not_felt(gateway, exported, rows):
    gateway.start_version("churn", "slow", str(exported), delay_seconds=2.0)
    gateway.set_route(ROUTE, "churn", {"1": 1.0}, shadow="slow")
    address = load.route_address(gateway, ROUTE)
    traffic = load.drive(address, rows, rate=50, count=150, headers=[load.token(gateway)])
    assert traffic.failed == 0
    assert traffic.by_version() == {"1": 150}
    assert traffic.milliseconds(99) < 1000
    until(
        lambda: {line["role"] for line in gateway.requests(ROUTE)[0]},
        "an answer of the shadow",
        lambda roles: "shadow" in roles,
    )
    metrics = httpx.get(f"{gateway.address}/metrics", headers=load.token(gateway)).text
    assert f'gateway_shadow_dropped_total{{route="{ROUTE}"}}' in metrics


def test_live_and_shadow_answers_meet_by_request_id(gateway, rows):
    gateway.set_route(ROUTE, "churn", {"1": 1.0}, shadow="2")
    gateway.ask(ROUTE, rows[:1], {"X-Request-Id": "asked-once"})

    def both():
        lines = [each for each in gateway.requests(ROUTE)[0] if each["request_id"] == "asked-once"]
        return {line["role"]: line["answer"] for line in lines}

    until(both, "both answers", lambda answers: len(answers) == 2)
    assert both()["live"] == both()["shadow"]


def test_a_version_in_use_is_not_taken_away(gateway):
    with pytest.raises(Refused, match="version 1 of churn is needed by: churn"):
        gateway.stop_version("churn", "1")
    gateway.stop_version("churn", "2")
    assert set(gateway.versions("churn")) == {"1"}


def test_a_drained_version_answers_what_it_was_asked(gateway, exported, rows):
    gateway.start_version("churn", "slow", str(exported), delay_seconds=1.0)
    gateway.set_route(ROUTE, "churn", {"slow": 1.0})
    address = load.route_address(gateway, ROUTE)
    with load.running(address, rows, rate=20, headers=[load.token(gateway)]) as traffic:
        until(
            lambda: gateway.versions("churn")["slow"]["in_flight"],
            "more than five requests on their way",
            lambda number: number > 5,
        )
        gateway.set_route(ROUTE, "churn", {"1": 1.0})
        gateway.stop_version("churn", "slow")
    assert traffic.failed == 0
    assert set(traffic.by_version()) == {"slow", "1"}


def test_a_route_to_what_is_not_there_is_refused_and_changes_nothing(gateway, rows):
    with pytest.raises(Refused, match="version 3 of churn is not there"):
        gateway.set_route(ROUTE, "churn", {"3": 1.0})
    assert gateway.ask(ROUTE, rows[:1])[1] == "1"


def test_a_version_that_can_not_start_says_why(gateway, tmp_path):
    with pytest.raises(Refused, match="is no model: it has no file MLmodel"):
        gateway.start_version("churn", "3", str(tmp_path))
    assert set(gateway.versions("churn")) == {"1", "2"}


def test_the_table_outlives_the_gateway(start_gateway, exported, rows, tmp_path):
    first, process = start_gateway(tmp_path)
    first.start_version("churn", "1", str(exported))
    first.set_route(ROUTE, "churn", {"1": 1.0})
    os.kill(process.pid, signal.SIGKILL)
    until(process.family, "the gateway and its versions to end", lambda left: not left)
    second, _ = start_gateway(tmp_path)
    assert second.route(ROUTE) == {
        "model": "churn",
        "weights": {"1": 1.0},
        "sticky": None,
        "shadow": None,
    }
    until(lambda: second.versions("churn"), "version 1", lambda found: found["1"]["healthy"])
    assert second.ask(ROUTE, rows[:1])[1] == "1"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "not JSON"),
        (json.dumps({"dataframe_records": [{"plan": 1}]}).encode(), 422, "also wants the column"),
        (b" " * (2**20 + 1), 413, "longer than 1048576 bytes"),
    ],
    ids=["broken", "incomplete", "too long"],
)
def test_what_a_model_can_not_use_comes_back_with_a_reason(gateway, body, status, says):
    asked = Request(
        f"{gateway.address}/routes/{ROUTE}/invocations",
        data=body,
        headers={**load.token(gateway), "Content-Type": "application/json"},
    )
    with pytest.raises(HTTPError) as refused, urlopen(asked):
        pass
    with refused.value as answer:
        assert answer.status == status
        assert says in json.loads(answer.read())["error"]


def test_every_answer_is_logged_with_what_was_asked(gateway, rows):
    _, before = gateway.requests(ROUTE)
    answer, _ = gateway.ask(ROUTE, rows[:2], {"X-Request-Id": "mine"})
    body = json.dumps({"dataframe_records": rows[:1]}, indent=1).replace("\n", "\r\n")
    httpx.post(
        f"{gateway.address}/routes/{ROUTE}/invocations", content=body, headers=load.token(gateway)
    )
    (line, spaced), after = gateway.requests(ROUTE, before)
    assert (line["request_id"], line["key"], line["role"]) == ("mine", "mine", "live")
    assert line["asked"] == {"dataframe_records": rows[:2]}
    assert line["answer"] == answer
    assert spaced["asked"] == {"dataframe_records": rows[:1]}
    assert gateway.requests(ROUTE, after) == ([], after)


def test_a_text_with_a_line_separator_stays_one_line_of_the_log(gateway, rows):
    _, before = gateway.requests(ROUTE)
    row = rows[0] | {"region": "we\u2028st\x85"}
    body = json.dumps({"dataframe_records": [row]}, ensure_ascii=False).encode()
    address = f"{gateway.address}/routes/{ROUTE}/invocations"
    assert httpx.post(address, content=body, headers=load.token(gateway)).status_code == 200
    ((line,), _) = gateway.requests(ROUTE, before)
    assert line["asked"] == {"dataframe_records": [row]}


def test_without_a_token_it_does_not_start(tmp_path):
    port = processes.free_port()
    process = launch.gateway(tmp_path, port, token="")
    with pytest.raises(RuntimeError, match="would obey anybody"):
        processes.wait_until_answers(f"http://127.0.0.1:{port}/ping", process)
