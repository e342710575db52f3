"""Has the world moved away from what a model learned? Tests for its inputs, answers and errors.

A test says whether a difference could be luck, and calls any difference real once there are rows
enough; a distance says how large it is, and is never quite zero. Something has drifted when it is
neither luck nor small. Many tests find something by luck alone, so their p-values are adjusted
after Benjamini and Hochberg: where nothing has drifted, the rate of false alarms is that of all
tests together.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

BINS = 10
FEW = 10_000
"""Up to so many pairs of rows the p-value of Kolmogorov and Smirnov is exact."""


def columns(
    reference: "pd.DataFrame",
    window: "pd.DataFrame",
    numeric: Sequence[str],
    categorical: Sequence[str] = (),
) -> "pd.DataFrame":
    """One row for each column, the surest first.

    Numbers by Kolmogorov and Smirnov, with the distance of Wasserstein in standard deviations of
    the reference; categories by chi-squared; both with the population stability index (PSI).

    Only finite numbers are compared. Where some are missing or infinite, their share is tested in a
    row named "… is missing". A missing category counts as one more category.
    """
    import pandas as pd
    from scipy import stats

    _refuse_empty(reference=reference, window=window)
    if not (numeric or categorical):
        raise ValueError("no column is named: nothing can be compared")
    rows = {}
    for name in numeric:
        every = [_numbers(each, name) for each in (reference, window)]
        before, now = (each[np.isfinite(each)] for each in every)
        missing = len(reference) - len(before), len(window) - len(now)
        if any(missing):
            rows[f"{name} is missing"] = _categories(np.array([missing, (len(before), len(now))]).T)
        if len(before) and len(now):
            rows[name] = {
                "test": "Kolmogorov-Smirnov",
                "p": _apart(before, now),
                "psi": psi(*_binned(before, now)),
                "wasserstein": stats.wasserstein_distance(before, now) / (before.std() or 1.0),
            }
    for name in categorical:
        rows[name] = _categories(_counted(reference[name], window[name]))
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("column")
    return _adjusted(table)


def errors(
    inputs: "pd.DataFrame",
    missed: "ArrayLike",
    later_inputs: "pd.DataFrame",
    later_missed: "ArrayLike",
) -> "pd.DataFrame":
    """Does a model err otherwise than it did, overall or along one of its inputs?

    `missed` is label minus score. As long as the inputs mean what they meant, the product of an
    input and the error has the mean that it had, whatever inputs come; so unlike the loss or the
    AUC it stays quiet where only the customers have changed. Compared by Welch's test; the inputs
    are to be of one scale. Rows whose label is not known yet (a missed of NaN) do not count, nor
    do inputs that are missing or infinite. Fewer than two values are no evidence: their p is 1.
    """
    import pandas as pd

    _refuse_empty(reference=inputs, window=later_inputs)
    before = _products("reference", inputs, missed)
    now = _products("window", later_inputs, later_missed)
    with np.errstate(over="ignore", invalid="ignore"):
        p = {name: _welch(before[name].dropna(), now[name].dropna()) for name in before}
        change = now.mean() - before.mean()
    table = pd.DataFrame({"p": p, "change": change}).rename_axis("input")
    return _adjusted(table.loc[list(before)])


def _welch(before: "pd.Series[float]", now: "pd.Series[float]") -> float:
    """The p-value of Welch's test, also where a side has one value or only equal ones."""
    from scipy import stats

    if min(len(before), len(now)) < 2:
        return 1.0
    if before.nunique() == now.nunique() == 1:
        return float(set(before) == set(now))
    p = float(stats.ttest_ind(now, before, equal_var=False).pvalue)
    return 1.0 if np.isnan(p) else p  # numbers so large that they have no variance


def _products(name: str, inputs: "pd.DataFrame", missed: "ArrayLike") -> "pd.DataFrame":
    """Each input times the error, and the error itself; NaN where it is not known."""
    import pandas as pd

    wrong = np.asarray(missed, dtype=float)
    known = np.isfinite(wrong)
    if not known.any():
        raise ValueError(f"the {name} has no row with a known label: nothing can be compared")
    wrong = np.where(known, wrong, np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        products = pd.DataFrame({each: _numbers(inputs, each) * wrong for each in inputs})
    return products.where(np.isfinite(products)).assign(overall=wrong)


def _numbers(frame: "pd.DataFrame", name: str) -> "NDArray[np.float64]":
    """A column as numbers, NaN where one is missing."""
    if name not in frame:
        raise ValueError(f"there is no column {name!r}: nothing can be compared")
    try:
        numbers: NDArray[np.float64] = frame[name].to_numpy(float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the column {name!r} holds what is no number: {error}") from None
    return numbers


def _refuse_empty(**frames: "pd.DataFrame") -> None:
    for name, frame in frames.items():
        if frame.empty:
            raise ValueError(f"the {name} has no rows: nothing can be compared")


def _apart(before: "NDArray[np.float64]", now: "NDArray[np.float64]") -> float:
    """The p-value of Kolmogorov and Smirnov; single rows tell nothing about a distribution.

    For few rows it is exact. The formula for many would call a difference of two rows certain.
    """
    from scipy import stats

    if min(len(before), len(now)) < 2:
        return 1.0
    method = "exact" if len(before) * len(now) <= FEW else "asymp"
    return float(stats.ks_2samp(before, now, method=method).pvalue)


def _categories(counted: "NDArray[np.int64]") -> dict[str, Any]:
    """Compare the counts of some categories before with those of now."""
    from scipy import stats

    counted = counted[:, counted.any(axis=0)]
    return {
        "test": "chi-squared",
        "p": stats.chi2_contingency(counted, correction=False).pvalue,
        "psi": psi(*counted),
        "wasserstein": float("nan"),
    }


def drifted(table: "pd.DataFrame", rate: float, least_psi: float = 0.0) -> list[str]:
    """The names in a table that are neither luck, at this rate of false alarms, nor small.

    A bell that is shifted by d standard deviations has a PSI of d², so the least PSI also says
    which distance of Wasserstein counts. Either is enough: bins are blind to what happens inside.
    """
    real = table["adjusted_p"] < rate
    if "psi" in table:
        real &= (table["psi"] >= least_psi) | (table["wasserstein"] >= np.sqrt(least_psi))
    return [str(name) for name in table.index[real]]


def psi(before: "ArrayLike", now: "ArrayLike") -> float:
    """How far the shares of some bins have moved: the population stability index.

    Takes the counts; half a row is added to each bin, so that an empty one is not infinitely far.
    """
    was, is_ = (_shares(np.asarray(counts)) for counts in (before, now))
    return float(((is_ - was) * np.log(is_ / was)).sum())


def _shares(counts: "NDArray[np.int64]") -> "NDArray[np.float64]":
    shares: NDArray[np.float64] = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return shares


def _binned(
    before: "NDArray[np.float64]", now: "NDArray[np.float64]"
) -> tuple["NDArray[np.int64]", "NDArray[np.int64]"]:
    """Count in bins that hold a tenth of the reference each, as far as equal values allow it."""
    cuts = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1]))
    was, is_ = (
        np.bincount(np.searchsorted(cuts, each), minlength=len(cuts) + 1) for each in (before, now)
    )
    return was, is_


def _counted(before: "pd.Series[str]", now: "pd.Series[str]") -> "NDArray[np.int64]":
    """Count each category in both, also one that only one of them has, and those missing."""
    known = sorted(set(before.dropna()) | set(now.dropna()), key=str)
    return np.array([
        [*((each == value).sum() for value in known), each.isna().sum()] for each in (before, now)
    ])


def _adjusted(table: "pd.DataFrame") -> "pd.DataFrame":
    from scipy.stats import false_discovery_control

    adjusted = table.assign(adjusted_p=false_discovery_control(table["p"]))
    return adjusted.sort_values("p", kind="stable")
