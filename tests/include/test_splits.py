"""Splits by hand: who is on which side, what crosses, and what is refused."""

from dataclasses import FrozenInstanceError
from datetime import timedelta

import pandas as pd
import pytest

from include.data import splits

DAY = timedelta(days=1)
COLUMNS = splits.Columns("row", "at", "account", "fraud")


def table(*days, **other):
    """Rows of these days of January, in this order."""
    at = pd.to_datetime([None if day is None else f"2026-01-{day:02}" for day in days])
    return pd.DataFrame({"row": range(len(days)), "at": at, **other})


def rows_of(part):
    return part["row"].tolist()


def test_a_random_split_puts_each_row_on_one_side_and_a_share_on_the_second():
    rows = table(*range(1, 21))
    train, validation = splits.at_random(rows, 0.2, seed=1)
    assert (len(train), len(validation)) == (16, 4)
    assert sorted(rows_of(train) + rows_of(validation)) == list(range(20))
    assert validation.equals(splits.at_random(rows, 0.2, seed=1)[1])
    assert not validation.equals(splits.at_random(rows, 0.2, seed=2)[1])


@pytest.mark.parametrize("seed", range(5))
def test_a_stratified_split_has_the_same_share_of_each_label_on_both_sides(seed):
    rows = table(*range(1, 31), fraud=[1, 0, 0, 0, 0] * 6)
    train, validation = splits.stratified(rows, "fraud", 1 / 3, seed)
    assert (train["fraud"].sum(), len(train)) == (4, 20)
    assert (validation["fraud"].sum(), len(validation)) == (2, 10)
    assert sorted(rows_of(train) + rows_of(validation)) == list(range(30))
    assert validation.equals(splits.stratified(rows, "fraud", 1 / 3, seed)[1])
    assert not validation.equals(splits.stratified(rows, "fraud", 1 / 3, seed + 1)[1])


def test_a_split_by_time_leaves_out_rows_whose_label_may_not_be_known_at_the_cut():
    rows = table(8, 1, 7, 2, 6, 3, 5, 4)
    train, validation = splits.by_time(rows, "at", share=0.25, wait=2 * DAY)
    assert validation["at"].dt.day.tolist() == [8, 7]
    # What is of the 5th is known on the 7th, just at the cut; the 6th is on neither side.
    assert train["at"].dt.day.tolist() == [1, 2, 3, 5, 4]
    train, validation = splits.by_time(rows, "at", share=0.5, wait=0 * DAY)
    assert sorted(validation["at"].dt.day) == [5, 6, 7, 8]
    assert sorted(train["at"].dt.day) == [1, 2, 3, 4, 5]


def test_a_share_that_is_no_whole_number_of_rows_is_rounded_up():
    _, validation = splits.by_time(table(*range(1, 9)), "at", share=0.3, wait=DAY)
    assert validation["at"].dt.day.tolist() == [6, 7, 8]


def test_rows_of_one_moment_stay_together():
    train, validation = splits.by_time(table(1, 2, 3, 3, 3, 3), "at", 0.25, DAY)
    assert rows_of(validation) == [2, 3, 4, 5]
    assert rows_of(train) == [0, 1]


def test_a_split_by_group_parts_no_group():
    rows = table(*range(1, 21), account=["a", "b", "c", "d"] * 5)
    train, validation = splits.by_group(rows, "account", 0.5, seed=1)
    assert (train["account"].nunique(), validation["account"].nunique()) == (2, 2)
    assert sorted(rows_of(train) + rows_of(validation)) == list(range(20))
    assert validation.equals(splits.by_group(rows, "account", 0.5, seed=1)[1])
    drawn = [
        splits.by_group(rows, "account", 0.25, seed)[1]["account"].iloc[0] for seed in range(9)
    ]
    assert len(set(drawn)) > 1


def test_rows_without_a_time_or_a_group_are_refused_and_counted():
    rows = table(1, None, 3, None, account=["a", None, "b", "c"])
    with pytest.raises(ValueError, match=r"^2 of 4 rows have no at to split by$"):
        splits.by_time(rows, "at", 0.5, DAY)
    with pytest.raises(ValueError, match=r"^1 of 4 rows have no account to split by$"):
        splits.by_group(rows, "account", 0.5, seed=1)


def crossing(train, validation, wait=DAY):
    return splits.crossings(train, validation, COLUMNS, wait)


def test_what_crosses_is_told_by_id_content_time_and_group():
    train = table(1, 2, 7, 4, account=["a", "b", "c", "d"], fraud=[0, 0, 0, 0], amount=[1, 2, 3, 4])
    validation = table(8, 9, account=["e", "b"], fraud=[0, 1], amount=[3, 2]).assign(row=[8, 3])
    assert crossing(train, validation) == {"id": [3], "duplicate": [], "future": [], "group": [1]}
    # Of the 7th it is known on the 8th whether it was fraud, just before the first of validation.
    assert crossing(train, validation, 2 * DAY)["future"] == [2]
    assert crossing(train, validation, 7 * DAY)["future"] == [1, 2, 3]


def test_a_row_with_another_id_and_label_is_a_duplicate_if_all_else_is_equal():
    train = table(1, 2, 3, account=["a", "a", "a"], fraud=[0, 0, 0], amount=[1, 1, 2])
    validation = table(2, 3, account=["a", "a"], fraud=[1, 1], amount=[1, 1]).assign(row=[8, 9])
    assert crossing(train, validation)["duplicate"] == [1]


def test_the_roles_of_columns_can_not_be_changed():
    with pytest.raises(FrozenInstanceError):
        COLUMNS.at = "paid_at"


def test_what_must_not_cross_is_refused_with_five_rows_of_each_kind():
    found = {"id": [7], "duplicate": [1, 2, 3, 4, 5], "future": [1, 2, 3, 4, 5, 6], "group": []}
    with pytest.raises(splits.LeakyData) as leaky:
        splits.refuse(found, ("id", "duplicate", "future", "group"), "payment_id")
    assert str(leaky.value) == (
        "training rows know validation rows by\n"
        "- id: 1 training rows, payment_id 7\n"
        "- duplicate: 5 training rows, payment_id 1, 2, 3, 4, 5\n"
        "- future: 6 training rows, payment_id 1, 2, 3, 4, 5 and more"
    )
    splits.refuse(found, ("group",), "payment_id")
    with pytest.raises(splits.LeakyData, match="future: 6"):
        splits.refuse(found, ("future", "group"), "payment_id")
