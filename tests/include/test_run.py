"""What `make run` and `make up` refuse before they start anything, and how a run ends."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import version

import pytest

from include import processes
from include.data import warehouse
from include.tools import environment, needs, rest, run, up
from tests.conftest import HOME

STRUCTURE = "97_01_01_ml_pipeline_structure"
LACKING = """
from airflow.sdk import dag, task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

@dag
def lacking():
    @task(pool="nowhere")
    def work():
        pass

    work()
    SQLExecuteQueryOperator(task_id="ask", conn_id="nobody", sql="SELECT 1")

lacking()
"""


def faults(file, conf=None):
    return run._faults(file, conf or {}, needs.needs(file))


def test_an_unknown_parameter_is_named_with_those_that_there_are():
    (fault,) = faults(environment.dag_file(STRUCTURE), {"min_f2": 0.5})
    assert fault == f"{STRUCTURE} has no parameter 'min_f2'; it has: min_f1."


def test_a_wrong_value_is_named_with_what_it_should_be():
    (fault,) = faults(environment.dag_file(STRUCTURE), {"min_f1": 7})
    assert fault.startswith("Parameter 'min_f1' can't be 7: ")
    assert "maximum of 1" in fault


def test_every_fault_is_told_at_once():
    assert len(faults(environment.dag_file(STRUCTURE), {"min_f2": 0.5, "min_f1": "high"})) == 2


def test_a_missing_pool_and_a_missing_connection_are_named_with_where_to_add_them(tmp_path):
    file = tmp_path / "lacking.py"
    file.write_text(LACKING)
    assert faults(file) == [
        "Pool 'nowhere' is not in config/pools.json: add it there with its number of slots.",
        "Connection 'nobody' is not in config/connections.yaml: add it there, or set "
        "AIRFLOW_CONN_NOBODY.",
    ]


def test_a_connection_from_the_environment_is_as_good(tmp_path, monkeypatch):
    file = tmp_path / "lacking.py"
    file.write_text(LACKING.replace('pool="nowhere"', ""))
    monkeypatch.setenv("AIRFLOW_CONN_NOBODY", '{"conn_type": "sqlite"}')
    assert faults(file) == []


def test_an_unknown_dag_is_answered_with_those_that_there_are():
    with pytest.raises(SystemExit, match=f"(?s)no DAG 'xxx.*{STRUCTURE}"):
        environment.dag_file("x" * 300)
    with pytest.raises(SystemExit, match=f"(?s)no DAG 'structure'.*{STRUCTURE}"):
        environment.dag_file("structure")


@pytest.mark.parametrize("text", ["{min_f1: 1}", "[1]", "7"])
def test_a_conf_that_is_no_json_object_is_refused_with_an_example(text):
    with pytest.raises(SystemExit, match=r"CONF='{\"name\": value}'"):
        run._conf(text)


def test_a_date_that_is_none_is_refused_with_an_example():
    with pytest.raises(SystemExit, match=r"DATE=tomorrow is not a date. Write DATE=2026-01-04"):
        run._date("tomorrow")


def test_no_pipeline_but_the_one_that_is_run_is_read(monkeypatch):
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag

    for name, value in run._only(environment.dag_file(STRUCTURE)).items():
        monkeypatch.setenv(name, value)
    (bundle,) = DagBundlesManager().get_all_dag_bundles()
    assert bundle.name == environment.BUNDLE
    bag = BundleDagBag(
        dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=environment.BUNDLE
    )
    assert list(bag.dags) == [STRUCTURE]


def test_two_runs_that_release_one_model_are_refused_whatever_their_dates(tmp_path, monkeypatch):
    locked = []

    @contextmanager
    def noted(folder, what):
        locked.append(what)
        raise SystemExit
        yield

    monkeypatch.setattr(run, "_one_at_a_time", noted)
    monkeypatch.setenv("CATALOGUE_HOME", str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:  # main() sets the environment of a run
        patch.setattr(os, "environ", dict(os.environ))
        for dag_id in ("97_05_02_blue_green_deployment", STRUCTURE):
            for date in ("2026-01-04", "2026-01-05"):
                with pytest.raises(SystemExit):
                    run.main([dag_id, "--date", date])
    assert locked == [
        *["97_05_02_blue_green_deployment"] * 2,
        f"{STRUCTURE}-2026-01-04T00:00:00+00:00",
        f"{STRUCTURE}-2026-01-05T00:00:00+00:00",
    ]


def test_the_same_run_twice_at_once_is_refused(tmp_path):
    with run._one_at_a_time(tmp_path, "a run"):
        second = run._one_at_a_time(tmp_path, "a run")
        with pytest.raises(SystemExit, match="a run is running already"):
            second.__enter__()
        with run._one_at_a_time(tmp_path, "a run of another date"):
            pass
    with run._one_at_a_time(tmp_path, "a run"):
        pass


def test_a_full_disk_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "LEAST_FREE", 2**62)
    monkeypatch.setenv("CATALOGUE_HOME", str(tmp_path / "not" / "there"))
    for command in (lambda: run.main([STRUCTURE]), up.up):
        with pytest.raises(SystemExit, match=rf"MB are free at {tmp_path}.*CATALOGUE_HOME"):
            command()
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_named_with_the_variable_that_changes_it():
    with socket.create_server((environment.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"Port {port} is taken.*MLFLOW_PORT={port + 1}"):
            up._refuse_taken_ports({"mlflow": port})


def test_one_port_for_two_services_is_refused_before_either_starts():
    port = processes.free_port()
    with pytest.raises(SystemExit, match=f"{port} is mlflow's already.*AIRFLOW_PORT={port + 1}"):
        up._refuse_taken_ports({"mlflow": port, "api-server": port})


def test_who_finds_the_metadata_database_locked_waits_a_minute(airflow_database):
    from airflow import settings
    from sqlalchemy import text

    with settings.Session() as session:
        assert session.scalar(text("PRAGMA busy_timeout")) == 60_000


def test_a_file_that_does_not_import_is_named(monkeypatch):
    broken = {"filename": "97_01_01.py", "stack_trace": "SyntaxError: invalid syntax"}
    monkeypatch.setattr(rest, "password", lambda env: "any")
    monkeypatch.setattr(rest.Client, "call", lambda self, *asked: {"import_errors": [broken]})
    settings = {"AIRFLOW__API__BASE_URL": "http://nowhere"}
    with pytest.raises(RuntimeError, match=r"97_01_01.py does not import:\nSyntaxError"):
        up.wait_for_dags(settings, {"97_01_01"})


def test_a_port_must_be_one(monkeypatch):
    monkeypatch.setenv("MLFLOW_PORT", "high")
    with pytest.raises(SystemExit, match="MLFLOW_PORT=high is not a port"):
        environment.port("MLFLOW_PORT", 5000)


@pytest.mark.parametrize("text", ['{"min_f1": NaN}', '{"min_f1": Infinity}', "[1]", "{"])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(SystemExit, match="CONF"):
        run._conf(text)


def test_a_moment_has_one_name_however_it_is_written():
    written = ("2026-01-04", "2026-01-04T00:00:00+00:00", "2026-01-04T02:00:00+02:00")
    assert {run._date(text) for text in written} == {"2026-01-04T00:00:00+00:00"}
    others = ("2026-01-04T00:00:01", "2026-01-04T00:00:00+02:00", "2026-01-05", "2026-02-04")
    assert len({run._date(text) for text in (*written, *others)}) == 1 + len(others)


@pytest.mark.parametrize("text", ["nonsense", "9999-12-31T23:59:59-23:59", "0001-01-01"])
def test_a_date_that_nobody_can_mean_is_refused(text):
    with pytest.raises(SystemExit, match=f"DATE={text} is not"):
        run._date(text)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (f"../dags/{STRUCTURE}", f"{STRUCTURE}$"),
        ("97_01_01", f"There are:\\n  {STRUCTURE}$"),
        ("", "97_06_01"),
    ],
)
def test_a_dag_that_is_not_there_is_told_with_those_that_are_near(name, told):
    with pytest.raises(SystemExit, match=told):
        environment.dag_file(name)


def test_a_warehouse_that_is_no_database_is_named_with_the_cure(tmp_path):
    (tmp_path / "warehouse.db").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(RuntimeError, match=r"warehouse\.db: .*Delete it, and it is made anew"):
        warehouse.create(tmp_path / "warehouse.db")


@pytest.mark.parametrize(
    ("program", "status", "last"),
    [
        ("", 0, "Green."),
        ("raise SystemExit(3)", 3, "Failed."),
        ("import os; os.kill(os.getpid(), 9)", -9, "Failed. It was killed by signal 9."),
    ],
)
def test_the_status_of_a_run_is_that_of_its_process(program, status, last, capsys):
    assert run._follow([sys.executable, "-c", program], {}, verbose=False) == status
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_make_run_fails_when_airflow_refuses_the_run(
    tmp_path, mlflow_store, warehouse_file, landing_zone
):
    """The run's database has no tables, and everything else is prepared already."""
    for name in ("mlflow", "warehouse.db", "landing"):
        (tmp_path / name).symlink_to(HOME / name)
    own = tmp_path / "run"
    own.mkdir()
    (own / f"migrated-{version('apache-airflow')}").touch()
    files = [environment.PROJECT / "config" / "pools.json", *environment.DAGS.glob("*.py")]
    known = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (own / "known.json").write_text(json.dumps(known))
    done = subprocess.run(
        [sys.executable, "-m", "include.tools.run", STRUCTURE],
        cwd=environment.PROJECT,
        env=os.environ | {"CATALOGUE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Database migration required" in done.stdout, done.stdout + done.stderr
    assert (done.stdout.splitlines()[-1], done.returncode) == ("Failed.", 1)
