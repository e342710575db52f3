"""Drift tests on seeded streams: as quiet as they were told to be, and blind to nothing planted."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from statsmodels.stats.multitest import multipletests

from include.data import churn, live
from include.evaluation import drift, plots
from include.features.churn import CATEGORICAL, NUMERIC, preprocessor

KINDS = ("data", "predictions", "errors")


@pytest.fixture(scope="module")
def tests():
    """All three tests of a window against the model's own training rows and its holdout."""
    rows = churn.customers()
    train, holdout = rows.head(6000), rows.tail(2000)
    model = make_pipeline(preprocessor(), LogisticRegression(max_iter=1000))
    model.fit(train, train.churned)

    def judged(rows, labels):
        scores = model.predict_proba(rows)[:, 1]
        names = model[:-1].get_feature_names_out()
        known = rows.head(len(labels))
        inputs = pd.DataFrame(model[:-1].transform(known), columns=names)
        return pd.DataFrame({"score": scores}), (inputs, labels.to_numpy() - scores[: len(labels)])

    scored, errors = judged(holdout, holdout.churned)

    def of_window(planted, seed):
        came, labels = live.window(planted, seed)
        scored_now, errors_now = judged(came, labels.churned)
        return (
            drift.columns(train, came, NUMERIC, CATEGORICAL),
            drift.columns(scored, scored_now, ["score"]),
            drift.errors(*errors, *errors_now),
        )

    return of_window


@pytest.fixture(scope="module")
def unshifted(tests):
    return [tests("nothing", seed) for seed in range(100)]


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_a_hundred_unshifted_windows_alarm_no_oftener_than_the_set_rate(unshifted, rate):
    # Without any regard to size: the tests alone must keep the rate.
    alarms = sum(
        any(drift.drifted(table, rate / len(KINDS)) for table in window) for window in unshifted
    )
    assert alarms <= stats.binom.ppf(0.99, 100, rate)


def test_what_the_tests_say_of_unshifted_windows_is_spread_as_luck_is(unshifted):
    for number, kind in enumerate(KINDS):
        smallest = [float(window[number].adjusted_p.min()) for window in unshifted]
        assert 20 < sum(p < 0.5 for p in smallest) < 80, kind


def test_no_unshifted_window_alarms_as_the_pipeline_is_set(unshifted):
    assert not [
        names
        for window in unshifted
        for table in window
        if (names := drift.drifted(table, 0.01 / len(KINDS), least_psi=0.05))
    ]


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("column", NUMERIC)
def test_every_shift_of_half_a_deviation_is_found_in_two_thousand_rows(column, sign):
    reference = churn.customers(6000)
    for seed in range(100, 110):
        window = churn.customers(2000, seed)
        window[column] = window[column] + sign * 0.5 * reference[column].std()
        table = drift.columns(reference, window, NUMERIC, CATEGORICAL)
        assert drift.drifted(table, 0.01 / len(KINDS), least_psi=0.05) == [column]
        assert table.wasserstein[column] == pytest.approx(0.5, abs=0.1)


def test_every_shift_of_a_category_by_half_a_deviation_is_found():
    reference = churn.customers(6000)
    share = (reference.plan == "monthly").mean()
    moving = 0.5 * np.sqrt(share * (1 - share)) / share
    for seed in range(100, 110):
        window = churn.customers(2000, seed)
        moves = (window.plan == "monthly") & (np.random.default_rng(seed).random(2000) < moving)
        window["plan"] = window.plan.mask(moves, "family")
        table = drift.columns(reference, window, NUMERIC, CATEGORICAL)
        assert drift.drifted(table, 0.01 / len(KINDS), least_psi=0.05) == ["plan"]


@pytest.mark.parametrize(
    ("planted", "moved", "answers"),
    [
        ("usage", ["usage_hours"], [["score"]]),
        ("plans", ["plan"], [[], ["score"]]),  # they move by about the least that counts
        ("meaning", [], [[]]),
    ],
)
def test_what_was_planted_is_found_each_time_and_by_the_right_test(tests, planted, moved, answers):
    errors = []
    for seed in range(200, 210):
        data, predictions, wrong = (
            drift.drifted(each, 0.01 / len(KINDS), least_psi=0.05) for each in tests(planted, seed)
        )
        assert data == moved
        assert predictions in answers
        errors += [wrong] if wrong else []
    if planted == "meaning":
        assert errors == [["scaled__support_calls"]] * 10
    else:  # other customers, and the model is right about them
        assert len(errors) <= stats.binom.ppf(0.999, 10, 0.01 / len(KINDS))


def test_the_stability_index_by_hand():
    # Shares of 0.5 and 0.5 become 0.8 and 0.2 (half a row is added to each of the bins).
    by_hand = (0.8 - 0.5) * np.log(0.8 / 0.5) + (0.2 - 0.5) * np.log(0.2 / 0.5)
    assert drift.psi([50_000, 50_000], [80_000, 20_000]) == pytest.approx(by_hand, abs=1e-4)
    assert drift.psi([5, 5], [50, 50]) == pytest.approx(0)
    assert np.isfinite(drift.psi([10, 0], [0, 10]))


def test_a_shifted_bell_has_the_index_that_theory_gives():
    # Between two bells of one width the divergence is the squared shift; ten bins see most of it.
    bell = pd.DataFrame({"x": stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)})
    found = drift.columns(bell, bell + 0.5, ["x"]).loc["x"]
    assert found.psi == pytest.approx(0.25, rel=0.1)
    assert found.wasserstein == pytest.approx(0.5, abs=1e-3)


def test_two_categories_are_compared_by_hand():
    before = pd.DataFrame({"plan": ["a"] * 60 + ["b"] * 40})
    now = pd.DataFrame({"plan": ["a"] * 40 + ["b"] * 60})
    found = drift.columns(before, now, [], ["plan"]).loc["plan"]
    assert found.p == pytest.approx(stats.chi2.sf(4 * 10**2 / 50, df=1))  # 50 are expected of each


def test_many_tests_are_adjusted_as_statsmodels_does(tests):
    table, _, _ = tests("usage", 300)
    expected = multipletests(table.p, method="fdr_bh")[1]
    assert table.adjusted_p.tolist() == pytest.approx(expected.tolist())


def test_a_category_that_nobody_knew_and_a_column_of_one_value_are_no_fault():
    before = pd.DataFrame({"plan": ["a", "b"] * 500, "land": ["x"] * 1000, "one": [1.0] * 1000})
    now = pd.DataFrame({"plan": ["a", "new"] * 500, "land": ["x"] * 1000, "one": [1.0] * 1000})
    table = drift.columns(before, now, ["one"], ["plan", "land"])
    assert drift.drifted(table, 0.001, least_psi=0.05) == ["plan"]
    assert table.p[["land", "one"]].tolist() == [1, 1]


def test_a_sure_shift_that_is_small_is_left_alone():
    rng = np.random.default_rng(97)
    before, now = (pd.DataFrame({"x": rng.normal(at, 1, 100_000)}) for at in (0, 0.05))
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


def test_the_truth_of_a_window_is_as_planted():
    usual, labels = live.window("nothing", 5)
    more, _ = live.window("usage", 5)
    assert (more.usage_hours - usual.usage_hours).unique() == pytest.approx(live.HALF_A_DEVIATION)
    assert pytest.approx(usual.usage_hours.std() / 2, abs=0.3) == live.HALF_A_DEVIATION
    assert len(labels) == live.ROWS * live.LABELLED_SHARE
    assert live.window("nothing", 5)[1].equals(labels)
    helped, _ = live.window("meaning", 5)
    assert helped.equals(usual)


def test_numbers_are_drawn_as_curves_and_categories_as_bars():
    before, now = churn.customers(200, 1), churn.customers(200, 2)
    curves = plots.shifted(before.usage_hours, now.usage_hours, "usage")
    assert [each.get_text() for each in curves.axes[0].get_legend().get_texts()] == [
        "reference",
        "window",
    ]
    drawn = plots.shifted(before.plan, now.plan, "plan")
    heights = sum(bar.get_height() for bar in drawn.axes[0].patches)
    assert heights == pytest.approx(2)


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_values_that_go_missing_are_found_by_their_share(share):
    reference, window = churn.customers(6000), churn.customers(2000, seed=5)
    gone = np.random.default_rng(5).random(2000) < share
    window["usage_hours"] = window.usage_hours.mask(gone)
    table = drift.columns(reference, window, NUMERIC, CATEGORICAL)
    assert drift.drifted(table, 0.01, least_psi=0.05) == ["usage_hours is missing"]
    if share < 1:
        assert table.p["usage_hours"] > 0.01  # those that are there are as they were


def test_gaps_that_were_always_there_are_no_drift():
    rng = np.random.default_rng(6)
    reference, window = churn.customers(6000), churn.customers(2000, seed=6)
    for frame in (reference, window):
        frame["usage_hours"] = frame.usage_hours.mask(rng.random(len(frame)) < 0.2)
        frame["plan"] = frame.plan.mask(rng.random(len(frame)) < 0.1)
    table = drift.columns(reference, window, NUMERIC, CATEGORICAL)
    assert drift.drifted(table, 0.01, least_psi=0.05) == []
    assert {"usage_hours is missing", "usage_hours"} <= set(table.index)


def test_a_shift_is_found_behind_gaps():
    rng = np.random.default_rng(7)
    reference, window = churn.customers(6000), churn.customers(2000, seed=7)
    window["usage_hours"] = window.usage_hours + 0.5 * reference.usage_hours.std()
    for frame in (reference, window):
        frame["usage_hours"] = frame.usage_hours.mask(rng.random(len(frame)) < 0.2)
    table = drift.columns(reference, window, NUMERIC, CATEGORICAL)
    assert drift.drifted(table, 0.01, least_psi=0.05) == ["usage_hours"]


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


@pytest.mark.parametrize("empty", ["reference", "window"])
def test_nothing_to_compare_is_named(empty):
    rows = churn.customers(100)
    frames = {"reference": rows, "window": rows} | {empty: rows.head(0)}
    with pytest.raises(ValueError, match=f"the {empty} has no rows"):
        drift.columns(frames["reference"], frames["window"], NUMERIC)
    wrong = {name: np.zeros(len(frame)) for name, frame in frames.items()}
    with pytest.raises(ValueError, match=f"the {empty} has no rows"):
        drift.errors(
            frames["reference"][NUMERIC],
            wrong["reference"],
            frames["window"][NUMERIC],
            wrong["window"],
        )


def test_rows_without_a_label_yet_do_not_hide_an_error_that_changed():
    rng = np.random.default_rng(8)
    inputs = pd.DataFrame({"x": rng.normal(size=4000)})
    before, now = rng.normal(size=4000), rng.normal(size=4000) + 0.5
    now[:1000] = np.nan
    table = drift.errors(inputs, before, inputs, now)
    assert drift.drifted(table, 0.01) == ["overall"]
    assert table.change["overall"] == pytest.approx(0.5, abs=0.1)
