"""Measures, tests and explanations, against scikit-learn's own and against ones done by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from statsmodels.stats.contingency_tables import mcnemar

from include.data.churn import customers
from include.evaluation import (
    binary,
    bootstrap,
    comparison,
    explanation,
    folds,
    page,
    plots,
    slices,
)
from include.features.churn import CATEGORICAL, NUMERIC, preprocessor


@pytest.fixture(scope="module")
def scored():
    """Labels and scores with many ties, as a small tree would give them."""
    rng = np.random.default_rng(97)
    labels = rng.integers(0, 2, 400)
    return labels, (rng.random(400) * 0.7 + 0.3 * labels).round(1)


@pytest.fixture(scope="module")
def fitted():
    rows = customers(1500)
    model = make_pipeline(preprocessor(), LogisticRegression(max_iter=1000))
    return model.fit(rows.head(1000), rows.churned.head(1000)), rows.head(1000), rows.tail(500)


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
    assert set(drawn[:, labels == 1].sum(axis=1)) == {labels.sum()}
    assert set(drawn.sum(axis=1)) == {400}
    assert np.array_equal(drawn, bootstrap.counts(labels, 50, seed=1))


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(97)
    held = 0
    for seed in range(100):
        chance = rng.random(300)
        labels = (rng.random(300) < chance).astype(int)
        low, high = bootstrap.intervals(labels, chance, 0.5, 200, seed)["roc_auc"]
        held += low <= 5 / 6 <= high  # the AUC of a score that is the chance itself
    assert 87 <= held <= 100


def test_the_threshold_is_the_one_that_costs_least_by_hand():
    labels, scores = [0, 1, 0, 1], [0.1, 0.3, 0.5, 0.9]
    # A miss as dear as an alarm: at 0.9 one leaver is missed, at 0.3 one alarm is false.
    assert binary.cheapest(labels, scores, miss_costs=3) == 0.3
    assert binary.cheapest(labels, scores, miss_costs=0.5) == 0.9
    assert binary.cheapest([0, 0], [0.2, 0.4], miss_costs=3) > 0.4
    assert binary.cost([1, 1, 0, 0], [True, False, True, False], miss_costs=3) == 1.0


def test_of_scores_that_mean_what_they_say_the_threshold_follows_from_the_costs():
    rng = np.random.default_rng(97)
    chance = rng.random(20_000)
    labels = (rng.random(20_000) < chance).astype(int)
    assert binary.cheapest(labels, chance, miss_costs=4) == pytest.approx(1 / 5, abs=0.03)


def test_calibration_is_scikit_learns_and_knows_how_many_rows_it_rests_on():
    rng = np.random.default_rng(97)
    scores = rng.random(500)
    labels = (rng.random(500) < scores**2).astype(int)
    table = binary.calibration(labels, scores, groups=5)
    true, said = calibration_curve(labels, scores, n_bins=5, strategy="quantile")
    assert table["true"].tolist() == pytest.approx(true.tolist())
    assert table["said"].tolist() == pytest.approx(said.tolist())
    assert table["rows"].tolist() == [100] * 5


def test_the_gain_in_auc_by_hand():
    labels = [1, 1, 0, 0, 0]
    one, other = [0.9, 0.4, 0.5, 0.2, 0.1], [0.5, 0.5, 0.5, 0.6, 0.4]
    # The first leaver beats 3 of 3, the second 2 of 3; the others beat 1 and tie with 1 each.
    found = comparison.auc_gain(labels, one, other)
    assert found.gain == pytest.approx(5 / 6 - 1 / 2)
    assert found.gain == pytest.approx(
        metrics.roc_auc_score(labels, one) - metrics.roc_auc_score(labels, other)
    )
    by_leaver = np.var([1 - 0.5, 2 / 3 - 0.5], ddof=1) / 2
    by_stayer = np.var([0.5 - 0.5, 1 - 0, 1 - 1], ddof=1) / 3
    assert found.high - found.gain == pytest.approx(1.959964 * np.sqrt(by_leaver + by_stayer))


def test_luck_is_called_a_gain_about_as_often_as_the_level_says():
    rng = np.random.default_rng(97)
    alarms = 0
    for _ in range(200):
        labels, seen = rng.integers(0, 2, 200), rng.normal(size=200)
        one, other = (labels + seen + rng.normal(size=200) for _ in range(2))
        alarms += comparison.auc_gain(labels, one, other).p < 0.05
    assert 2 <= alarms <= 20


def test_a_model_gains_nothing_on_itself():
    labels, scores = [1, 0, 1, 0], [0.9, 0.2, 0.4, 0.5]
    assert comparison.auc_gain(labels, scores, scores) == (0, 0, 0, 1)
    assert comparison.decisions_p(labels, labels, labels) == 1


def test_decisions_are_compared_as_statsmodels_does(scored):
    labels, scores = scored
    one, other = scores >= 0.5, scores >= 0.7
    right, others_right = one == labels, other == labels
    table = [
        [np.sum(right & others_right), np.sum(right & ~others_right)],
        [np.sum(~right & others_right), np.sum(~right & ~others_right)],
    ]
    expected = mcnemar(table, exact=True).pvalue
    assert comparison.decisions_p(labels, one, other) == pytest.approx(expected)


def test_the_interval_of_folds_by_hand_does_not_shrink_to_nothing():
    # Deviation 0.1, a quarter judged for each learned: error 0.1 * sqrt(1/2 + 1/4), t = 12.7062.
    low, high = comparison.mean_of_folds([0.7, 0.7 + 0.1 * np.sqrt(2)], 1 / 4)
    assert (high - low) / 2 == pytest.approx(12.7062 * 0.1 * np.sqrt(0.75), rel=1e-4)
    few, many = ([0.7, 0.8] * times for times in (5, 500))
    widths = [np.ptp(comparison.mean_of_folds(each, 1 / 4)) for each in (few, many)]
    assert widths[1] > 0.6 * widths[0]


def test_no_row_is_scored_by_a_model_that_has_met_it(fitted):
    model, rows, _ = fitted
    scores, measured = folds.cross_validated(model, rows, "churned", folds=3, repeats=2, seed=97)
    assert measured[["repeat", "fold"]].value_counts().tolist() == [1] * 6
    first = measured[measured.repeat == 0].roc_auc.mean()
    assert metrics.roc_auc_score(rows.churned, scores.repeat_0) == pytest.approx(first, abs=0.01)
    assert not np.isclose(scores.repeat_0, scores.repeat_1).any()
    # A recipe that learns its rows by heart is right on those only that it has met.
    from sklearn.neighbors import KNeighborsClassifier

    parrot = make_pipeline(preprocessor(), KNeighborsClassifier(1))
    _, of_parrot = folds.cross_validated(parrot, rows, "churned", folds=3, repeats=1, seed=97)
    assert of_parrot.roc_auc.max() < 0.7


def test_a_part_with_one_label_only_has_no_auc():
    rows = pd.DataFrame({
        "plan": ["a", "a", "b", "b"],
        "left": [0, 1, 0, 0],
        "score": [0.1, 0.9, 0.3, 0.4],
    })
    table = slices.table(rows, ["plan"], "left", "score").set_index("part")
    assert table.auc["a"] == 1
    assert np.isnan(table.auc["b"])
    assert table.rows.tolist() == [2, 2]


def test_rates_of_two_groups_by_hand():
    part = pd.Series(["a"] * 4 + ["b"] * 4)
    labels = [1, 1, 0, 0] * 2
    decided = [True, True, True, False, True, False, False, False]
    rates = slices.rates_by(part, labels, decided)
    assert rates["a"] == {"of all": 0.75, "of true": 1.0, "of false": 0.5}
    assert rates["b"] == {"of all": 0.25, "of true": 0.5, "of false": 0.0}
    assert rates["widest gap"] == {"of all": 0.5, "of true": 0.5, "of false": 0.5}


def test_what_moved_an_answer_adds_up_to_it_and_is_what_the_weights_say(fitted):
    model, background, rows = fitted
    moved = explanation.moved(model, background, rows)
    assert list(moved) == [*NUMERIC, *CATEGORICAL, "base"]
    answered = logit(model.predict_proba(rows)[:, 1])
    assert moved.sum(axis=1).tolist() == pytest.approx(answered.tolist())
    deviation = background.usage_hours.std(ddof=0)
    weight = model[-1].coef_[0][NUMERIC.index("usage_hours")]
    by_hand = weight * (rows.usage_hours - background.usage_hours.mean()) / deviation
    assert moved.usage_hours.tolist() == pytest.approx(by_hand.tolist())


def test_a_column_that_says_nothing_is_worth_nothing(fitted):
    model, _, rows = fitted
    worth = explanation.worth(model, rows[NUMERIC + CATEGORICAL], rows.churned, 3, seed=97)
    assert abs(worth.auc_lost["region"]) < 0.01
    assert worth.auc_lost["tenure_months"] > 0.03


def test_a_page_holds_its_pictures_and_escapes_what_it_is_given(scored):
    labels, scores = scored
    pictures = plots.judged(labels, {"one": scores}, 0.5)
    assert list(pictures) == ["roc", "precision_recall", "calibration", "confusion"]
    table = pd.DataFrame({"name": ["<script>"], "share": [1 / 3]})
    parts = {"A & B": table, "picture": pictures["roc"], "words": "1 < 2"}
    whole = page.html("<T>", "lead", parts)
    assert "<script>" not in whole
    assert "&lt;T&gt;" in whole
    assert "A &amp; B" in whole
    assert "0.333" in whole
    assert whole.count('src="data:image/png;base64,iVBOR') == 1
    assert "http" not in whole
    assert whole == page.html("<T>", "lead", parts)


@pytest.mark.parametrize(
    "measure",
    [
        binary.report,
        binary.calibration,
        lambda labels, scores: binary.cheapest(labels, scores, 5),
        lambda labels, scores: binary.cost(labels, scores, 5),
        lambda labels, scores: bootstrap.intervals(labels, scores, 0.5, 10, seed=1),
    ],
)
def test_rows_without_a_label_or_a_score_are_refused_and_counted(measure):
    labels, scores = [0, 1, 0, 1], [0.1, 0.9, 0.4, 0.6]
    measure(labels, scores)
    with pytest.raises(ValueError, match="2 of 4 rows have no label"):
        measure([0, np.nan, np.nan, 1], scores)
    with pytest.raises(ValueError, match="1 of 4 rows have no score"):
        measure(labels, [0.1, np.nan, 0.4, 0.6])
    with pytest.raises(ValueError, match="no rows to judge by"):
        measure([], [])


def test_rows_without_a_part_are_a_part_of_their_own():
    rows = pd.DataFrame({
        "plan": ["a", "a", None, None, None, None],
        "label": [0, 1, 0, 1, 1, 0],
        "score": [0.1, 0.9, 0.9, 0.1, 0.2, 0.8],
    })
    assert slices.auc_by(rows["plan"], rows["label"], rows["score"]) == {
        "a": 1.0,
        slices.MISSING: 0.0,
    }
    table = slices.table(rows, ["plan"], "label", "score").set_index("part")
    assert table["rows"].to_dict() == {"a": 2, slices.MISSING: 4}
    rates = slices.rates_by(rows["plan"], rows["label"], rows["score"] > 0.5)
    assert rates[slices.MISSING]["of true"] == 0.0
    assert rates["widest gap"]["of true"] == 1.0


def test_intervals_take_no_more_memory_for_more_resamples(scored, monkeypatch):
    whole = bootstrap.intervals(*scored, 0.5, 300, seed=3)
    held = []
    counts = bootstrap.counts

    def noting(labels, resamples, rng):
        held.append(resamples * len(labels))
        return counts(labels, resamples, rng)

    monkeypatch.setattr(bootstrap, "MOST_COUNTS", 50 * len(scored[0]))
    monkeypatch.setattr(bootstrap, "counts", noting)
    parts = bootstrap.intervals(*scored, 0.5, 300, seed=3)
    assert held == [50 * len(scored[0])] * 6
    for name, (low, high) in whole.items():
        assert parts[name] == pytest.approx((low, high), abs=0.02)
