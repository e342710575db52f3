"""What a model looks at: by shuffling, and by what each column moved."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from include.data.churn import customers
from include.evaluation import explanation
from include.features.churn import CATEGORICAL, NUMERIC, preprocessor


@pytest.fixture(scope="module")
def fitted():
    rows = customers(600)
    model = make_pipeline(preprocessor(), LogisticRegression(max_iter=1000))
    return model.fit(rows.head(400), rows.churned.head(400)), rows.head(400), rows.tail(200)


def test_what_moved_an_answer_adds_up_to_it_and_is_what_the_weights_say(fitted):
    model, background, rows = fitted
    moved = explanation.moved(model, background, rows)
    assert list(moved) == [*NUMERIC, *CATEGORICAL, "base"]
    assert moved.index.equals(rows.index)
    answered = logit(model.predict_proba(rows)[:, 1])
    assert moved.sum(axis=1).tolist() == pytest.approx(answered.tolist())
    deviation = background.usage_hours.std(ddof=0)
    weight = model[-1].coef_[0][NUMERIC.index("usage_hours")]
    by_hand = weight * (rows.usage_hours - background.usage_hours.mean()) / deviation
    assert moved.usage_hours.tolist() == pytest.approx(by_hand.tolist())


def test_the_base_is_the_mean_log_odds_of_the_whole_background(fitted):
    model, background, rows = fitted
    moved = explanation.moved(model, background, rows)
    base = logit(model.predict_proba(background)[:, 1]).mean()
    assert moved["base"].tolist() == pytest.approx([base] * len(rows))


def test_a_category_moves_an_answer_by_its_weight_beside_the_usual_one(fitted):
    model, background, rows = fitted
    moved = explanation.moved(model, background, rows)
    weights = dict(zip(model[:-1].get_feature_names_out(), model[-1].coef_[0], strict=True))
    usual = np.mean([weights[f"spread__plan_{plan}"] for plan in background.plan])
    by_hand = [weights[f"spread__plan_{plan}"] - usual for plan in rows.plan]
    assert moved.plan.tolist() == pytest.approx(by_hand)


def test_a_step_between_the_features_and_the_classifier_is_followed(fitted):
    _, background, rows = fitted
    model = make_pipeline(preprocessor(), MaxAbsScaler(), LogisticRegression(max_iter=1000))
    model.fit(background, background.churned)
    moved = explanation.moved(model, background, rows)
    answered = logit(model.predict_proba(rows)[:, 1])
    assert moved.sum(axis=1).tolist() == pytest.approx(answered.tolist())


@pytest.fixture(scope="module")
def by_tenure():
    """A model that looks at one of two columns, and always rightly."""
    rows = pd.DataFrame({"tenure": np.arange(100.0), "noise": np.arange(100.0)})
    left = (rows["tenure"] < 20).astype(int)
    chosen = ColumnTransformer([("chosen", "passthrough", ["tenure"])])
    return make_pipeline(chosen, LogisticRegression()).fit(rows, left), rows, left


def test_a_column_is_worth_the_auc_that_its_shuffling_costs(by_tenure):
    worth = explanation.worth(*by_tenure, repeats=40, seed=97)
    assert (worth.index.name, worth.index.tolist()) == ("column", ["tenure", "noise"])
    assert worth["auc_lost"].tolist() == [pytest.approx(0.5, abs=0.05), 0]  # from 1 to a half
    # The deviation of the AUC of 20 and 80 rows in random order: sqrt(101 / (12 * 20 * 80)).
    assert worth["deviation"].tolist() == [pytest.approx(0.073, abs=0.02), 0]


def test_a_seed_says_how_the_columns_are_shuffled(by_tenure):
    once, again, other = (explanation.worth(*by_tenure, 2, seed) for seed in (1, 1, 2))
    assert once.equals(again)
    assert not once.equals(other)
    single = explanation.worth(*by_tenure, repeats=1, seed=1)
    assert single["deviation"].tolist() == [0, 0]
