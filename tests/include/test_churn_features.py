"""How a customer becomes numbers: scales by hand, and categories that nobody has met."""

import numpy as np
import pandas as pd
import pytest

from include.features import churn

ROWS = pd.DataFrame({
    "customer_id": [1, 2],
    "tenure_months": [10, 30],
    "monthly_fee": [20.0, 40.0],
    "usage_hours": [1.0, 5.0],
    "support_calls": [0, 2],
    "plan": ["monthly", "yearly"],
    "region": ["north", "south"],
})
NAMES = [
    "scaled__tenure_months",
    "scaled__monthly_fee",
    "scaled__usage_hours",
    "scaled__support_calls",
    "spread__plan_monthly",
    "spread__plan_yearly",
    "spread__region_north",
    "spread__region_south",
]


def test_numbers_are_scaled_categories_spread_and_the_id_is_dropped():
    fitted = churn.preprocessor().fit(ROWS)
    assert fitted.get_feature_names_out().tolist() == NAMES
    found = fitted.transform(ROWS)
    assert isinstance(found, np.ndarray)
    assert found == pytest.approx(
        np.array([[-1, -1, -1, -1, 1, 0, 1, 0], [1, 1, 1, 1, 0, 1, 0, 1]])
    )


def test_many_plans_give_a_table_without_holes():
    rows = pd.concat([ROWS] * 20).assign(plan=[f"plan {number}" for number in range(40)])
    assert isinstance(churn.preprocessor().fit_transform(rows), np.ndarray)


def test_a_customer_in_the_middle_on_a_plan_that_nobody_had_is_all_zeros():
    fitted = churn.preprocessor().fit(ROWS)
    middle = pd.DataFrame([
        {
            "tenure_months": 20,
            "monthly_fee": 30.0,
            "usage_hours": 3.0,
            "support_calls": 1,
            "plan": "weekly",
            "region": "abroad",
        }
    ])
    assert fitted.transform(middle).tolist() == [[0] * 8]
