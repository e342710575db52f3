"""Ways to make a rare label count: for training rows only, after the split, never before it.

Each returns the rows with a column `weight`, so that whoever trains can hand it over without asking
which way was chosen. Judging needs the balance that the world has, so validation rows stay away
from here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

WEIGHT = "weight"


def untouched(train: "pd.DataFrame") -> "pd.DataFrame":
    """Every row counts once."""
    return train.assign(**{WEIGHT: 1.0})


def class_weights(train: "pd.DataFrame", label: str) -> "pd.DataFrame":
    """All rows stay, and both labels weigh the same in sum."""
    from sklearn.utils.class_weight import compute_sample_weight

    return train.assign(**{WEIGHT: compute_sample_weight("balanced", train[label])})


def undersampled(train: "pd.DataFrame", label: str, seed: int) -> "pd.DataFrame":
    """As many of the frequent label as there are of the rare: fast, and most rows are lost."""
    from imblearn.under_sampling import RandomUnderSampler

    rows, _ = RandomUnderSampler(random_state=seed).fit_resample(train, train[label])
    return untouched(rows)


def oversampled(train: "pd.DataFrame", label: str, seed: int) -> "pd.DataFrame":
    """Rows of the rare label again and again, as often as it takes."""
    from imblearn.over_sampling import RandomOverSampler

    rows, _ = RandomOverSampler(random_state=seed).fit_resample(train, train[label])
    return untouched(rows)


def smote(
    train: "pd.DataFrame",
    label: str,
    numeric: Sequence[str],
    categorical: Sequence[str],
    seed: int,
) -> "pd.DataFrame":
    """New rows of the rare label, each between two neighbours; what isn't a feature is missing."""
    import pandas as pd
    from imblearn.over_sampling import SMOTENC

    features = train[[*numeric, *categorical]]
    drawn, labels = SMOTENC(list(categorical), random_state=seed).fit_resample(
        features, train[label]
    )
    made = drawn.assign(**{label: labels}).iloc[len(train) :]
    # Ids are whole numbers, and a row that nobody ever saw has none.
    ids = train.select_dtypes("int64").columns.difference([label, *numeric])
    real = train.astype(dict.fromkeys(ids, "Int64"))
    return untouched(pd.concat([real, made], ignore_index=True))
