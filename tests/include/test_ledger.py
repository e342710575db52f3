"""What was said stays said, on the disk as in S3."""

from datetime import date

import pytest

from include import ledger, runs


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", tmp_path.as_uri())
    place = runs.Place("a_dag", "20260104T000000", "tell", -1, 1, "")
    monkeypatch.setattr(runs, "here", lambda: place)


@pytest.mark.parametrize("kind", ["disk", "bucket"])
def test_an_entry_is_one_entry_however_often_it_is_noted(kind, request):
    if kind == "bucket":
        request.getfixturevalue("bucket")
    assert ledger.said("told") == {}
    ledger.note("told", ["slow", "gap"], date(2026, 1, 7))
    ledger.note("told", ["slow"], date(2026, 1, 4))
    ledger.note("told", ["slow"], date(2026, 1, 7))
    assert ledger.said("told") == {
        "slow": [date(2026, 1, 4), date(2026, 1, 7)],
        "gap": [date(2026, 1, 7)],
    }
    assert ledger.said("asked") == {}
