"""Broken expectations are told all at once, with the rows that break them."""

import pandas as pd
import pytest

from include.data import quality

ROWS = pd.DataFrame({"row": range(10, 20), "age": [30] * 8 + [-1, -2], "plan": ["a"] * 9 + ["z"]})


def check(*agreed):
    quality.check(ROWS, agreed, "row", source="people")


def test_what_holds_is_passed_in_silence(capfd):
    expect = quality.expectations()
    check(expect.ExpectColumnValuesToBeUnique(column="row"))
    assert capfd.readouterr() == ("", "")


def test_every_broken_expectation_is_told_with_its_rows():
    expect = quality.expectations()
    with pytest.raises(quality.BrokenExpectations) as broken:
        check(
            expect.ExpectColumnValuesToBeBetween(column="age", min_value=0),
            expect.ExpectColumnValuesToBeInSet(column="plan", value_set=["a", "b"]),
            expect.ExpectColumnValuesToBeUnique(column="row"),
        )
    text = str(broken.value)
    assert text.startswith("2 of 3 expectations on people are broken:")
    assert "age: expect_column_values_to_be_between(min_value=0.0) fails for row 18, 19" in text
    assert "plan: expect_column_values_to_be_in_set" in text
    assert "fails for row 19" in text


def test_a_column_that_is_not_there_is_told_too():
    expect = quality.expectations()
    with pytest.raises(quality.BrokenExpectations, match="no such column; there are row, age"):
        check(expect.ExpectColumnValuesToNotBeNull(column="height"))


def test_many_rows_are_counted_and_five_of_them_named():
    expect = quality.expectations()
    with pytest.raises(quality.BrokenExpectations, match="fails for row 10, 11, 12, 13, 14 and 3 "):
        check(expect.ExpectColumnValuesToBeBetween(column="age", max_value=0))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("ExpectColumnValuesToBeBetween", "of the same type"),
        ("ExpectColumnMeanToBeBetween", "reduction 'mean'"),
    ],
)
def test_what_can_not_be_checked_is_told_with_the_reason(kind, reason):
    expectation = getattr(quality.expectations(), kind)
    with pytest.raises(quality.BrokenExpectations) as broken:
        check(expectation(column="plan", min_value=0, max_value=1))
    (_, line) = str(broken.value).splitlines()
    assert line.startswith("- plan: expect_column_")
    assert reason in line.partition(" could not be checked: ")[2]
