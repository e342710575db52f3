"""Each request once, whatever came twice, late, in parts or not at all; on the disk as in S3."""

import json
import math
from dataclasses import FrozenInstanceError
from datetime import date
from io import BytesIO

import pandas as pd
import pyarrow.parquet as pq
import pytest

from include import runs, storage
from include.serving import prediction_log
from include.serving.prediction_log import Refused

FIRST, SECOND, THIRD = (date(2026, 1, day) for day in (1, 2, 3))
KINDS = {
    "request_id": "str",
    "at": "datetime64[us, UTC]",
    "customer_id": "int64",
    "version": "str",
    "status": "int64",
    "ms": "float64",
    "score": "float64",
    "arrived": "str",
}


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


def quarantined():
    folder = storage.store() / "a_dag" / "quarantine"
    names = storage.names(folder)
    return {name: json.loads(folder.fs.cat_file((folder / name).path)) for name in names}


def parsed(*lines):
    return prediction_log.parse(text(*lines), "2026-01-01.jsonl", "2026-01-01")


def test_a_line_is_a_row_whose_columns_have_their_kinds():
    found = parsed(
        line(17, at="2026-01-02T01:30:00+02:00", version=3, seconds="0.25", status="200"),
        line("b", score=None),
    )
    assert found.refused == []
    assert found.rows.to_dict("records")[0] == {
        "request_id": "17",
        "at": pd.Timestamp("2026-01-01T23:30:00Z"),
        "customer_id": 7,
        "version": "3",
        "status": 200,
        "ms": 250.0,
        "score": 0.5,
        "arrived": "2026-01-01",
    }
    assert pd.isna(found.rows.score[1])
    for rows in (found.rows, parsed().rows, prediction_log.read([])[list(KINDS)]):
        assert {name: str(kind) for name, kind in rows.dtypes.items()} == KINDS
    assert prediction_log.read([]).columns.tolist() == [*KINDS, "day"]


def test_a_delivery_is_not_changed_after_it_was_read():
    for thing in (parsed(), Refused("a file", 1, "a reason", "a text")):
        with pytest.raises(FrozenInstanceError):
            thing.rows = None


@pytest.mark.parametrize("name", ["key", "status"])
@pytest.mark.parametrize("number", [2**63 - 1, -(2**63) + 1, "9" * 18])
def test_a_number_of_63_bits_is_read(name, number):
    column = {"key": "customer_id", "status": "status"}[name]
    assert parsed(line("a", **{name: number})).rows[column].tolist() == [int(number)]


LONG = "9" * 50


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": 2**63}, f"ValueError: the key {2**63} has more than 63 bits"),
        ({"key": -(2**63)}, f"ValueError: the key {-(2**63)} has more than 63 bits"),
        ({"status": LONG}, f"ValueError: the status {LONG[:40]} has more than 63 bits"),
        ({"status": math.inf}, "OverflowError: cannot convert float infinity to integer"),
        ({"answer": {"scores": [1, 2]}}, "ValueError: has 2 scores, where one is expected"),
        ({"answer": {"scores": []}}, "ValueError: has 0 scores, where one is expected"),
        ({"answer": {"scores": None}}, "ValueError: has 0 scores, where one is expected"),
        ({"answer": {}}, "ValueError: has 0 scores, where one is expected"),
        ({"answer": {"scores": [math.inf]}}, "ValueError: the score is inf, which is no number"),
        (
            {"at": "2026-01-01T10:00:00"},
            "ValueError: '2026-01-01T10:00:00' has no time zone, "
            "so nobody knows of which day it is",
        ),
        (
            {"request_id": "\ud800"},
            "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800' in position 0: "
            "surrogates not allowed",
        ),
        (
            {"version": "a\ud800"},
            "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800' in position 1: "
            "surrogates not allowed",
        ),
        *[({name: ...}, f"KeyError: '{name}'") for name in line("a")],
    ],
)
def test_a_line_that_can_not_be_read_is_refused_with_the_reason(changes, reason):
    told = {name: value for name, value in (line("b") | changes).items() if value is not ...}
    found = parsed(line("a"), told, line("c"))
    assert found.rows["request_id"].tolist() == ["a", "c"]
    assert found.refused == [Refused("2026-01-01.jsonl", 2, reason, json.dumps(told))]


def test_a_byte_that_is_no_utf8_spoils_only_its_line():
    content = text(line("a")).encode() + b'{"asked": "\xff"}\n' + text(line("c")).encode()
    storage.write_to(storage.store() / "a_dag" / "delivered" / "2026-01-01.jsonl", content)
    assert take_in(FIRST) == {"delivered": 2, "appended": 2, "twice": 0, "late": 0, "refused": 1}
    ((_, kept),) = quarantined().items()
    assert kept["reason"].startswith("UnicodeEncodeError: 'utf-8' codec can't encode")
    assert (kept["line"], kept["text"]) == (2, '{"asked": "\udcff"}')


def test_only_a_line_feed_at_the_very_end_ends_a_delivery():
    assert prediction_log.parse("", "a file", "2026-01-01").refused == []
    both = prediction_log.parse("\n" + text(line("a")) + "\n", "a file", "2026-01-01")
    assert [(each.line, each.text) for each in both.refused] == [(1, ""), (3, "")]
    assert both.rows["request_id"].tolist() == ["a"]
    assert prediction_log.parse(text(line("a"))[:-1], "a file", "2026-01-01").rows.shape[0] == 1


def test_a_refused_line_is_a_file_that_a_person_can_read():
    deliver("2026-01-01.jsonl", {})
    take_in(FIRST)
    name = f"2026-01-01.jsonl-{runs.digest(b'{}')}.json"
    assert list(quarantined()) == [name]
    file = storage.store() / "a_dag" / "quarantine" / name
    assert file.fs.cat_file(file.path).decode() == (
        '{\n  "line": 1,\n  "reason": "KeyError: \'role\'",\n'
        '  "source": "2026-01-01.jsonl",\n  "text": "{}"\n}'
    )


def test_the_files_of_wanted_days_are_read_and_no_others():
    deliver("2026-01-01.jsonl", line("a"))
    deliver("2026-01-01.again.jsonl", line("b"))
    deliver("2026-01-02.jsonl", line("c", SECOND), {})
    deliver("2026-01-03.jsonl", line("d", THIRD), {})
    deliver("2026-01-10.jsonl", line("e"), {})
    came = prediction_log.delivered([FIRST, THIRD])
    assert came.rows["request_id"].tolist() == ["b", "a", "d"]
    assert came.rows["arrived"].tolist() == ["2026-01-01", "2026-01-01", "2026-01-03"]
    assert came.rows.index.tolist() == [0, 1, 2]
    assert [(each.source, each.line) for each in came.refused] == [("2026-01-03.jsonl", 2)]
    folder = storage.store() / "a_dag" / "delivered"
    with pytest.raises(FileNotFoundError) as absent:
        prediction_log.delivered([date(2026, 2, day) for day in (1, 2, 3)])
    assert str(absent.value) == (
        f"{folder} has no delivery of 2026-02-01 to 2026-02-03: is the shipping of logs at work?"
    )


def test_an_empty_delivery_adds_nothing():
    deliver("2026-01-01.jsonl")
    assert take_in(FIRST) == {"delivered": 0, "appended": 0, "twice": 0, "late": 0, "refused": 0}
    assert files() == []


def test_a_file_has_the_rows_of_a_day_by_request_and_the_name_of_these_requests():
    deliver("2026-01-01.jsonl", line("b"), line("c", SECOND), line("a"), line("b"))
    take_in(FIRST)
    log = storage.store() / "a_dag" / "prediction_log"
    found = {f"{day}/{name}" for day in storage.names(log) for name in storage.names(log / day)}
    first = f"day=2026-01-01/{runs.digest(b'a' + bytes([10]) + b'b')}.parquet"
    assert found == {first, f"day=2026-01-02/{runs.digest(b'c')}.parquet"}
    file = BytesIO((log / first).fs.cat_file((log / first).path))
    assert pq.read_schema(file).names == list(KINDS)
    assert pd.read_parquet(file)["request_id"].tolist() == ["a", "b"]


def test_of_what_is_there_only_the_requests_are_looked_at(monkeypatch):
    deliver("2026-01-01.jsonl", line("a"))
    take_in(FIRST)
    read_parquet, asked = pd.read_parquet, []

    def noted(file, columns):
        asked.append(columns)
        return read_parquet(file, columns=columns)

    monkeypatch.setattr(pd, "read_parquet", noted)
    take_in(FIRST)
    assert asked == [["request_id"]]
    asked.clear()
    prediction_log.read([FIRST])
    assert asked == [None]


def test_answers_come_in_the_order_of_their_time_and_then_of_their_requests():
    for request_id in "abcde":  # their files have another order
        deliver("2026-01-01.jsonl", line(request_id))
        take_in(FIRST)
    deliver("2026-01-01.jsonl", line("z", at="2026-01-01T09:59:59Z"))
    take_in(FIRST)
    assert ids(FIRST) == ["z", "a", "b", "c", "d", "e"]
    assert prediction_log.read([FIRST]).index.tolist() == list(range(6))


def test_a_request_of_two_days_is_two_rows():
    deliver("2026-01-01.jsonl", line("a"))
    deliver("2026-01-02.jsonl", line("a", SECOND))
    take_in(FIRST)
    take_in(SECOND)
    rows = prediction_log.read([FIRST, SECOND])
    assert rows[["request_id", "day"]].values.tolist() == [["a", "2026-01-01"], ["a", "2026-01-02"]]
    assert ids(SECOND) == ["a"]


def test_the_newest_day_is_the_last_of_all():
    for day in (SECOND, THIRD, FIRST):
        deliver(f"{day}.jsonl", line("a", day))
        take_in(day)
    assert prediction_log.newest() == THIRD


def test_a_line_that_comes_twice_is_one_row_and_the_first_answer_counts():
    deliver("2026-01-01.jsonl", line("a", score=0.1), line("b"), line("a", score=0.9))
    assert take_in(FIRST) == {"delivered": 3, "appended": 2, "twice": 1, "late": 0, "refused": 0}
    deliver("2026-01-01.more.jsonl", line("a", score=0.9), line("c"))
    assert take_in(FIRST)["appended"] == 1
    rows = prediction_log.read([FIRST]).set_index("request_id")
    assert rows.index.tolist() == ["a", "b", "c"]
    assert rows.score["a"] == 0.1


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
    deliver("2026-01-02.jsonl", line("a"), line("b"))
    more = prediction_log.delivered([SECOND])
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


def test_a_line_ends_with_a_line_feed_and_with_no_other_sign():
    signs = "\u2028\u2029\x85"
    content = json.dumps(line("a") | {"asked": {"note": signs}}, ensure_ascii=False) + "\n"
    storage.write_to(
        storage.store() / "a_dag" / "delivered" / "2026-01-01.jsonl",
        content.encode(),
    )
    counted = {"delivered": 1, "appended": 1, "twice": 0, "late": 0, "refused": 0}
    assert take_in(FIRST) == counted


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
        (json.dumps(line("b", answer={"scores": [math.nan]})), "the score is nan, which is no"),
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


def test_a_delivery_that_comes_again_adds_nothing(anywhere):
    deliver("2026-01-01.jsonl", line("a"), line("b"))
    assert take_in(FIRST) == {"delivered": 2, "appended": 2, "twice": 0, "late": 0, "refused": 0}
    before = files()
    deliver("2026-01-01.again.jsonl", line("a"), line("b"))
    assert take_in(FIRST) == {"delivered": 4, "appended": 0, "twice": 4, "late": 0, "refused": 0}
    assert files() == before
    assert ids(FIRST) == ["a", "b"]


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


def test_two_lines_that_can_not_be_read_are_two_files(anywhere):
    deliver("2026-01-01.jsonl", {"first": 1}, {"second": 2}, {"first": 1})
    assert take_in(FIRST)["refused"] == 3
    folder = storage.store() / "a_dag" / "quarantine"
    kept = [json.loads(folder.fs.cat_file((folder / n).path)) for n in storage.names(folder)]
    assert {each["text"] for each in kept} == {'{"first": 1}', '{"second": 2}'}
    assert len(kept) == 2
