"""Each long proof fails on a pipeline that breaks its promise, and says what was there."""

import textwrap

import pytest

from tests.conftest import SHARED
from tests.prove.cases import Case
from tests.prove.claims import CLAIMS
from tests.prove.world import Pipeline, opened

pytestmark = pytest.mark.slow

FRAME = """
    import hashlib, json, os, socket
    from datetime import datetime, timedelta
    from pathlib import Path

    from airflow.sdk import dag, get_current_context, task

    DAG_ID = Path(__file__).stem
    STORE = Path(os.environ["AIRFLOW_VAR_ARTIFACT_STORE"].removeprefix("file://")) / DAG_ID


    def write(name, text):
        key = get_current_context()["logical_date"].strftime("%Y%m%dT%H%M%S")
        file = STORE / key / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return f"{file}#sha256={hashlib.sha256(text.encode()).hexdigest()}"


    @dag(
        dag_id=DAG_ID,
        start_date=datetime(2026, 1, 4),
        schedule=None,
        max_active_runs=1,
        default_args={"retries": 2, "retry_delay": timedelta(0)},
    )
    def pipeline():
        @task
        def work() -> str:
            BODY

        work()


    pipeline()
"""
WHOLE = 'return write("result.txt", "the same")'
BODIES = {
    "keeps_its_promises": WHOLE,
    "fails": 'raise ValueError("no customer has a fee")',
    # Each run counts in a file that all share.
    "mixes_dates": """
            STORE.mkdir(parents=True, exist_ok=True)
            with (STORE / "count").open("a") as shared:
                shared.write("x")
            return write(f"result-{len((STORE / 'count').read_text())}.txt", "the same")
    """,
    # A second try adds to what the first one wrote.
    "doubles_when_killed": """
            seen = STORE / "tries" / get_current_context()["logical_date"].strftime("%d")
            seen.parent.mkdir(parents=True, exist_ok=True)
            with seen.open("a") as tries:
                tries.write("a row")
            return write("result.txt", seen.read_text())
    """,
    "calls_home": """
            with socket.socket() as caller:
                caller.settimeout(1)
                caller.connect_ex(("192.0.2.1", 80))
            return write("result.txt", "the same")
    """,
}
BROKEN = {
    "fails": ("green as a copy at two dates at once", "no customer has a fee"),
    "mixes_dates": ("unmixed", "files that only one of two dates has"),
    "doubles_when_killed": ("same end when killed", "artifacts that differ between the dates"),
    "calls_home": ("no network", "192.0.2.1"),
}


def pipeline(name):
    """A DAG with one task, whose body is one of those above."""
    body = textwrap.indent(textwrap.dedent(BODIES[name]).strip(), " " * 8).strip()
    text = textwrap.dedent(FRAME).replace("BODY", body)

    def write(project):
        (project / "dags").mkdir(exist_ok=True)
        (project / "dags" / f"{name}.py").write_text(text)

    return Pipeline(name, Case("work"), write)


@pytest.fixture(scope="module")
def world():
    with opened(SHARED / "proofs", [pipeline(name) for name in BODIES]) as started:
        yield started


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_pipeline_that_keeps_its_promises_is_proved(world, claim):
    CLAIMS[claim](world, "keeps_its_promises")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_fails_its_proof(world, name):
    claim, message = BROKEN[name]
    with pytest.raises(AssertionError, match=message.replace(".", r"\.")):
        CLAIMS[claim](world, name)
