"""Intervals from resampling: the measures of each resample, and how wide the intervals are."""

import numpy as np
import pytest
from sklearn import metrics

from include.evaluation import binary, bootstrap

NAMES = ["roc_auc", "average_precision", "f1", "precision", "recall", "brier"]


@pytest.fixture(scope="module")
def scored():
    """Labels and scores with many ties, as a small tree would give them."""
    rng = np.random.default_rng(97)
    labels = rng.integers(0, 2, 400)
    return labels, (rng.random(400) * 0.7 + 0.3 * labels).round(1)


def test_the_measures_of_a_resample_by_hand():
    labels, scores = [1, 1, 0, 0], [0.9, 0.4, 0.6, 0.1]
    weights = np.array([[1, 1, 1, 1], [0, 2, 2, 0], [2, 0, 1, 1]])
    found = bootstrap.measures(labels, scores, 0.6, weights)
    assert list(found) == NAMES
    assert found["roc_auc"].tolist() == [3 / 4, 0, 1]
    assert found["average_precision"].tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 2, 1])
    assert found["precision"].tolist() == pytest.approx([1 / 2, 0, 2 / 3])
    assert found["recall"].tolist() == [1 / 2, 0, 1]
    assert found["f1"].tolist() == pytest.approx([1 / 2, 0, 4 / 5])
    squares = [0.1**2, 0.6**2, 0.6**2, 0.1**2]
    assert found["brier"].tolist() == pytest.approx([
        sum(squares) / 4,
        0.36,
        (2 * 0.01 + 0.36 + 0.01) / 4,
    ])


def test_a_tie_counts_half_in_the_auc():
    found = bootstrap.measures([1, 0, 0], [0.5, 0.5, 0.1], 0.5, np.array([[1, 1, 1]]))
    assert found["roc_auc"].tolist() == [3 / 4]
    assert found["precision"].tolist() == [1 / 2]


def test_a_single_yes_has_its_precision_and_no_yes_has_none():
    for threshold, precision in ((0.9, 1), (0.95, 0)):
        found = bootstrap.measures([1, 0], [0.9, 0.1], threshold, np.array([[1, 1]]))
        assert (found["precision"], found["recall"], found["f1"]) == (precision,) * 3


def test_every_row_once_gives_the_measures_of_scikit_learn(scored):
    labels, scores = scored
    for threshold in (0.0, 0.5, 0.6, 2.0):
        given = bootstrap.measures(labels, scores, threshold, np.ones((1, 400), dtype=int))
        expected = binary.report(labels, scores, threshold)
        assert {name: value[0] for name, value in given.items()} == pytest.approx(expected)


def test_a_resample_is_what_scikit_learn_calls_a_sample_weight(scored):
    labels, scores = scored
    drawn = bootstrap.counts(labels, 3, seed=1)
    given = bootstrap.measures(labels, scores, 0.5, drawn)
    for row, weights in enumerate(drawn):
        weighted = {"sample_weight": weights}
        expected = {
            "roc_auc": metrics.roc_auc_score(labels, scores, **weighted),
            "average_precision": metrics.average_precision_score(labels, scores, **weighted),
            "f1": metrics.f1_score(labels, scores >= 0.5, **weighted),
            "precision": metrics.precision_score(labels, scores >= 0.5, **weighted),
            "recall": metrics.recall_score(labels, scores >= 0.5, **weighted),
            "brier": metrics.brier_score_loss(labels, scores, **weighted),
        }
        assert {name: value[row] for name, value in given.items()} == pytest.approx(expected)


def test_each_resample_draws_as_many_of_each_label_as_there_are(scored):
    labels, _ = scored
    drawn = bootstrap.counts(labels, 50, seed=1)
    assert (drawn.shape, drawn.dtype) == ((50, 400), np.int64)
    assert set(drawn[:, labels == 1].sum(axis=1)) == {labels.sum()}
    assert set(drawn.sum(axis=1)) == {400}
    assert drawn.min() == 0


def test_rows_of_each_label_stand_for_their_own_label_alone():
    labels = np.array(["a", "b", "b", "c", "c", "c"])
    drawn = bootstrap.counts(labels, 20, seed=1)
    for label, rows in (("a", 1), ("b", 2), ("c", 3)):
        assert set(drawn[:, labels == label].sum(axis=1)) == {rows}


def test_each_row_is_drawn_as_often_as_any_other():
    often = bootstrap.counts([1, 1, 1, 0, 0], 10_000, seed=1).mean(axis=0)
    assert often.tolist() == pytest.approx([1] * 5, abs=0.03)


def test_a_seed_says_what_is_drawn(scored):
    labels, _ = scored
    once, again, other = (bootstrap.counts(labels, 50, seed) for seed in (1, 1, 2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
    once, again, other = (bootstrap.intervals(*scored, 0.5, 20, seed) for seed in (1, 1, 2))
    assert once == again != other


@pytest.mark.parametrize(("level", "reach"), [(0.95, 1.960), (0.8, 1.282)])
def test_an_interval_leaves_half_of_what_is_left_on_either_side(level, reach):
    labels = np.r_[np.ones(400), np.zeros(400)]
    scores = np.tile([0.9, 0.1], 400)  # of 400 positives 200 are found
    spread = bootstrap.intervals(labels, scores, 0.5, 4000, seed=1, level=level)
    # The recall of a resample is the share of heads in 400 tosses: deviation 0.025.
    assert spread["recall"] == pytest.approx((0.5 - reach * 0.025, 0.5 + reach * 0.025), abs=0.004)


def test_an_interval_is_at_95_percent_unless_another_level_is_given(scored):
    given, usual = (
        bootstrap.intervals(*scored, 0.5, 200, seed=1, **level) for level in ({"level": 0.95}, {})
    )
    assert usual == given
    assert list(usual) == NAMES


@pytest.mark.parametrize(
    ("most", "resamples", "drawn"),
    [
        (50 * 400, 120, [50, 50, 20]),
        (50 * 400 + 399, 100, [50, 50]),
        (3, 2, [1, 1]),  # fewer than one resample takes
        (bootstrap.MOST_COUNTS, 120, [120]),
    ],
)
def test_no_more_counts_are_held_at_once_than_allowed(scored, monkeypatch, most, resamples, drawn):
    held = []
    counts = bootstrap.counts

    def noting(labels, resamples, rng):
        held.append(resamples)
        return counts(labels, resamples, rng)

    monkeypatch.setattr(bootstrap, "MOST_COUNTS", most)
    monkeypatch.setattr(bootstrap, "counts", noting)
    bootstrap.intervals(*scored, 0.5, resamples, seed=3)
    assert held == drawn


def test_parts_give_the_intervals_of_the_whole(scored, monkeypatch):
    whole = bootstrap.intervals(*scored, 0.5, 300, seed=3)
    monkeypatch.setattr(bootstrap, "MOST_COUNTS", 50 * len(scored[0]))
    parts = bootstrap.intervals(*scored, 0.5, 300, seed=3)
    for name, (low, high) in whole.items():
        assert parts[name] == pytest.approx((low, high), abs=0.02)


def test_the_counts_that_are_held_at_once_take_32_mib():
    assert bootstrap.MOST_COUNTS * np.dtype(np.int64).itemsize == 32 * 1024**2


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(97)
    held = 0
    for seed in range(100):
        chance = rng.random(300)
        labels = (rng.random(300) < chance).astype(int)
        low, high = bootstrap.intervals(labels, chance, 0.5, 200, seed)["roc_auc"]
        held += low <= 5 / 6 <= high  # the AUC of a score that is the chance itself
    assert 87 <= held <= 100
