"""How good are scores for a yes-or-no question?"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray


def judged(
    labels: "ArrayLike", scores: "ArrayLike"
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Labels and scores as arrays; refuse rows of which one is missing, and no rows at all."""
    import numpy as np

    labels, scores = np.asarray(labels, dtype=float), np.asarray(scores, dtype=float)
    for name, values in (("label", labels), ("score", scores)):
        if missing := int(np.isnan(values).sum()):
            raise ValueError(f"{missing} of {len(values)} rows have no {name}: leave them out")
    if not len(labels):
        raise ValueError("there are no rows to judge by")
    return labels, scores


def report(labels: "ArrayLike", scores: "ArrayLike", threshold: float = 0.5) -> dict[str, float]:
    """Measure ranking, decisions at the threshold, and whether the scores mean what they say."""
    from sklearn import metrics

    labels, scores = judged(labels, scores)
    decided = scores >= threshold
    return {
        "roc_auc": float(metrics.roc_auc_score(labels, scores)),
        "average_precision": float(metrics.average_precision_score(labels, scores)),
        "f1": float(metrics.f1_score(labels, decided, zero_division=0.0)),
        "precision": float(metrics.precision_score(labels, decided, zero_division=0.0)),
        "recall": float(metrics.recall_score(labels, decided, zero_division=0.0)),
        "brier": float(metrics.brier_score_loss(labels, scores)),
    }


def cheapest(labels: "ArrayLike", scores: "ArrayLike", miss_costs: float) -> float:
    """The threshold that costs least, where a miss costs `miss_costs` false alarms.

    Choose it on rows that the model has not learned from and that will not judge it either.
    """
    import numpy as np

    labels, scores = judged(labels, scores)
    nobody = np.nextafter(scores.max(), np.inf)
    thresholds = np.append(np.unique(scores), nobody)
    misses = np.searchsorted(np.sort(scores[labels == 1]), thresholds)
    spared = np.searchsorted(np.sort(scores[labels == 0]), thresholds)  # of all false alarms
    return float(thresholds[np.argmin(miss_costs * misses - spared)])


def cost(labels: "ArrayLike", decided: "ArrayLike", miss_costs: float) -> float:
    """What the decisions cost for each row, in false alarms."""
    labels, decided = (each.astype(bool) for each in judged(labels, decided))
    return float((miss_costs * (labels & ~decided) + (~labels & decided)).mean())


def calibration(labels: "ArrayLike", scores: "ArrayLike", groups: int = 10) -> "pd.DataFrame":
    """What was said and what came true, in groups of equal size from low scores to high."""
    import numpy as np
    import pandas as pd

    labels, scores = judged(labels, scores)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, groups + 1)))
    group = np.searchsorted(edges[1:-1], scores)
    frame = pd.DataFrame({"said": scores, "true": labels})
    table = frame.groupby(group).agg(
        rows=("said", "size"), said=("said", "mean"), true=("true", "mean")
    )
    return table.reset_index(drop=True)
