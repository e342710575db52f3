"""Splits and joins name the rows that could not be placed."""

from datetime import timedelta

import pandas as pd
import pytest

from include.data import splits
from include.features import point_in_time

WAIT = timedelta(days=1)
ROWS = pd.DataFrame({
    "row": range(6),
    "at": pd.to_datetime(["2026-01-01", None, "2026-01-03", None, "2026-01-05", "2026-01-06"]),
    "account": ["a", "b", None, "c", "d", "e"],
})
FACTS = pd.DataFrame({
    "account": ["a", None],
    "event_at": pd.to_datetime(["2026-01-01"] * 2),
    "known_at": pd.to_datetime(["2026-01-02"] * 2),
})


def test_rows_without_a_time_or_a_group_are_on_neither_side_of_a_split():
    with pytest.raises(ValueError, match="2 of 6 rows have no at to split by"):
        splits.by_time(ROWS, "at", 0.5, WAIT)
    with pytest.raises(ValueError, match="1 of 6 rows have no account to split by"):
        splits.by_group(ROWS, "account", 0.5, seed=1)


@pytest.mark.parametrize(
    "view", [point_in_time.newest, lambda *facts: point_in_time.running_count(*facts, "number")]
)
def test_facts_about_nobody_are_joined_to_nobody(view):
    with pytest.raises(ValueError, match="1 rows have no account to join by"):
        view(FACTS, "account")


def test_rows_about_nobody_are_told_nothing():
    known = point_in_time.newest(FACTS.dropna(), "account")
    with pytest.raises(ValueError, match="1 rows have no account to join by"):
        point_in_time.join(ROWS.dropna(subset="at"), known, "account")
