"""How a customer becomes numbers: one definition, fitted in training and carried into serving."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sklearn.compose import ColumnTransformer

NUMERIC = ["tenure_months", "monthly_fee", "usage_hours", "support_calls"]
CATEGORICAL = ["plan", "region"]


def preprocessor() -> "ColumnTransformer":
    """Scale the numbers and spread the categories; other columns, the id for one, are dropped."""
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    return ColumnTransformer([
        ("scaled", StandardScaler(), NUMERIC),
        ("spread", OneHotEncoder(handle_unknown="ignore", sparse_output=False), CATEGORICAL),
    ])
