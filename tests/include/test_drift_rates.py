"""Drift tests on seeded streams: as quiet as they were told to be, and blind to nothing planted."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from statsmodels.stats.multitest import multipletests

from include.data import churn, live
from include.evaluation import drift
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


def test_many_tests_are_adjusted_as_statsmodels_does(tests):
    table, _, _ = tests("usage", 300)
    expected = multipletests(table.p, method="fdr_bh")[1]
    assert table.adjusted_p.tolist() == pytest.approx(expected.tolist())


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


def test_numbers_that_become_infinite_are_found_as_missing():
    before, now = churn.customers(2000), churn.customers(2000, seed=1)
    now[NUMERIC[0]] = now[NUMERIC[0]].astype(float)
    now.loc[now.index[:200], NUMERIC[0]] = np.inf
    table = drift.columns(before, now, NUMERIC)
    assert drift.drifted(table, 0.01) == [f"{NUMERIC[0]} is missing"]
    assert np.isfinite(table["psi"]).all()
