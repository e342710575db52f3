"""Pipelines for two dates at the same time: both green, and nothing of one in the other."""

from datetime import UTC, datetime

import pytest

from include import runs
from include.tools import environment
from tests.conftest import HOME
from tests.harness import BRIEFLY

# What is live is one thing; the scheduler lets these runs follow one another (`tests/scheduler`).
IN_TURN = {"97_05_04_model_rollback"}
DAGS = sorted({path.stem for path in environment.DAGS.glob("97_*.py")} - IN_TURN)
STORE = HOME / "two-dates"  # what other tests count is not among it
DATES = [datetime(2027, 3, day, tzinfo=UTC) for day in (7, 14)]


def written(dag_id: str, when: datetime) -> list[str]:
    """What a run wrote, up to its release: which of two models is the better, only one can be."""
    folder = STORE / dag_id / runs.key(when, "")
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if not path.parts[0].startswith("release."))


@pytest.mark.slow
@pytest.mark.parametrize("dag_id", DAGS)
def test_two_dates_at_once_are_green_and_do_not_mix(
    dag_id, dagbag, mlflow_server, warehouse_file, landing_zone, lead_to_platforms, monkeypatch
):
    from tests.dags import apart

    lead_to_platforms(dag_id)
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", mlflow_server.connection)
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", STORE.as_uri())
    begun = [apart.begin(dag_id, BRIEFLY.get(dag_id, {}), when) for when in DATES]
    for process in begun:
        process.join()
    assert [process.exitcode for process in begun] == [0, 0]
    first, second = (written(dag_id, when) for when in DATES)
    assert first == second
    assert first
