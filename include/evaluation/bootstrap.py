"""How far a measure could move if other rows had come: intervals from resampling the rows.

To resample is to count: how often was each row drawn? All measures follow from these counts by
sums over the rows in the order of their scores, for all resamples at once; a thousand of them cost
less than scikit-learn takes for thirty. The share of each label is taken as given, so that no
resample lacks one.
"""

from typing import TYPE_CHECKING

import numpy as np

from include.evaluation import binary

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MOST_COUNTS = 2**22
"""So many counts are held at once: 32 MB, however many rows and resamples there are."""


def intervals(
    labels: "ArrayLike",
    scores: "ArrayLike",
    threshold: float,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Where each measure of `binary.report` lies in the middle of the resamples."""
    labels, scores = binary.judged(labels, scores)
    rng, at_once = np.random.default_rng(seed), max(1, MOST_COUNTS // len(labels))
    parts = [
        measures(labels, scores, threshold, counts(labels, min(at_once, resamples - first), rng))
        for first in range(0, resamples, at_once)
    ]
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tail = (1 - level) / 2
    return {
        name: (float(np.quantile(values, tail)), float(np.quantile(values, 1 - tail)))
        for name, values in drawn.items()
    }


def counts(
    labels: "ArrayLike", resamples: int, seed: int | np.random.Generator
) -> "NDArray[np.int64]":
    """How often each resample (a row) draws each observation (a column)."""
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(labels)), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        drawn[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), resamples)
    return drawn


def measures(
    labels: "ArrayLike", scores: "ArrayLike", threshold: float, weights: "NDArray[np.int64]"
) -> dict[str, "NDArray[np.float64]"]:
    """The measures of `binary.report` for every row of weights."""
    labels, scores = binary.judged(labels, scores)
    order = np.argsort(-scores)
    falling, left = scores[order], labels[order]
    starts = np.flatnonzero(np.r_[True, np.diff(falling) != 0])  # equal scores are one step
    hits = np.add.reduceat(weights[:, order] * left, starts, axis=1)
    alarms = np.add.reduceat(weights[:, order] * (1 - left), starts, axis=1)
    all_hits, all_alarms = hits.cumsum(axis=1), alarms.cumsum(axis=1)
    positives, negatives = all_hits[:, -1], all_alarms[:, -1]

    below = negatives[:, None] - all_alarms + alarms / 2
    at_cut = int((falling[starts] >= threshold).sum())
    found = hits[:, :at_cut].sum(axis=1)
    called = found + alarms[:, :at_cut].sum(axis=1)
    return {
        "roc_auc": (hits * below).sum(axis=1) / (positives * negatives),
        "average_precision": (hits * _share(all_hits, all_hits + all_alarms)).sum(axis=1)
        / positives,
        "f1": 2 * found / (called + positives),
        "precision": _share(found, called),
        "recall": found / positives,
        "brier": weights @ (scores - labels) ** 2 / (positives + negatives),
    }


def _share(part: "NDArray[np.int64]", whole: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """A share, and nothing of nothing is nothing."""
    shares: NDArray[np.float64] = part / np.maximum(whole, 1)
    return shares
