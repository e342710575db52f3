"""A run keeps its name when it is started again, and no two runs share one."""

import time
from dataclasses import FrozenInstanceError
from datetime import UTC, date, datetime, timedelta, timezone
from hashlib import sha256
from types import SimpleNamespace

import pytest
from airflow.sdk.definitions.param import ParamsDict

from include import runs

MIDNIGHT = datetime(2026, 1, 4, tzinfo=UTC)


@pytest.fixture
def in_tokyo(monkeypatch):
    """Have this process in a time zone that is not UTC."""
    with monkeypatch.context() as moved:
        moved.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def task(monkeypatch):
    """Stand in for a running task; the arguments change its context."""

    def stand(ti=(), **context):
        told = {"dag_id": "a_dag", "task_id": "train", "run_id": "manual__1", "map_index": None}
        instance = SimpleNamespace(**{**told, "try_number": 2, **dict(ti)})
        known = {"ti": instance, "logical_date": MIDNIGHT, "params": {}, **context}
        monkeypatch.setattr(runs, "get_current_context", lambda: known)

    stand()
    return stand


def twelve(text):
    """The digest that runs are told apart by, computed apart from the code under test."""
    return sha256(text.encode()).hexdigest()[:12]


def test_the_key_of_a_dated_run_is_its_logical_date_whatever_its_run_id():
    assert runs.key(MIDNIGHT, "scheduled__1") == "20260104T000000"
    assert runs.key(MIDNIGHT, "manual__2") == "20260104T000000"


def test_the_key_of_a_date_is_in_utc_wherever_the_date_or_the_process_is(in_tokyo):
    east = datetime(2026, 1, 4, 1, tzinfo=timezone(timedelta(hours=2)))
    assert runs.key(east, "") == "20260103T230000"
    assert runs.key(MIDNIGHT, "") == "20260104T000000"


def test_dates_that_differ_by_a_microsecond_have_different_keys():
    dates = [MIDNIGHT + timedelta(microseconds=each) for each in (0, 1, 250, 250_000)]
    assert [runs.key(each, "") for each in dates] == [
        "20260104T000000",
        "20260104T000000000001",
        "20260104T000000000250",
        "20260104T000000250000",
    ]


def test_the_key_of_a_run_without_a_date_is_its_run_id_with_a_digest():
    run_id = "manual__2026-01-04T00:00:00+00:00"
    assert runs.key(None, run_id) == f"manual-2026-01-04T00-00-00-00-00-{twelve(run_id)}"
    assert runs.key(None, "__X/b__") == f"X-b-{twelve('__X/b__')}"


def test_run_ids_that_look_alike_in_a_path_have_different_keys():
    alike = ["a/b", "a:b", "a__b", "_a_b_", "x" * 90, "x" * 91, "é", "ü", ""]
    assert len({runs.key(None, each) for each in alike}) == len(alike)


def test_a_key_is_short_and_safe_in_a_path_however_long_the_run_id_is():
    assert runs.key(None, "x" * 300) == "x" * 80 + "-" + twelve("x" * 300)
    assert runs.key(None, "../" * 3) == "-" + twelve("../" * 3)


def test_a_digest_has_twelve_digits_and_differs_for_other_data():
    assert runs.digest(b"data") == twelve("data")
    assert runs.digest(b"data") != runs.digest(b"date")


def test_a_task_knows_where_it_stands(task):
    assert runs.here() == runs.Place(
        dag_id="a_dag",
        key="20260104T000000",
        task_id="train",
        map_index=-1,
        try_number=2,
        settings=twelve("{}"),
    )


@pytest.mark.parametrize(("given", "index"), [(None, -1), (-1, -1), (0, 0), (3, 3)])
def test_a_task_that_is_not_mapped_has_the_index_minus_one(task, given, index):
    task(ti={"map_index": given})
    assert runs.here().map_index == index


def test_a_run_without_a_logical_date_is_named_after_its_run_id(task):
    task(logical_date=None)
    assert runs.here().key == f"manual-1-{twelve('manual__1')}"
    del runs.get_current_context()["logical_date"]
    assert runs.here().key == f"manual-1-{twelve('manual__1')}"


def test_a_place_does_not_change(task):
    with pytest.raises(FrozenInstanceError):
        runs.here().key = "another"


def test_equal_params_are_equal_settings_in_any_order(task):
    task(params=ParamsDict({"trees": 20, "depth": 6}))
    one = runs.here().settings
    task(params={"depth": 6, "trees": 20})
    assert runs.here().settings == one == twelve('{"depth": 6, "trees": 20}')


def test_other_params_are_other_settings(task):
    seen = set()
    params = [{}, {"trees": 20}, {"trees": 21}, {"depth": 20}, {"day": date(2026, 1, 4)}]
    for each in [*params, {"day": date(2026, 1, 5)}]:
        task(params=each)
        seen.add(runs.here().settings)
    assert len(seen) == 6
