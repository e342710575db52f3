"""What `make up` prepares before it starts Airflow."""

import os
import sqlite3
from contextlib import closing

import pytest

from include.tools import environment, services, up


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
