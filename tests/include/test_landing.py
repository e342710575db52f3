"""The landing folder: files in the senders' manners, whole or not there at all."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from include.data import landing, payments

DISPUTES = pd.DataFrame({
    "account": [243, 186],
    "event_at": pd.to_datetime(["2026-01-02 04:20:16", "2026-01-01 15:25:59"]),
    "known_at": pd.to_datetime(["2026-01-05 02:22:23", "2026-01-05 07:13:09"]),
})
RATINGS = pd.DataFrame({
    "account": [348, 93],
    "event_at": pd.to_datetime(["2025-12-01", "2026-01-01"]),
    "known_at": pd.to_datetime(["2025-12-04 00:14", "2026-01-31 23:59"]),
    "rating": [592.6, 600.0],
})


@pytest.fixture
def data(monkeypatch):
    """Two disputes and two ratings in place of many."""
    monkeypatch.setattr(payments, "stream", lambda: (None, DISPUTES))
    monkeypatch.setattr(
        payments, "ratings", lambda disputes: RATINGS if disputes is DISPUTES else 0
    )


def test_disputes_are_logged_one_object_a_line():
    log = landing.as_log(DISPUTES)
    assert [json.loads(line) for line in log.splitlines()] == [
        {
            "account": 243,
            "paid_at": "2026-01-02T04:20:16",
            "received_at": "2026-01-05T02:22:23",
        },
        {
            "account": 186,
            "paid_at": "2026-01-01T15:25:59",
            "received_at": "2026-01-05T07:13:09",
        },
    ]


def test_ratings_come_as_a_spreadsheet_writes_them():
    assert landing.as_table(RATINGS).splitlines() == [
        "Account;Month;Published;Score",
        "348;12.2025;04.12.2025 00:14;592,6",
        "93;01.2026;31.01.2026 23:59;600,0",
    ]


def test_the_files_are_delivered_once(tmp_path, data):
    folder = tmp_path / "below" / "landing"
    assert landing.create(folder) is True
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "disputes.jsonl": landing.as_log(DISPUTES),
        "ratings.csv": landing.as_table(RATINGS),
    }
    assert landing.create(folder) is False


@pytest.mark.parametrize("lost", ["disputes.jsonl", "ratings.csv"])
def test_only_a_file_that_is_not_there_is_delivered(tmp_path, data, lost):
    landing.create(tmp_path)
    (tmp_path / lost).unlink()
    (kept,) = tmp_path.iterdir()
    kept.write_text("as it was")
    assert landing.create(tmp_path) is True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disputes.jsonl", "ratings.csv"]
    assert kept.read_text() == "as it was"


def test_a_file_that_could_not_be_written_whole_is_not_there(tmp_path, data, monkeypatch):
    seen = []

    def broken(self, content, encoding=None):
        seen.append((self.name, encoding))
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_text", broken)
    with pytest.raises(OSError, match="the disk is full"):
        landing.create(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert seen == [(f".disputes.jsonl.{os.getpid()}.part", "utf-8")]
