"""Every DAG by `airflow dags test`, for two dates at the same time: both green, nothing mixed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from include.tools import environment
from tests.conftest import HOME

DAGS = sorted(path.stem for path in environment.DAGS.glob("97_*.py"))
DATES = {"2027-03-07": "20270307T000000", "2027-03-14": "20270314T000000"}


@pytest.mark.slow
@pytest.mark.parametrize("dag_id", DAGS)
def test_two_dates_at_once_are_green_and_do_not_mix(
    dag_id, airflow_database, mlflow_server, warehouse_file, tmp_path
):
    # The bundle of the test processes is empty; the command looks for its DAG in the real folder.
    settings = {
        name: value
        for name, value in os.environ.items()
        if name != "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"
    } | {"AIRFLOW_CONN_MLFLOW_DEFAULT": mlflow_server.connection}
    started = {
        date: subprocess.Popen(
            [sys.executable, "-m", "airflow", "dags", "test", dag_id, date],
            env=settings,
            cwd=tmp_path,
            stdout=(tmp_path / f"{date}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        for date in DATES
    }
    for date, process in started.items():
        log = tmp_path / f"{date}.log"
        assert process.wait(timeout=300) == 0, log.read_text()[-3000:]

    first, second = (files_of(HOME / "artifacts" / dag_id / key) for key in DATES.values())
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{d}.log" for d in DATES)


def files_of(folder: Path) -> list[str]:
    """What a run wrote, by name, up to its release: which of two is better, only one can win."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith("release."))
