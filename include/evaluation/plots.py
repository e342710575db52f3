"""Pictures of a model: readable in a browser, and safe for colour-blind eyes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

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


def steps(values: Sequence[float], title: str, measure: str, step: str) -> "Figure":
    """Draw how a measure developed, step by step."""
    picture, axes = figure()
    axes.plot(range(1, len(values) + 1), values, color=COLOURS[0], lw=2)
    axes.set(title=title, xlabel=step, ylabel=measure)
    return picture
