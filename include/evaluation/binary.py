"""How good are scores for a yes-or-no question?"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def report(labels: "ArrayLike", scores: "ArrayLike", threshold: float = 0.5) -> dict[str, float]:
    """Measure ranking, decisions at the threshold, and whether the scores mean what they say."""
    import numpy as np
    from sklearn import metrics

    labels, scores = np.asarray(labels), np.asarray(scores)
    decided = scores >= threshold
    return {
        "roc_auc": float(metrics.roc_auc_score(labels, scores)),
        "average_precision": float(metrics.average_precision_score(labels, scores)),
        "f1": float(metrics.f1_score(labels, decided, zero_division=0.0)),
        "precision": float(metrics.precision_score(labels, decided, zero_division=0.0)),
        "recall": float(metrics.recall_score(labels, decided, zero_division=0.0)),
        "brier": float(metrics.brier_score_loss(labels, scores)),
    }
