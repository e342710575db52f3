"""A model on parts of its data: an average can hide whom it fails."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


def auc_by(part: "pd.Series[str]", labels: "ArrayLike", scores: "ArrayLike") -> dict[str, float]:
    """The AUC within each part, by the part's name."""
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    frame = pd.DataFrame({"part": part.to_numpy(), "label": labels, "score": scores})
    return {
        str(name): float(roc_auc_score(rows["label"], rows["score"]))
        for name, rows in frame.groupby("part")
    }
