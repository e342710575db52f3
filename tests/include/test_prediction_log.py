"""Each request once, whatever came twice, late, in parts or not at all; on the disk as in S3."""

import json
from datetime import date

import pandas as pd
import pytest

from include import runs, storage
from include.serving import prediction_log

FIRST, SECOND, THIRD = (date(2026, 1, day) for day in (1, 2, 3))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", tmp_path.as_uri())
    place = runs.Place("a_dag", "20260104T000000", "append", -1, 1, "")
    monkeypatch.setattr(runs, "here", lambda: place)


@pytest.fixture(params=["disk", "bucket"])
def anywhere(request):
    if request.param == "bucket":
        request.getfixturevalue("bucket")


def line(request_id, day=FIRST, score=0.5, **other):
    answer = {"predictions": [1], "scores": [score]}
    told = {"request_id": request_id, "at": f"{day}T10:00:00+00:00", "key": "7", "version": "1"}
    return told | {"role": "live", "status": 200, "seconds": 0.01, "answer": answer} | other


def text(*lines):
    return "".join(json.dumps(each) + "\n" for each in lines)


def deliver(name, *lines):
    folder = storage.store() / "a_dag" / "delivered"
    storage.write_to(folder / name, text(*lines).encode())


def take_in(*days):
    return prediction_log.append(prediction_log.delivered(days))


def ids(*days):
    return prediction_log.read(days)["request_id"].tolist()


def files():
    log = storage.store() / "a_dag" / "prediction_log"
    return [name for day in storage.names(log) for name in storage.names(log / day)]


def test_a_delivery_that_comes_again_adds_nothing(anywhere):
    deliver("2026-01-01.jsonl", line("a"), line("b"))
    assert take_in(FIRST) == {"delivered": 2, "appended": 2, "twice": 0, "late": 0, "refused": 0}
    before = files()
    deliver("2026-01-01.again.jsonl", line("a"), line("b"))
    assert take_in(FIRST) == {"delivered": 4, "appended": 0, "twice": 4, "late": 0, "refused": 0}
    assert files() == before
    assert ids(FIRST) == ["a", "b"]


def test_a_line_that_comes_twice_is_one_row_and_the_first_answer_counts():
    deliver("2026-01-01.jsonl", line("a", score=0.1), line("b"), line("a", score=0.9))
    assert take_in(FIRST) == {"delivered": 3, "appended": 2, "twice": 1, "late": 0, "refused": 0}
    deliver("2026-01-01.more.jsonl", line("a", score=0.9), line("c"))
    assert take_in(FIRST)["appended"] == 1
    rows = prediction_log.read([FIRST]).set_index("request_id")
    assert rows.index.tolist() == ["a", "b", "c"]
    assert rows.score["a"] == 0.1


def test_a_late_line_comes_to_the_day_on_which_it_was_answered(anywhere):
    deliver("2026-01-01.jsonl", line("a"))
    take_in(FIRST)
    deliver("2026-01-02.jsonl", line("b", SECOND), line("late", FIRST))
    assert take_in(FIRST, SECOND) == {
        "delivered": 3,
        "appended": 2,
        "twice": 1,
        "late": 1,
        "refused": 0,
    }
    assert ids(FIRST) == ["a", "late"]
    assert ids(SECOND) == ["b"]
    rows = prediction_log.read([FIRST, SECOND])
    assert rows[rows.arrived > rows.day].request_id.tolist() == ["late"]


def test_a_missing_day_is_empty_until_it_comes(anywhere):
    deliver("2026-01-01.jsonl", line("a"))
    deliver("2026-01-03.jsonl", line("c", THIRD))
    take_in(FIRST, SECOND, THIRD)
    assert ids(SECOND) == []
    assert ids(FIRST, SECOND, THIRD) == ["a", "c"]
    assert prediction_log.newest() == THIRD
    deliver("2026-01-02.jsonl", line("b", SECOND))
    assert take_in(FIRST, SECOND, THIRD)["appended"] == 1
    assert ids(FIRST, SECOND, THIRD) == ["a", "b", "c"]


def test_before_anything_came_the_log_is_empty_and_no_delivery_is_a_fault():
    assert prediction_log.newest() is None
    assert prediction_log.read([FIRST]).empty
    with pytest.raises(FileNotFoundError, match="no delivery of 2026-01-01 to 2026-01-02"):
        prediction_log.delivered([FIRST, SECOND])


def test_killed_between_two_days_the_next_try_adds_the_rest(monkeypatch):
    deliver("2026-01-01.jsonl", line("a"), line("b"))
    deliver("2026-01-02.jsonl", line("c", SECOND))
    write_to = storage.write_to

    def dies_at_the_second(target, content):
        if files():
            raise ConnectionError("the worker is gone")
        return write_to(target, content)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_to", dies_at_the_second)
        with pytest.raises(ConnectionError):
            take_in(FIRST, SECOND)
    assert ids(FIRST, SECOND) == ["a", "b"]
    assert take_in(FIRST, SECOND)["appended"] == 1
    assert ids(FIRST, SECOND) == ["a", "b", "c"]
    assert len(files()) == 2


def test_two_runs_that_bring_a_line_at_the_same_moment_are_read_as_one(monkeypatch):
    deliver("2026-01-01.jsonl", line("a"))
    came = prediction_log.delivered([FIRST])
    deliver("2026-01-01.jsonl", line("a"), line("b"))
    more = prediction_log.delivered([FIRST])
    with monkeypatch.context() as patch:
        patch.setattr(prediction_log, "_ids", lambda day: set())  # neither sees the other yet
        prediction_log.append(came)
        prediction_log.append(more)
    assert len(files()) == 2
    assert ids(FIRST) == ["a", "b"]


def test_an_error_is_a_row_without_a_score_and_a_shadow_is_none():
    deliver(
        "2026-01-01.jsonl",
        line("failed", status=503, version="none", answer=None),
        line("mirrored", role="shadow"),
    )
    assert take_in(FIRST)["appended"] == 1
    (row,) = prediction_log.read([FIRST]).to_dict("records")
    assert (row["request_id"], row["status"], row["version"]) == ("failed", 503, "none")
    assert pd.isna(row["score"])
    assert (row["ms"], row["customer_id"], row["day"]) == (10.0, 7, "2026-01-01")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ('{"request_id": "b"', "JSONDecodeError"),
        ("{}", "KeyError: 'role'"),
        ("[]", "TypeError"),
        (json.dumps(line("b", at="yesterday")), "Invalid isoformat string: 'yesterday'"),
        (json.dumps(line("b", at="2026-01-01T10:00:00")), "has no time zone"),
        (json.dumps(line("b", status="well")), "invalid literal for int"),
        (json.dumps(line("b", key="a name")), "invalid literal for int"),
        (json.dumps(line("b", key="9" * 30)), "has more than 63 bits"),
        (json.dumps(line("b", key="9" * 5000)), "ValueError"),
        (json.dumps(line("b", status=10**30)), "has more than 63 bits"),
        (json.dumps(line("b", answer={"scores": [1, 2]})), "has 2 scores"),
        (json.dumps(line("b", answer={"predictions": [1]})), "has 0 scores"),
        ("[" * 100_000, "RecursionError"),
    ],
)
def test_a_line_that_can_not_be_read_is_kept_with_the_reason_and_the_rest_is_taken(broken, says):
    content = (text(line("a")) + broken + "\n" + text(line("c"))).encode()
    storage.write_to(storage.store() / "a_dag" / "delivered" / "2026-01-01.jsonl", content)
    expected = {"delivered": 2, "appended": 2, "twice": 0, "late": 0, "refused": 1}
    assert take_in(FIRST) == expected
    assert ids(FIRST) == ["a", "c"]
    assert take_in(FIRST)["refused"] == 1
    folder = storage.store() / "a_dag" / "quarantine"
    (name,) = storage.names(folder)
    kept = json.loads(folder.fs.cat_file((folder / name).path))
    assert (kept["source"], kept["line"], kept["text"]) == ("2026-01-01.jsonl", 2, broken)
    assert says in kept["reason"]
