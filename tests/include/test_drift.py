"""Drift tests by hand: how sure, how far, and which columns count."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from include.data import churn
from include.evaluation import drift
from include.features.churn import NUMERIC


def frame(**columns):
    return pd.DataFrame(columns)


def one(before, now, kind="numeric"):
    """Compare one column, and give its row."""
    named = {"numeric": [], "categorical": [], kind: ["x"]}
    return drift.columns(frame(x=before), frame(x=now), **named).loc["x"]


def test_the_stability_index_by_hand():
    # Half a row is added to each bin: shares of 1.5/3 and 1.5/3 become 3.5/5 and 1.5/5.
    by_hand = (0.7 - 0.5) * np.log(0.7 / 0.5) + (0.3 - 0.5) * np.log(0.3 / 0.5)
    assert drift.psi([1, 1], [3, 1]) == pytest.approx(by_hand)
    assert drift.psi([3, 1], [1, 1]) == pytest.approx(by_hand)
    assert drift.psi([5, 5], [50, 50]) == pytest.approx(0)
    assert np.isfinite(drift.psi([10, 0], [0, 10]))


def test_numbers_are_counted_in_ten_bins_of_the_reference():
    found = one(range(100), [0] * 10)
    # Each bin holds 10 of 100, so a share of 0.1; now 10.5 of 15 are in the first, 0.5 in others.
    by_hand = (0.7 - 0.1) * np.log(7) + 9 * (1 / 30 - 0.1) * np.log(1 / 3)
    assert found.psi == pytest.approx(by_hand)
    assert one(range(100), [1000] * 10).psi == pytest.approx(by_hand)


def test_bins_of_equal_values_are_one_bin():
    # All deciles are 5: the only cut is there, with one bin up to it and one above.
    found = one([5] * 19 + [7], [5] * 10 + [7] * 10)
    # Shares of 19.5/21 and 1.5/21 become 10.5/21 each.
    by_hand = (9 / 21) * np.log(10.5 / 1.5) + (9 / 21) * np.log(19.5 / 10.5)
    assert found.psi == pytest.approx(by_hand)


def test_a_shifted_bell_has_the_index_that_theory_gives():
    # Between two bells of one width the divergence is the squared shift; ten bins see most of it.
    bell = pd.DataFrame({"x": stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)})
    found = drift.columns(bell, bell + 0.5, ["x"]).loc["x"]
    assert found.psi == pytest.approx(0.25, rel=0.1)
    assert found.wasserstein == pytest.approx(0.5, abs=1e-3)


def test_the_distance_is_in_standard_deviations_of_the_reference():
    assert one([0, 2], [3, 5]).wasserstein == pytest.approx(3)
    assert one([0, 4], [3, 7]).wasserstein == pytest.approx(3 / 2)
    assert one([0, 2, 0, 2], [1, 1]).wasserstein == pytest.approx(1)
    assert one([1, 1], [4, 4]).wasserstein == pytest.approx(3)  # there is no deviation: in units


def test_of_few_rows_the_p_value_is_exact():
    # Of the 6 orders of two and two values 2 part them, and of the 20 of three and three.
    assert one([0, 1], [2, 3]).p == pytest.approx(2 / 6)
    assert one([0, 1, 2], [3, 4, 5]).p == pytest.approx(2 / 20)
    assert one([0, 1], range(2, 12)).p == pytest.approx(2 / 66)


@pytest.mark.parametrize(
    ("rows", "rows_now", "method"),
    [(100, 100, "exact"), (73, 137, "asymp")],
)
def test_the_p_value_is_exact_up_to_ten_thousand_pairs_of_rows(rows, rows_now, method):
    before, now = np.linspace(0, 1, rows), np.linspace(0.1, 1.2, rows_now)
    methods = {each: stats.ks_2samp(before, now, method=each).pvalue for each in ("exact", "asymp")}
    assert one(before, now).p == methods[method]
    assert methods["exact"] != pytest.approx(methods["asymp"], rel=1e-3)


@pytest.mark.parametrize(("rows", "rows_now"), [(1, 500), (500, 1), (1, 1)])
def test_a_single_row_tells_nothing_and_fails_nothing(rows, rows_now):
    found = one(range(rows), range(1000, 1000 + rows_now))
    assert (found.p, found.adjusted_p) == (1, 1)


def test_two_categories_are_compared_by_hand():
    found = one(["a"] * 60 + ["b"] * 40, ["a"] * 40 + ["b"] * 60, "categorical")
    assert found.test == "chi-squared"
    assert found.p == pytest.approx(stats.chi2.sf(4 * 10**2 / 50, df=1))  # 50 are expected of each
    assert np.isnan(found.wasserstein)
    assert found.psi == pytest.approx(2 * (20 / 101) * np.log(60.5 / 40.5))


def test_a_category_that_only_one_side_has_is_counted():
    # 75 and 25 are expected of each side.
    p = stats.chi2.sf(2 * (25**2 / 75 + 25**2 / 25), df=1)
    both, alone = ["a"] * 50 + ["b"] * 50, ["a"] * 100
    assert one(both, alone, "categorical").p == pytest.approx(p, rel=1e-6)
    assert one(alone, both, "categorical").p == pytest.approx(p, rel=1e-6)


def test_categories_of_several_kinds_are_counted():
    found = one(["a", 1, 1.5, None], ["a", 1, 1.5, None], "categorical")
    assert (found.p, found.psi) == (1, 0)


def test_the_share_of_missing_numbers_is_compared_by_hand():
    values = np.arange(100.0)
    before, now = (np.where(values < gaps, np.nan, 200) for gaps in (10, 30))
    before[0], now[0] = np.inf, -np.inf  # an infinite number is missing as well
    table = drift.columns(frame(x=before), frame(x=now), ["x"])
    assert list(table) == ["test", "p", "psi", "wasserstein", "adjusted_p"]
    assert (table.index.name, table.index.tolist()) == ("column", ["x is missing", "x"])
    gaps, there = table.loc["x is missing"], table.loc["x"]
    assert (gaps.test, there.test) == ("chi-squared", "Kolmogorov-Smirnov")
    # 20 gaps are expected on either side, and 80 values.
    assert gaps.p == pytest.approx(stats.chi2.sf(2 * 10**2 / 20 + 2 * 10**2 / 80, df=1))
    assert gaps.psi == pytest.approx(drift.psi([10, 90], [30, 70]))
    assert (there.p, there.wasserstein) == (1, 0)


@pytest.mark.parametrize("flipped", [False, True])
def test_where_all_numbers_of_one_side_are_missing_only_the_gaps_are_compared(flipped):
    frames = [frame(x=[1.0, 2.0, 3.0] * 10), frame(x=[np.nan] * 30)]
    table = drift.columns(*(frames[::-1] if flipped else frames), ["x"])
    assert table.index.tolist() == ["x is missing"]
    assert drift.drifted(table, 0.001) == ["x is missing"]


def test_p_values_are_adjusted_after_benjamini_and_hochberg_and_the_surest_come_first():
    before = frame(same=["a", "b"] * 50, less=["a", "b"] * 50, more=["a", "b"] * 50)
    now = before.assign(
        less=["a"] * 60 + ["b"] * 40, more=["a"] * 66 + ["b"] * 34, same=["a"] * 51 + ["b"] * 49
    )
    table = drift.columns(before, now, [], ["same", "less", "more"])
    assert table.index.tolist() == ["more", "less", "same"]
    more, less, same = table["p"]
    assert table["adjusted_p"].tolist() == pytest.approx([3 * more, 3 / 2 * less, same])
    assert drift.drifted(table, 3 * more) == []  # as rare as the rate is not rarer
    assert drift.drifted(table, 3.01 * more) == ["more"]


def test_columns_that_are_as_sure_stay_in_their_order():
    names = [f"column {number}" for number in range(40)]
    same = pd.DataFrame({name: ["a", "b"] * 50 for name in names})
    now = same.assign(**dict.fromkeys(names[1::2], "a"))
    assert drift.columns(same, now, [], names).index.tolist() == names[1::2] + names[::2]


@pytest.mark.parametrize(
    ("psi", "wasserstein", "counts"),
    [
        (0.25, 0.0, True),
        (0.24, 0.49, False),
        (0.0, 0.5, True),
        (0.25, np.nan, True),
        (0.24, np.nan, False),
    ],
)
def test_either_distance_is_enough_and_the_least_itself_counts(psi, wasserstein, counts):
    table = pd.DataFrame(
        {"adjusted_p": [0.001], "psi": [psi], "wasserstein": [wasserstein]}, index=["x"]
    )
    assert drift.drifted(table, 0.01, least_psi=0.25) == (["x"] if counts else [])
    assert drift.drifted(table, 0.01) == ["x"]  # unless a least is named, everything counts
    assert drift.drifted(table, 0.001, least_psi=0.25) == []


def test_a_category_that_nobody_knew_and_a_column_of_one_value_are_no_fault():
    before = pd.DataFrame({"plan": ["a", "b"] * 500, "land": ["x"] * 1000, "one": [1.0] * 1000})
    now = pd.DataFrame({"plan": ["a", "new"] * 500, "land": ["x"] * 1000, "one": [1.0] * 1000})
    table = drift.columns(before, now, ["one"], ["plan", "land"])
    assert drift.drifted(table, 0.001, least_psi=0.05) == ["plan"]
    assert table.p[["land", "one"]].tolist() == [1, 1]


def test_a_sure_shift_that_is_small_is_left_alone():
    rng = np.random.default_rng(97)
    before, now = (pd.DataFrame({"x": rng.normal(at, 1, 20_000)}) for at in (0, 0.1))
    table = drift.columns(before, now, ["x"])
    assert drift.drifted(table, 0.001) == ["x"]
    assert drift.drifted(table, 0.001, least_psi=0.05) == []


def test_the_errors_are_compared_by_hand():
    rng = np.random.default_rng(97)
    before, now = (pd.DataFrame({"x": rng.normal(size=size)}) for size in (300, 200))
    missed, missed_now = rng.normal(size=300), rng.normal(size=200) + 0.5 * now.x
    table = drift.errors(before, missed, now, missed_now)
    products, products_now = before.x * missed, now.x * missed_now
    of_one, of_other = products.var() / 300, products_now.var() / 200
    freedom = (of_one + of_other) ** 2 / (of_one**2 / 299 + of_other**2 / 199)
    assert table.change["x"] == pytest.approx(products_now.mean() - products.mean())
    statistic = table.change["x"] / np.sqrt(of_one + of_other)
    assert table.p["x"] == pytest.approx(2 * stats.t.sf(statistic, freedom))
    assert drift.drifted(table, 0.01) == ["x"]


def test_the_change_of_an_error_has_the_sign_that_the_error_has_now():
    inputs = frame(x=[1.0, -1.0, 1.0, -1.0])
    table = drift.errors(inputs, [0.1, 0.1, -0.1, -0.1], inputs, [0.3, 0.1, np.inf, None])
    assert (table.index.name, set(table.index)) == ("input", {"x", "overall"})
    assert table.change.to_dict() == pytest.approx({"x": 0.1, "overall": 0.2})
    assert list(table) == ["p", "change", "adjusted_p"]


def test_a_category_that_goes_missing_is_one_more_category():
    before = pd.DataFrame({"plan": ["a"] * 60 + ["b"] * 40})
    now = pd.DataFrame({"plan": ["a"] * 30 + ["b"] * 20 + [None] * 50})
    found = drift.columns(before, now, [], ["plan"]).loc["plan"]
    expected = stats.chi2_contingency([[60, 40, 0], [30, 20, 50]], correction=False).pvalue
    assert found.p == pytest.approx(expected)


def test_integers_with_gaps_of_pandas_own_kind_are_compared():
    before = pd.DataFrame({"calls": pd.array([1, 2, 3, None] * 50, dtype="Int64")})
    table = drift.columns(before, before, ["calls"])
    assert table.p.tolist() == [1.0, 1.0]


def test_numbers_and_gaps_in_a_column_of_objects_are_compared():
    objects = frame(x=pd.Series([1, 2.5, None, pd.NA], dtype=object))
    table = drift.columns(objects, objects, ["x"])
    assert table.index.tolist() == ["x is missing", "x"]
    assert table.p.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("empty", ["reference", "window"])
def test_nothing_to_compare_is_named(empty):
    rows = churn.customers(10)[NUMERIC]
    frames = {"reference": rows, "window": rows} | {empty: rows.head(0)}
    refused = rf"^the {empty} has no rows: nothing can be compared$"
    with pytest.raises(ValueError, match=refused):
        drift.columns(*frames.values(), NUMERIC)
    before, now = ((rows, np.zeros(len(rows))) for rows in frames.values())
    with pytest.raises(ValueError, match=refused):
        drift.errors(*before, *now)


def test_where_no_column_is_named_it_says_so():
    rows = churn.customers(10)
    with pytest.raises(ValueError, match=r"^no column is named: nothing can be compared$"):
        drift.columns(rows, rows, [])


@pytest.mark.parametrize("side", ["reference", "window"])
@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_a_side_on_which_no_label_is_known_is_named(unknown, side):
    rows = churn.customers(10)[NUMERIC]
    missed = {"reference": np.zeros(10), "window": np.zeros(10), side: np.full(10, unknown)}
    refused = rf"^the {side} has no row with a known label: nothing can be compared$"
    with pytest.raises(ValueError, match=refused):
        drift.errors(rows, missed["reference"], rows, missed["window"])


def test_rows_without_a_label_yet_do_not_hide_an_error_that_changed():
    rng = np.random.default_rng(8)
    inputs = pd.DataFrame({"x": rng.normal(size=4000)})
    before, now = rng.normal(size=4000), rng.normal(size=4000) + 0.5
    now[:1000] = np.nan
    table = drift.errors(inputs, before, inputs, now)
    assert drift.drifted(table, 0.01) == ["overall"]
    assert table.change["overall"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "inputs",
    [{"x": np.nan}, {"x": np.inf}, {"x": [np.inf, *range(499)]}, {"x": 1.0}],
    ids=["missing", "infinite", "one infinite", "constant"],
)
def test_inputs_that_tell_nothing_are_no_evidence_and_hide_no_other(inputs):
    rng = np.random.default_rng(8)
    before = pd.DataFrame({"x": rng.normal(size=500), "y": rng.normal(size=500)})
    wrong = rng.normal(size=500)
    table = drift.errors(before, wrong, before.assign(**inputs), wrong + 0.5)
    assert drift.drifted(table, 0.01)[0] == "overall"
    assert table["p"].between(0, 1).all()
    missing = drift.errors(before, wrong, before.assign(x=np.nan), wrong)
    assert missing["p"]["x"] == 1


@pytest.mark.parametrize("wrong", [[0.1], [0.1, np.nan], [0.0, 0.0]])
def test_too_few_or_equal_errors_are_no_evidence(wrong):
    inputs = pd.DataFrame({"x": np.arange(len(wrong), dtype=float)})
    assert drift.errors(inputs, wrong, inputs, wrong)["p"].tolist() == [1, 1]


def p_of_errors(before, now):
    """The p-value of these errors, whatever the input."""
    inputs = [pd.DataFrame({"x": np.zeros(len(wrong))}) for wrong in (before, now)]
    return drift.errors(inputs[0], before, inputs[1], now)["p"]["overall"]


def test_one_error_is_no_evidence_and_two_are():
    assert p_of_errors([0.1], [0.9]) == 1
    assert p_of_errors([0.1, 0.2], [0.9]) == 1
    welch = stats.ttest_ind([0.1, 0.2], [0.8, 0.9], equal_var=False).pvalue
    assert p_of_errors([0.1, 0.2], [0.8, 0.9]) == pytest.approx(welch)


def test_errors_that_are_all_equal_differ_surely_from_others_that_are():
    assert p_of_errors([0.1, 0.1], [0.2, 0.2, 0.2]) == 0
    assert p_of_errors([0.1, 0.1], [0.1, 0.1, 0.1]) == 1


def test_numbers_and_gaps_in_inputs_of_objects_are_compared():
    rng = np.random.default_rng(8)
    numbers = [None if each < 0 else each for each in rng.normal(size=500)]
    objects = frame(x=pd.Series(numbers, dtype=object))
    wrong = rng.normal(size=500)
    assert drift.drifted(drift.errors(objects, wrong, objects, wrong + 0.9), 0.01)
    gaps = frame(x=pd.Series([None, 1.0, pd.NA, 2.0] * 25, dtype=object))
    assert drift.errors(gaps, wrong[:100], gaps, wrong[:100])["p"].tolist() == [1, 1]


def test_numbers_so_large_that_they_have_no_variance_are_no_evidence():
    inputs = frame(x=[1e308, -1e308, 1e300, 1.0] * 25)
    wrong = np.tile([0.5, 9.0, -0.5, 0.1], 25)
    assert drift.errors(inputs, wrong, inputs, wrong)["p"].between(0, 1).all()


@pytest.mark.parametrize("spoilt", [{"x": ["a", "b"]}, {"x": [[1], [2]]}])
def test_what_is_no_number_is_named(spoilt):
    rows = frame(x=[1.0, 2.0])
    expected = r"^the column 'x' holds what is no number: "
    with pytest.raises(ValueError, match=expected):
        drift.columns(rows, frame(**spoilt), ["x"])
    with pytest.raises(ValueError, match=expected):
        drift.errors(rows, [0.1, 0.2], frame(**spoilt), [0.1, 0.2])


def test_a_column_that_is_not_there_is_named():
    rows = frame(x=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"^there is no column 'y': nothing can be compared$"):
        drift.columns(rows, rows, ["y"])


def test_gaps_of_pandas_own_kind_do_not_hide_what_an_input_tells():
    rng = np.random.default_rng(8)
    calls = rng.integers(1, 9, 500).astype(float)
    calls[:50] = np.nan
    of_gaps = pd.array(calls, dtype="Float64").astype("Int64")
    inputs = pd.DataFrame({"calls": of_gaps, "hours": rng.normal(size=500)})
    wrong = rng.normal(size=500)
    table = drift.errors(inputs, wrong, inputs, wrong + 0.5)
    assert table["p"]["calls"] < 1e-6
