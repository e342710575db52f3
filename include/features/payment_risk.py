"""What a bank knew of an account when its card was used, and how that becomes numbers."""

from typing import TYPE_CHECKING

from include.features import point_in_time

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.compose import ColumnTransformer

ENTITY = "account"
SKEWED = ["amount"]
COUNTED = ["disputes_known"]
WITH_GAPS = ["rating"]
CATEGORICAL = ["shop", "part_of_day"]


def joined(
    payments: "pd.DataFrame", disputes: "pd.DataFrame", ratings: "pd.DataFrame"
) -> "pd.DataFrame":
    """Features of each payment as of its moment, and when the newest of what they say was known."""
    counted = point_in_time.running_count(disputes, ENTITY, "disputes_known")
    rated = point_in_time.newest(ratings, ENTITY)

    rows = payments
    for view, known_at in ((counted, "dispute_known_at"), (rated, "rating_known_at")):
        rows = point_in_time.join(rows, view.drop(columns="event_at"), ENTITY)
        rows = rows.rename(columns={"known_at": known_at})
    return rows.assign(
        disputes_known=rows["disputes_known"].fillna(0.0),
        part_of_day=rows["at"].dt.hour.map(lambda hour: "night" if hour < 6 else "day"),
    )


def transformer() -> "ColumnTransformer":
    """Everything that is learned from the data: scales, fillings, categories; nothing else is."""
    import numpy as np
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    logarithm = FunctionTransformer(np.log1p, feature_names_out="one-to-one")
    filled = SimpleImputer(strategy="median", add_indicator=True)
    return ColumnTransformer([
        ("log", make_pipeline(logarithm, StandardScaler()), SKEWED),
        ("scaled", StandardScaler(), COUNTED),
        ("filled", make_pipeline(filled, StandardScaler()), WITH_GAPS),
        ("spread", OneHotEncoder(handle_unknown="ignore", sparse_output=False), CATEGORICAL),
    ])
