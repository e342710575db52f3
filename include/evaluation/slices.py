"""A model on parts of its data: an average can hide whom it fails."""

from typing import TYPE_CHECKING, Any

from include.evaluation import binary

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import ArrayLike


MISSING = "(missing)"


def named(part: "pd.Series[Any]") -> "pd.Series[str]":
    """The name of each row's part; rows without one are a part as well."""
    return part.astype(object).where(part.notna(), MISSING).astype(str)


def auc_by(part: "pd.Series[str]", labels: "ArrayLike", scores: "ArrayLike") -> dict[str, float]:
    """The AUC within each part, by the part's name; a part with one label only has none (NaN)."""
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    labels, scores = binary.judged(labels, scores)
    frame = pd.DataFrame({"part": named(part).to_numpy(), "label": labels, "score": scores})
    return {
        str(name): float(roc_auc_score(rows["label"], rows["score"]))
        if rows["label"].nunique() == 2
        else float("nan")
        for name, rows in frame.groupby("part")
    }


def table(rows: "pd.DataFrame", columns: "Sequence[str]", label: str, score: str) -> "pd.DataFrame":
    """The AUC within each part of each column, and how many rows it rests on."""
    import pandas as pd

    return pd.DataFrame([
        {"column": column, "part": part, "rows": int((named(values) == part).sum()), "auc": auc}
        for column, values in rows[list(columns)].items()
        for part, auc in auc_by(values, rows[label], rows[score]).items()
    ])


def rates_by(
    part: "pd.Series[str]", labels: "ArrayLike", decided: "ArrayLike"
) -> dict[str, dict[str, float]]:
    """The share that a decision chooses within each part, and the widest gap between two parts.

    Of all (demographic parity), and of those with either label (equalised odds).
    """
    from fairlearn.metrics import (
        MetricFrame,
        false_positive_rate,
        selection_rate,
        true_positive_rate,
    )

    rates = {
        "of all": selection_rate,
        "of true": true_positive_rate,
        "of false": false_positive_rate,
    }
    frame = MetricFrame(
        metrics=rates, y_true=labels, y_pred=decided, sensitive_features=named(part)
    )
    gap = {name: float(value) for name, value in frame.difference().items()}
    return {**frame.by_group.astype(float).to_dict("index"), "widest gap": gap}
