"""What `make up` prepares before it starts Airflow."""

import os
import socket
import sqlite3
import stat
import sys
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

from include import loopback, processes
from include.serving import admission
from include.tools import environment, rest, services, up
from tests.waiting import until


@pytest.fixture
def env(tmp_path):
    """The settings of an Airflow of its own."""
    ours = environment.airflow(tmp_path / "airflow", store=tmp_path) | services.ports()
    ours["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{tmp_path}/airflow.db"
    return os.environ | ours


def test_connections_to_our_services_follow_them_and_what_you_changed_stays(env, tmp_path):
    def hosts():
        return dict(database.execute("SELECT conn_id, host FROM connection"))

    up.prepare(tmp_path, env)
    with closing(sqlite3.connect(tmp_path / "airflow.db")) as database:
        before = hosts()
        assert before["warehouse"] == str(tmp_path / "warehouse.db")
        with database:
            database.execute("UPDATE connection SET host = 'changed'")
        up.prepare(tmp_path, env)
        after = hosts()
    assert after == before | {"warehouse": "changed", "notices": "changed"}
    assert after["mlflow_default"] == environment.HOST
    assert list(tmp_path.glob("connections*")) == []


def test_a_command_that_fails_is_named_with_what_it_said(env):
    with pytest.raises(RuntimeError, match=r"airflow version && airflow pools import /no/file"):
        up.airflow(env, ["version"], ["pools", "import", "/no/file"], ["never", "comes"])


def test_files_with_connections_are_their_owners_and_go_when_the_import_fails(
    env, tmp_path, monkeypatch
):
    seen = []

    def fails(_, *commands):
        for file in tmp_path.glob("connections*"):
            seen.append(stat.S_IMODE(file.stat().st_mode))
        raise RuntimeError("airflow does not want to")

    monkeypatch.setattr(up, "airflow", fails)
    umask = os.umask(0)
    try:
        with pytest.raises(RuntimeError, match="does not want to"):
            up.prepare(tmp_path, env)
    finally:
        os.umask(umask)
    assert seen == [0o600, 0o600]
    assert list(tmp_path.glob("connections*")) == []


def test_a_proxy_of_yours_is_kept_from_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "intranet.example, localhost")
    monkeypatch.delenv("no_proxy", raising=False)
    ours = environment.airflow(tmp_path, store=tmp_path)
    assert ours["no_proxy"] == ours["NO_PROXY"] == "intranet.example,localhost,127.0.0.1"


def test_what_is_asked_of_this_machine_passes_any_proxy(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as proxy, answering(b"here") as address:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with loopback.ask(address, 10) as answer:
            assert answer.read() == b"here"


@contextmanager
def answering(content):
    """A server that answers every request with this."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_password_of_airflow_is_made_once_and_is_its_owners(env):
    made = rest.password(env)
    assert len(made) >= 32
    assert rest.password(env) == made
    file = Path(env[environment.PASSWORDS])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert rest.link(env) == f"{env['AIRFLOW__API__BASE_URL']}/enter/#{made}"


@pytest.mark.parametrize("name", environment.LOGINS)
def test_who_may_log_in_is_your_say_where_you_set_it(env, monkeypatch, name):
    monkeypatch.setenv(name, "True")
    assert rest.password(env) is None
    assert rest.link(env) == env["AIRFLOW__API__BASE_URL"]
    assert rest.knows_the_way_in(env) == (name == environment.ALL_ADMINS)


def test_the_status_tells_who_has_ended_and_who_does_not_answer(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "services"
    monkeypatch.setenv("CATALOGUE_HOME", str(tmp_path))
    monkeypatch.setattr(up, "ANSWER_SECONDS", 0.2)
    waits = [sys.executable, "-c", "import signal; signal.pause()"]
    ends = [sys.executable, "-c", ""]
    with answering(b"here") as address, socket.create_server(("127.0.0.1", 0)) as silent:
        good, hung = int(address.rstrip("/").rpartition(":")[2]), silent.getsockname()[1]
        started = [
            processes.start(folder, "mlflow", waits, {}, good),
            processes.start(folder, "gateway", waits, {}, hung),
            processes.start(folder, "vertex", ends, {}, 1),
            processes.start(folder, "scheduler", waits, {}),
        ]
        until(lambda: not started[2].alive(), "vertex to end")
        up.status()
    processes.stop(folder, started)
    told = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert f"http://127.0.0.1:{good}" in told["mlflow"]
    assert "does not answer" in told["gateway"]
    assert "ended; `make up` starts it again" in told["vertex"]
    assert "ended" not in told["scheduler"]
    assert "as catalogue with the password of `make -s env | grep MLFLOW_PASSWORD`" in told["log"]


def test_the_gateway_of_make_up_takes_models_of_mlflow_and_of_built_images(env, tmp_path):
    (gateway,) = (each for each in services.SERVICES if each.name == "gateway")
    command = gateway.command(tmp_path, env | services.ports())
    named = [Path(folder) for option, folder in pairwise(command) if option == "--sources"]
    allowed = admission.sources(named)
    for folder in (
        "mlflow/artifacts/1/model",
        "airflow/images/97_05_01/ab",
        "run/images/97_05_01/ab",
    ):
        assert admission.allowed(str(tmp_path / folder), allowed)
    for folder in ("landing", "airflow/images/../logs", "mlflow.db"):
        assert not admission.allowed(str(tmp_path / folder), allowed)
