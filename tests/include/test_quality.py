"""Broken expectations are told all at once, with the rows that break them."""

import logging

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
    first, age, plan = str(broken.value).splitlines()
    assert first == "2 of 3 expectations on people are broken:"
    assert age == "- age: expect_column_values_to_be_between(min_value=0.0) fails for row 18, 19"
    assert plan == (
        "- plan: expect_column_values_to_be_in_set(value_set=['a', 'b']) fails for row 19"
    )


def refused(*agreed, rows=ROWS, row_id="row"):
    with pytest.raises(quality.BrokenExpectations) as broken:
        quality.check(rows, agreed, row_id, source="people")
    (_, line) = str(broken.value).splitlines()
    return line


def test_great_expectations_logs_warnings_alone():
    quality.expectations()
    for name in ("great_expectations", "great_expectations.data_context.types.base"):
        assert logging.getLogger(name).level == logging.WARNING


def test_a_column_that_is_not_there_is_told_with_those_that_are():
    expect = quality.expectations()
    assert refused(expect.ExpectColumnValuesToNotBeNull(column="height")) == (
        "- height: there is no such column; there are row, age, plan"
    )


@pytest.mark.parametrize(
    ("below", "told"),
    [
        (1, "10"),
        (5, "10, 11, 12, 13, 14"),
        (6, "10, 11, 12, 13, 14 and 1 more"),
        (8, "10, 11, 12, 13, 14 and 3 more"),
    ],
)
def test_five_broken_rows_are_named_and_more_are_counted(below, told):
    expect = quality.expectations()
    rows = ROWS.assign(age=[30] * below + [-1] * (10 - below))
    line = refused(expect.ExpectColumnValuesToBeBetween(column="age", max_value=0), rows=rows)
    assert line == f"- age: expect_column_values_to_be_between(max_value=0.0) fails for row {told}"


def test_rows_without_an_id_are_named_by_their_place():
    expectation = quality.expectations().ExpectColumnValuesToBeBetween(column="age", min_value=0)
    line = refused(expectation, rows=ROWS.drop(columns="row"), row_id="row")
    assert line.endswith(" fails for row 8, 9")
    expectation = quality.expectations().ExpectColumnValuesToBeBetween(column="age", max_value=0)
    line = refused(expectation, rows=ROWS.drop(columns="row"), row_id="row")
    assert line.endswith(" fails for row 0, 1, 2, 3, 4 and 3 more")


def test_an_expectation_of_the_whole_table_is_told_with_what_was_found():
    expect = quality.expectations()
    assert refused(expect.ExpectTableRowCountToBeBetween(min_value=100)) == (
        "- the table: expect_table_row_count_to_be_between(min_value=100), found 10"
    )


def test_all_terms_and_all_reasons_are_told():
    expectation = quality.expectations().ExpectColumnValueZScoresToBeLessThan(
        column="plan", threshold=1, double_sided=True
    )
    assert refused(expectation) == (
        "- plan: expect_column_value_z_scores_to_be_less_than(threshold=1.0, double_sided=True) "
        "could not be checked: Cannot perform reduction 'mean' with string dtype; "
        "Cannot perform reduction 'std' with string dtype"
    )


def test_one_exception_is_told_and_equal_ones_once():
    assert quality._exceptions({"exception_message": "one"}) == ["one"]
    several = {name: {"exception_message": name.strip("12")} for name in ("b", "a1", "a2")}
    assert quality._exceptions(several | {"c": {"exception_message": None}}) == ["a", "b"]


def test_an_expectation_without_terms_is_told_without_brackets():
    rows = ROWS.assign(row=[10, *range(10, 19)])
    expect = quality.expectations()
    assert refused(expect.ExpectColumnValuesToBeUnique(column="row"), rows=rows) == (
        "- row: expect_column_values_to_be_unique fails for row 10, 10"
    )


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


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("ExpectColumnMeanToBeBetween", ROWS.iloc[:0]),
        ("ExpectColumnMedianToBeBetween", ROWS.assign(row=float("nan"))),
    ],
)
def test_a_measure_of_no_values_says_that_there_are_none(kind, rows):
    line = refused(getattr(quality.expectations(), kind)(column="row", min_value=0), rows=rows)
    assert line.endswith(", found no value to look at")
