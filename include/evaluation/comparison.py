"""Is one model better than another, or was it luck? Tests that know that the rows are the same.

Two models that are measured on the same rows err together: a hard row is hard for both. Comparing
two separate intervals throws that away, and calls many a clear difference undecided.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from include.evaluation import binary

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Gain(NamedTuple):
    """A difference with its 95 % interval, and how likely luck alone gives as much."""

    gain: float
    low: float
    high: float
    p: float


def auc_gain(labels: "ArrayLike", scores: "ArrayLike", others: "ArrayLike") -> Gain:
    """By how much AUC do `scores` rank better than `others`? The test of DeLong."""
    from scipy.stats import norm

    _, others = binary.judged(labels, others)
    labels, scores = binary.judged(labels, scores)
    (of_positive, of_negative), (others_positive, others_negative) = (
        _placements(labels, each) for each in (scores, others)
    )
    by_positive, by_negative = of_positive - others_positive, of_negative - others_negative
    gain = float(by_positive.mean())
    error = float(
        np.sqrt(
            by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative)
        )
    )
    half = float(norm.ppf(0.975)) * error
    if error == 0:
        return Gain(gain, gain, gain, 1.0 if gain == 0 else 0.0)
    return Gain(gain, gain - half, gain + half, float(2 * norm.sf(abs(gain) / error)))


def decisions_p(labels: "ArrayLike", decided: "ArrayLike", others: "ArrayLike") -> float:
    """How likely does luck alone part two models' right decisions so unevenly? McNemar, exact."""
    from scipy.stats import binomtest

    right = np.asarray(decided) == np.asarray(labels)
    others_right = np.asarray(others) == np.asarray(labels)
    alone, others_alone = int((right & ~others_right).sum()), int((~right & others_right).sum())
    if alone == others_alone:  # also where both are 0, which SciPy refuses to test
        return 1.0
    return float(binomtest(alone, alone + others_alone).pvalue)


def against(
    labels: "ArrayLike",
    scores: "ArrayLike",
    others: "ArrayLike",
    threshold: float,
    miss_costs: float,
) -> dict[str, float]:
    """All about one rival: the ranking, the decisions at the threshold, and what both cost."""
    decided, theirs = np.asarray(scores) >= threshold, np.asarray(others) >= threshold
    return {
        **auc_gain(labels, scores, others)._asdict(),
        "decisions_p": decisions_p(labels, decided, theirs),
        "cost": binary.cost(labels, decided, miss_costs),
        "its_cost": binary.cost(labels, theirs, miss_costs),
    }


def mean_of_folds(scores: Sequence[float], judged_per_learned: float) -> tuple[float, float]:
    """The 95 % interval for the mean of (repeated) cross-validation.

    Folds share most of the rows that they learned from, so their scores agree more than independent
    ones would. The correction of Nadeau and Bengio adds the ratio of judged to learned rows to 1/n;
    without it, repeating often enough would make any interval as narrow as one likes.
    """
    from scipy.stats import t

    values = np.asarray(scores)
    error = np.sqrt((1 / len(values) + judged_per_learned) * values.var(ddof=1))
    half = t.ppf(0.975, len(values) - 1) * error
    return float(values.mean() - half), float(values.mean() + half)


def _placements(
    labels: "NDArray[np.float64]", scores: "NDArray[np.float64]"
) -> tuple["NDArray[np.float64]", "NDArray[np.float64]"]:
    """For each row the share of the other label's rows that score less."""
    from scipy.stats import rankdata

    positive, negative = scores[labels == 1], scores[labels == 0]
    ranks = rankdata(np.r_[positive, negative])
    of_positive = (ranks[: len(positive)] - rankdata(positive)) / len(negative)
    of_negative = (ranks[len(positive) :] - rankdata(negative)) / len(positive)
    return of_positive, of_negative
