"""Cross-validation by hand: who has met which rows, and what is measured of whom."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from include.evaluation import binary, folds

ROWS = pd.DataFrame(
    {"number": range(100, 124), "left": [1, 0, 0] * 8}, index=[f"row {n}" for n in range(24)]
)


class Parrot(ClassifierMixin, BaseEstimator):
    """Knows the rows that it has met by heart, and gives others the share of ones it has met."""

    def fit(self, rows, labels):
        """Learn them."""
        self.classes_ = [0, 1]
        self.met_ = dict(zip(rows["number"], labels, strict=True))
        return self

    def predict_proba(self, rows):
        """Say 9 of a row that was met; of another how many were met in sum, as a share of 100."""
        known = [9.0 if number in self.met_ else len(self.met_) / 100 for number in rows["number"]]
        return np.c_[1 - np.array(known), known]


class Ranker(Parrot):
    """Scores a row by its number and by the numbers that it has met."""

    def predict_proba(self, rows):
        """Give no two models the same scores."""
        score = rows["number"].to_numpy() / 200 + sum(self.met_) / 1e6
        return np.c_[1 - score, score]


def test_each_row_is_scored_by_the_models_that_have_not_met_it():
    recipe = Parrot()
    scores, measured = folds.cross_validated(recipe, ROWS, "left", folds=3, repeats=2, seed=97)
    assert list(scores) == ["left", "repeat_0", "repeat_1"]
    assert scores["left"].equals(ROWS["left"])
    assert scores[["repeat_0", "repeat_1"]].to_numpy().tolist() == [[0.16, 0.16]] * 24
    assert scores.dtypes.tolist()[1:] == [float, float]
    assert measured[["repeat", "fold"]].to_numpy().tolist() == [
        *([repeat, fold] for repeat in (0, 1) for fold in (0, 1, 2))
    ]
    assert not hasattr(recipe, "met_")  # the recipe itself learns nothing


def test_a_fold_is_measured_on_its_own_rows_and_each_has_its_share_of_the_labels():
    scores, measured = folds.cross_validated(Ranker(), ROWS, "left", folds=4, repeats=1, seed=97)
    given = scores["repeat_0"] - ROWS["number"] / 200
    of_fold = [rows.index for _, rows in given.round(9).groupby(given.round(9))]
    assert [len(rows) for rows in of_fold] == [6] * 4
    assert [ROWS["left"][rows].sum() for rows in of_fold] == [2] * 4
    expected = [binary.report(ROWS["left"][rows], scores["repeat_0"][rows]) for rows in of_fold]
    found = measured.drop(columns=["repeat", "fold"])
    assert list(found) == list(expected[0])
    in_order = pd.DataFrame(expected).sort_values("brier")
    assert found.sort_values("brier").to_numpy() == pytest.approx(in_order.to_numpy())


def test_folds_are_drawn_anew_for_each_repeat_and_by_the_seed():
    def drawn(seed, repeats=1):
        scores, _ = folds.cross_validated(Ranker(), ROWS, "left", 3, repeats, seed)
        return scores.drop(columns="left").to_numpy().T.tolist()

    first, second = drawn(seed=97, repeats=2)
    assert first != second
    assert [first] == drawn(seed=97)
    assert [second] == drawn(seed=98)
