"""Measures of yes-or-no scores, by hand and as scikit-learn takes them."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve

from include.evaluation import binary, bootstrap, comparison, slices

LABELS, SCORES = [0, 1, 0, 1], [0.1, 0.3, 0.5, 0.9]


def test_the_report_by_hand():
    # Of the 4 pairs of a positive and a negative, 3 are in order.
    assert binary.report(LABELS, SCORES) == pytest.approx({
        "roc_auc": 3 / 4,
        "average_precision": (1 + 2 / 3) / 2,
        "f1": 1 / 2,
        "precision": 1 / 2,
        "recall": 1 / 2,
        "brier": (0.1**2 + 0.7**2 + 0.5**2 + 0.1**2) / 4,
    })


@pytest.mark.parametrize(
    ("threshold", "f1", "precision", "recall"),
    [(0.3, 4 / 5, 2 / 3, 1.0), (0.9, 2 / 3, 1.0, 1 / 2), (0.91, 0.0, 0.0, 0.0)],
)
def test_a_score_on_the_threshold_is_a_yes_and_without_any_yes_the_measures_are_zero(
    threshold, f1, precision, recall
):
    found = binary.report(LABELS, SCORES, threshold)
    assert (found["f1"], found["precision"], found["recall"]) == pytest.approx((
        f1,
        precision,
        recall,
    ))


def test_without_a_positive_only_the_ranking_is_undefined():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = binary.report([0, 0], [0.1, 0.2])
    assert np.isnan(found["roc_auc"])
    assert (found["f1"], found["precision"], found["recall"]) == (0, 0, 0)
    assert ["ROC AUC" in str(each.message) for each in told] == [True, False]
    assert "No positive class" in str(told[1].message)


def test_the_threshold_is_the_one_that_costs_least_by_hand():
    # A miss as dear as an alarm: at 0.9 one leaver is missed, at 0.3 one alarm is false.
    assert binary.cheapest(LABELS, SCORES, miss_costs=3) == 0.3
    assert binary.cheapest(LABELS, SCORES, miss_costs=0.5) == 0.9
    assert binary.cheapest([0, 0], [0.2, 0.4], miss_costs=3) == np.nextafter(0.4, 1)
    assert binary.cheapest([1, 1], [0.2, 0.4], miss_costs=3) == 0.2


def test_of_thresholds_that_cost_the_same_the_lowest_is_taken():
    assert binary.cheapest(LABELS, SCORES, miss_costs=1) == 0.3


def test_rows_with_one_score_are_decided_together():
    # At 0.4 the three negatives are alarms; above it two positives are missed.
    labels, scores = [1, 1, 0, 0, 0, 0], [0.4, 0.4, 0.4, 0.4, 0.4, 0.2]
    assert binary.cheapest(labels, scores, miss_costs=1.6) == 0.4
    assert binary.cheapest(labels, scores, miss_costs=1.4) == np.nextafter(0.4, 1)


def test_a_miss_costs_what_was_given_and_a_false_alarm_costs_one():
    labels = [1, 1, 0, 0, 0]
    assert binary.cost(labels, [True, True, False, False, False], miss_costs=3) == 0
    assert binary.cost(labels, [True, False, False, False, False], miss_costs=3) == 3 / 5
    assert binary.cost(labels, [True, True, True, False, False], miss_costs=3) == 1 / 5
    assert binary.cost(labels, [False, True, True, True, False], miss_costs=3) == (3 + 1 + 1) / 5


def test_of_scores_that_mean_what_they_say_the_threshold_follows_from_the_costs():
    rng = np.random.default_rng(97)
    chance = rng.random(20_000)
    labels = (rng.random(20_000) < chance).astype(int)
    assert binary.cheapest(labels, chance, miss_costs=4) == pytest.approx(1 / 5, abs=0.03)


def test_calibration_of_two_groups_by_hand():
    table = binary.calibration([0, 1, 1, 0, 1, 1], [0.1, 0.6, 0.3, 0.2, 0.3, 0.9], groups=2)
    # The median 0.3 belongs to the lower group, with all rows that have it.
    assert list(table.columns) == ["rows", "said", "true"]
    assert table.index.tolist() == [0, 1]
    assert table["rows"].tolist() == [4, 2]
    assert table["said"].tolist() == pytest.approx([0.9 / 4, 0.75])
    assert table["true"].tolist() == [2 / 4, 1]


def test_groups_that_would_be_equal_are_one():
    table = binary.calibration([0, 1, 0, 1], [0.2, 0.2, 0.2, 0.8], groups=4)
    assert table["rows"].tolist() == [3, 1]


def test_calibration_is_scikit_learns_in_ten_groups_of_one_size():
    rng = np.random.default_rng(97)
    scores = rng.random(500)
    labels = (rng.random(500) < scores**2).astype(int)
    table = binary.calibration(labels, scores)
    true, said = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    assert table["true"].tolist() == pytest.approx(true.tolist())
    assert table["said"].tolist() == pytest.approx(said.tolist())
    assert table["rows"].tolist() == [50] * 10


@pytest.mark.parametrize(
    "measure",
    [
        binary.report,
        binary.calibration,
        lambda labels, scores: binary.cheapest(labels, scores, 5),
        lambda labels, scores: binary.cost(labels, scores, 5),
        lambda labels, scores: bootstrap.intervals(labels, scores, 0.5, 10, seed=1),
        lambda labels, scores: slices.auc_by(pd.Series(["a"] * len(labels)), labels, scores),
        lambda labels, scores: comparison.auc_gain(labels, scores, [0.5] * len(labels)),
        lambda labels, scores: comparison.auc_gain(labels, [0.5] * len(labels), scores),
    ],
)
def test_rows_without_a_label_or_a_score_are_refused_and_counted(measure):
    labels, scores = [0, 1, 0, 1], [0.1, 0.9, 0.4, 0.6]
    measure(labels, scores)
    with pytest.raises(ValueError, match=r"^2 of 4 rows have no label: leave them out$"):
        measure([0, np.nan, np.nan, 1], scores)
    with pytest.raises(ValueError, match=r"^1 of 4 rows have no score: leave them out$"):
        measure(labels, [0.1, np.nan, 0.4, 0.6])
    with pytest.raises(ValueError, match=r"^there are no rows to judge by$"):
        measure([], [])


def test_labels_and_scores_become_arrays_of_numbers():
    labels, scores = binary.judged([True, False], [1, 0])
    assert labels.dtype == scores.dtype == float
    assert (labels.tolist(), scores.tolist()) == ([1, 0], [1, 0])
