"""Two models on the same rows: the tests by hand, and as others take them."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics
from statsmodels.stats.contingency_tables import mcnemar

from include.evaluation import comparison

LABELS = [1, 1, 0, 0, 0]
ONE, OTHER = [0.9, 0.4, 0.5, 0.2, 0.1], [0.5, 0.5, 0.5, 0.6, 0.4]


def test_the_gain_in_auc_by_hand():
    # The first leaver beats 3 of 3, the second 2 of 3; the others beat 1 and tie with 1 each.
    found = comparison.auc_gain(LABELS, ONE, OTHER)
    assert found.gain == pytest.approx(5 / 6 - 1 / 2)
    assert found.gain == pytest.approx(
        metrics.roc_auc_score(LABELS, ONE) - metrics.roc_auc_score(LABELS, OTHER)
    )
    by_leaver = np.var([1 - 0.5, 2 / 3 - 0.5], ddof=1) / 2
    by_stayer = np.var([0.5 - 0.5, 1 - 0, 1 - 1], ddof=1) / 3
    error = np.sqrt(by_leaver + by_stayer)
    assert found.high - found.gain == pytest.approx(1.959964 * error)
    assert found.gain - found.low == pytest.approx(1.959964 * error)
    assert found.p == pytest.approx(2 * norm.sf(found.gain / error))


def test_the_gain_of_the_other_model_is_the_same_with_the_sign_turned():
    found, turned = comparison.auc_gain(LABELS, ONE, OTHER), comparison.auc_gain(LABELS, OTHER, ONE)
    assert turned == pytest.approx((-found.gain, -found.high, -found.low, found.p))


def test_a_model_gains_nothing_on_itself():
    labels, scores = [1, 0, 1, 0], [0.9, 0.2, 0.4, 0.5]
    assert comparison.auc_gain(labels, scores, scores) == (0, 0, 0, 1)
    assert comparison.decisions_p(labels, labels, labels) == 1


def test_a_gain_that_is_the_same_on_every_row_is_certain():
    right, undecided = [0.9, 0.8, 0.2, 0.1], [0.5] * 4
    assert comparison.auc_gain([1, 1, 0, 0], right, undecided) == (0.5, 0.5, 0.5, 0)
    assert comparison.auc_gain([1, 1, 0, 0], undecided, right) == (-0.5, -0.5, -0.5, 0)


def test_decisions_are_compared_where_they_differ_and_two_sided_by_hand():
    labels = [1] * 6
    # The one is right alone on four rows, the other on one; on the last row both are.
    one, other = [1, 1, 1, 1, 0, 1], [0, 0, 0, 0, 1, 1]
    by_hand = 2 * (5 + 1) / 2**5  # 4 or 5 heads of 5, or as few
    assert comparison.decisions_p(labels, one, other) == pytest.approx(by_hand)
    assert comparison.decisions_p(labels, other, one) == pytest.approx(by_hand)
    assert comparison.decisions_p([1], [1], [0]) == 1  # one toss says nothing


def test_decisions_are_compared_as_statsmodels_does():
    rng = np.random.default_rng(97)
    labels, scores = rng.integers(0, 2, 400), rng.random(400)
    one, other = scores >= 0.5, scores >= 0.7
    right, others_right = one == labels, other == labels
    table = [
        [np.sum(right & others_right), np.sum(right & ~others_right)],
        [np.sum(~right & others_right), np.sum(~right & ~others_right)],
    ]
    expected = mcnemar(table, exact=True).pvalue
    assert comparison.decisions_p(labels, one, other) == pytest.approx(expected)


def test_a_rival_is_compared_by_ranking_decisions_and_costs():
    labels = [1, 1, 0, 0, 0]
    ours, theirs = [0.9, 0.8, 0.3, 0.2, 0.1], [0.9, 0.55, 0.6, 0.2, 0.1]
    found = comparison.against(labels, ours, theirs, threshold=0.6, miss_costs=3)
    assert list(found) == ["gain", "low", "high", "p", "decisions_p", "cost", "its_cost"]
    assert found["gain"] == pytest.approx(1 - 5 / 6)
    assert (found["cost"], found["its_cost"]) == (0, (3 + 1) / 5)
    assert found["decisions_p"] == 2 * 0.5**2  # both decisions that differ are right here
    assert comparison.against(labels, ours, theirs, 0.9, 3)["cost"] == 3 / 5  # 0.9 is enough


def test_the_interval_of_folds_by_hand_does_not_shrink_to_nothing():
    # Deviation 0.1, a quarter judged for each learned: error 0.1 * sqrt(1/2 + 1/4), t = 12.7062.
    low, high = comparison.mean_of_folds([0.7, 0.7 + 0.1 * np.sqrt(2)], 1 / 4)
    assert (high - low) / 2 == pytest.approx(12.7062 * 0.1 * np.sqrt(0.75), rel=1e-4)
    assert (high + low) / 2 == pytest.approx(0.7 + 0.05 * np.sqrt(2))
    few, many = ([0.7, 0.8] * times for times in (5, 500))
    widths = [np.ptp(comparison.mean_of_folds(each, 1 / 4)) for each in (few, many)]
    assert widths[1] > 0.6 * widths[0]


def test_luck_is_called_a_gain_about_as_often_as_the_level_says():
    rng = np.random.default_rng(97)
    alarms = 0
    for _ in range(200):
        labels, seen = rng.integers(0, 2, 200), rng.normal(size=200)
        one, other = (labels + seen + rng.normal(size=200) for _ in range(2))
        alarms += comparison.auc_gain(labels, one, other).p < 0.05
    assert 2 <= alarms <= 20
