"""Pictures of a model: readable in a browser, and safe for colour-blind eyes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

# Okabe and Ito's palette, in an order in which neighbours also differ in lightness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")


def figure(width: float = 6.4, height: float = 4.2) -> tuple["Figure", "Axes"]:
    """One empty picture, outside of pyplot: nothing to close, nothing shared between tasks."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(width, height), layout="constrained")
    axes = picture.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return picture, axes


def roc(labels: "ArrayLike", scores: Mapping[str, "ArrayLike"], title: str) -> "Figure":
    """Draw hits against false alarms at every threshold, one line for each model."""
    from sklearn.metrics import auc, roc_curve

    picture, axes = figure()
    for colour, (name, of_model) in zip(COLOURS, scores.items(), strict=False):
        alarms, hits, _ = roc_curve(labels, of_model)
        axes.plot(alarms, hits, color=colour, lw=2, label=f"{name}, AUC {auc(alarms, hits):.3f}")
    axes.plot([0, 1], [0, 1], color="grey", lw=1, ls="--", label="guessing, AUC 0.500")
    axes.set(
        title=title,
        xlabel="false alarms (share of those who stayed)",
        ylabel="hits (share of those who left)",
        xlim=(0, 1),
        ylim=(0, 1.01),
    )
    axes.legend(loc="lower right", frameon=False)
    return picture


def precision_recall(
    labels: "ArrayLike", scores: Mapping[str, "ArrayLike"], title: str
) -> "Figure":
    """Draw how many of those who are called are right, against how many of all are called."""
    import numpy as np
    from sklearn.metrics import average_precision_score, precision_recall_curve

    picture, axes = figure()
    for colour, (name, of_model) in zip(COLOURS, scores.items(), strict=False):
        precision, recall, _ = precision_recall_curve(labels, of_model)
        average = average_precision_score(labels, of_model)
        axes.plot(recall, precision, color=colour, lw=2, label=f"{name}, average {average:.3f}")
    axes.axhline(float(np.asarray(labels).mean()), color="grey", lw=1, ls="--", label="guessing")
    axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(loc="upper right", frameon=False)
    return picture


def calibration(tables: Mapping[str, "pd.DataFrame"], title: str) -> "Figure":
    """Draw what came true against what was said; on the diagonal a score means what it says."""
    picture, axes = figure()
    axes.plot([0, 1], [0, 1], color="grey", lw=1, ls="--", label="as said")
    for colour, (name, table) in zip(COLOURS, tables.items(), strict=False):
        axes.plot(table["said"], table["true"], "o-", color=colour, lw=2, label=name)
    axes.set(title=title, xlabel="said (mean score)", ylabel="true (share)")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(loc="upper left", frameon=False)
    return picture


def confusion(labels: "ArrayLike", decided: "ArrayLike", title: str) -> "Figure":
    """Draw the four outcomes of a decision, with their numbers."""
    from sklearn.metrics import confusion_matrix

    picture, axes = figure(width=4.8)
    table = confusion_matrix(labels, decided, labels=[0, 1])
    axes.imshow(table, cmap="Blues", vmin=0, vmax=table.max() * 1.6)  # light under each number
    axes.grid(visible=False)
    for (row, column), number in zip([(0, 0), (0, 1), (1, 0), (1, 1)], table.ravel(), strict=True):
        axes.text(column, row, f"{number:,}", ha="center", va="center", fontsize=14)
    axes.set(title=title, xlabel="decided", ylabel="true")
    axes.set_xticks([0, 1], ["stays", "leaves"])
    axes.set_yticks([0, 1], ["stayed", "left"])
    return picture


def judged(
    labels: "ArrayLike", scores: Mapping[str, "ArrayLike"], threshold: float
) -> dict[str, "Figure"]:
    """Draw all four pictures of a yes-or-no model; the first of the scores is the one that decides.

    The keys are the names for the files.
    """
    import numpy as np

    from include.evaluation import binary

    tables = {name: binary.calibration(labels, of_model) for name, of_model in scores.items()}
    decided = np.asarray(next(iter(scores.values()))) >= threshold
    return {
        "roc": roc(labels, scores, "How well does it rank?"),
        "precision_recall": precision_recall(labels, scores, "How often is a call right?"),
        "calibration": calibration(tables, "Does a score mean what it says?"),
        "confusion": confusion(labels, decided, f"Decided at {threshold:.2f}"),
    }


def bars(
    groups: Sequence[str], values: Mapping[str, Sequence[float]], title: str, measure: str
) -> "Figure":
    """Draw one group of bars for each name, one colour for each series, with the numbers on top."""
    picture, axes = figure()
    width = 0.8 / len(values)
    for place, (colour, (series, heights)) in enumerate(zip(COLOURS, values.items(), strict=False)):
        at = [index + (place - (len(values) - 1) / 2) * width for index in range(len(groups))]
        drawn = axes.bar(at, heights, width * 0.95, color=colour, label=series)
        axes.bar_label(drawn, fmt="%.2f", fontsize=9)
    axes.set(title=title, ylabel=measure)
    axes.set_xticks(range(len(groups)), [name.replace("_", " ") for name in groups])
    axes.legend(frameon=False, ncols=len(values), loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return picture


def looks(asked: Sequence[int], scores: Sequence[float], bounds: Sequence[float]) -> "Figure":
    """Draw a test's score look by look, and how far from 0 each look wants it to be."""
    picture, axes = figure()
    axes.plot(asked, scores, "o-", color=COLOURS[0], lw=2, label="score")
    wanted = list(bounds[: len(asked)])
    axes.plot(asked, wanted, "s--", color=COLOURS[5], label="bounds")
    axes.plot(asked, [-bound for bound in wanted], "s--", color=COLOURS[5])
    axes.set(title="Look by look", xlabel="asked", ylabel="standard errors")
    axes.legend(frameon=False)
    return picture


def parallel(table: "pd.DataFrame", measure: str, title: str) -> "Figure":
    """Draw each row as a line across its columns, the best by the measure in colour."""
    picture, axes = figure(width=7.2)
    columns = [column for column in table if column != measure] + [measure]
    low, high = table[columns].min(), table[columns].max()
    spread = (high - low).where(high > low, 1.0)
    best = table[measure].idxmax()
    for name, row in ((table[columns] - low) / spread).iterrows():
        chosen = name == best
        axes.plot(
            range(len(columns)),
            row,
            color=COLOURS[0] if chosen else "grey",
            lw=3 if chosen else 1.2,
            alpha=1 if chosen else 0.6,
            label=f"{name}, {measure} {table.loc[name, measure]:.3f}",
        )
    axes.set(title=title, yticks=[0, 1], ylabel="lowest to highest of each column")
    axes.set_yticklabels(["lowest", "highest"])
    labels = [f"{column}\n{low[column]:.4g} to {high[column]:.4g}" for column in columns]
    axes.set_xticks(range(len(columns)), labels)
    axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=9)
    return picture


def explored(table: "pd.DataFrame", way: str, across: str, up: str, measure: str) -> "Figure":
    """Draw where a search looked: one shape for each way, the better the brighter and on top."""
    picture, axes = figure(width=7.2)
    low, high = table[measure].min(), table[measure].max()
    rising = table.sort_values(measure)
    for shape, (name, rows) in zip("oDs*^v", rising.groupby(way), strict=False):
        points = axes.scatter(
            rows[across], rows[up], c=rows[measure], vmin=low, vmax=high, marker=shape, s=110
        )
        axes.scatter([], [], color="grey", marker=shape, s=60, label=name)
    picture.colorbar(points, label=measure)
    axes.set(title="Where the search looked", xscale="log", yscale="log", xlabel=across, ylabel=up)
    axes.minorticks_off()
    for axis, column in ((axes.xaxis, across), (axes.yaxis, up)):
        axis.set_ticks([table[column].min(), table[column].median(), table[column].max()])
        axis.set_major_formatter("{x:.2g}")
    axes.legend(frameon=False, ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    return picture


def best_so_far(trials: "pd.DataFrame", measure: str, spent: str) -> "Figure":
    """Draw how the best that each search had found fell with what it had spent until then."""
    picture, axes = figure(width=7.2)
    found = trials[trials["best"].notna()]
    widths = (7, 5, 3.5, 2)  # searches that begin alike lie upon each other
    each = zip(COLOURS, widths, found.groupby("search", sort=False), strict=False)
    for colour, width, (name, rows) in each:
        axes.step(rows["spent"], rows["best"], where="post", color=colour, lw=width, label=name)
    axes.set(title="The best found so far", xlabel=spent, ylabel=measure)
    axes.legend(frameon=False)
    return picture


def steps(values: Sequence[float], title: str, measure: str, step: str) -> "Figure":
    """Draw how a measure developed, step by step."""
    picture, axes = figure()
    axes.plot(range(1, len(values) + 1), values, color=COLOURS[0], lw=2)
    axes.set(title=title, xlabel=step, ylabel=measure)
    return picture


def folds(scores: "pd.DataFrame", title: str, measure: str) -> "Figure":
    """Draw each row's folds as dots, with mean and standard deviation where none is missing."""
    picture, axes = figure()
    whole = scores.notna().all(axis=1)
    for place, (name, of_row) in enumerate(scores.iterrows()):
        axes.plot(of_row, [place] * len(of_row), "o", color="grey", alpha=0.6)
        if whole[name]:
            mean, deviation = of_row.mean(), of_row.std()
            axes.errorbar(mean, place, xerr=deviation, fmt="D", color=COLOURS[0], capsize=4, lw=2)
    axes.set(title=title, xlabel=measure, ylim=(len(scores) - 0.5, -0.5))
    labels = [name if whole[name] else f"{name}\n(failed)" for name in scores.index]
    axes.set_yticks(range(len(scores)), labels)
    return picture


def shifted(before: "pd.Series[Any]", now: "pd.Series[Any]", title: str) -> "Figure":
    """Draw how a column was spread and how it is now: as curves of numbers, or as bars."""
    import numpy as np

    if before.dtype.kind not in "iuf":
        names = sorted(set(before) | set(now))
        shares = {
            when: [float((each == name).mean()) for name in names]
            for when, each in (("reference", before), ("window", now))
        }
        return bars(names, shares, title, "share")
    picture, axes = figure()
    edges = np.linspace(min(before.min(), now.min()), max(before.max(), now.max()), 41)
    for colour, when, each in zip(COLOURS, ("reference", "window"), (before, now), strict=False):
        axes.hist(
            each, edges.tolist(), density=True, histtype="step", lw=2, color=colour, label=when
        )
        axes.axvline(float(each.mean()), color=colour, lw=1, ls="--")
    axes.set(title=title, xlabel=str(before.name), ylabel="density (dashed: the mean)")
    axes.legend(frameon=False)
    return picture
