"""The customers: the same for each seed, and with the truth that is planted in them."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from include.data import churn

USUAL = {
    "tenure_months": 28,
    "usage_hours": 22,
    "support_calls": 1.2,
    "monthly_fee": 30,
    "plan": "yearly",
}


@pytest.fixture(scope="module")
def customers():
    return churn.customers()


def test_the_customers_are_those_that_the_documented_numbers_rest_on(customers):
    assert customers.head(3).to_dict("list") == {
        "customer_id": [1, 2, 3],
        "region": ["west", "north", "east"],
        "plan": ["monthly", "monthly", "monthly"],
        "tenure_months": [19, 16, 7],
        "monthly_fee": [45.51, 37.14, 42.26],
        "usage_hours": [20.6, 14.7, 15.3],
        "support_calls": [1, 0, 3],
        "churned": [0, 0, 1],
    }
    sums = customers[["tenure_months", "monthly_fee", "usage_hours", "support_calls", "churned"]]
    assert sums.sum().tolist() == pytest.approx([225709, 242247.98, 179913.3, 9455, 3066])
    assert customers["plan"].value_counts().to_dict() == {
        "monthly": 4382,
        "yearly": 2406,
        "family": 1212,
    }
    assert customers["region"].value_counts().to_dict() == {
        "east": 2036,
        "south": 2024,
        "west": 1989,
        "north": 1951,
    }


def test_ids_count_from_one_and_whole_numbers_are_integers(customers):
    assert customers["customer_id"].tolist() == list(range(1, 8001))
    for name in ("tenure_months", "support_calls", "churned"):
        assert customers[name].dtype == np.int64
    assert set(customers["churned"]) == {0, 1}


def test_tenure_lies_within_ten_years_and_a_fee_costs_eight_at_least(customers):
    assert (customers["tenure_months"].min(), customers["tenure_months"].max()) == (1, 120)
    assert customers["monthly_fee"].min() == 8


def test_a_seed_gives_the_same_customers_and_another_gives_others():
    assert churn.customers(50).equals(churn.customers(50, seed=97))
    assert not churn.customers(50).equals(churn.customers(50, seed=98))


@pytest.mark.parametrize(
    ("other", "log_odds"),
    [
        ({}, -0.9),
        ({"tenure_months": 38}, -0.9 - 0.3),
        ({"usage_hours": 32}, -0.9 - 0.4),
        ({"support_calls": 2.2}, -0.9 + 0.45),
        ({"monthly_fee": 40}, -0.9 + 0.2),
        ({"plan": "monthly"}, -0.9 + 0.7),
        ({"plan": "family"}, -0.9),
        ({"region": "north"}, -0.9),
    ],
)
def test_each_column_moves_the_odds_of_leaving_as_planted(other, log_odds):
    chance = churn.chance(pd.DataFrame([USUAL | other]))
    assert chance.tolist() == pytest.approx([1 / (1 + np.exp(-log_odds))])


def test_what_a_support_call_means_can_be_turned_round():
    called = pd.DataFrame([USUAL | {"support_calls": 2.2}])
    chance = churn.chance(called, per_call=-1.0)
    assert chance.tolist() == pytest.approx([1 / (1 + np.exp(1.9))])


def test_customers_leave_as_often_as_their_chance_says(customers):
    chance = churn.chance(customers)
    deviation = np.sqrt((chance * (1 - chance)).sum())
    assert customers["churned"].sum() == pytest.approx(chance.sum(), abs=3 * deviation)
    assert 0.7 < roc_auc_score(customers["churned"], chance) < 0.8
