"""What can be said of a service from its log, day by day: volume, latency, and who was right.

Labels come later than predictions. So each measure that needs them stands beside the share that is
labelled, and is left out where too few are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_LABELS = 50
PREFIX = "model_window"


@dataclass(frozen=True)
class Gauge:
    """How a measure is called and counted in Prometheus, which wants plain units."""

    name: str
    says: str
    times: float = 1.0


METRICS = {
    "requests": Gauge("requests_per_day", "Requests per day that was delivered."),
    "errors": Gauge("error_ratio", "Share of requests without an answer."),
    "p50_ms": Gauge("latency_p50_seconds", "Latency that half of the requests met.", 0.001),
    "p95_ms": Gauge("latency_p95_seconds", "Latency that 95 % of the requests met.", 0.001),
    "mean_score": Gauge("score_mean", "Mean score."),
    "labelled": Gauge("labelled_ratio", "Share of answers whose label is known."),
    "roc_auc": Gauge("roc_auc", "Area under the ROC curve, of what is labelled."),
    "brier": Gauge("brier_score", "Mean squared error of the score, of what is labelled."),
    "missing_days": Gauge("missing_days", "Days of which nothing was delivered."),
    "late": Gauge("late_rows", "Rows that came with a later day's delivery."),
}


def measured(rows: "pd.DataFrame", days: Sequence[date]) -> dict[str, float]:
    """All measures of a window of days; those that nothing was there for are left out.

    `rows` is a prediction log with the column `label`, which is empty where it isn't known yet.
    """
    import pandas as pd

    within = rows[rows["day"].isin([day.isoformat() for day in days])]
    there = within["day"].nunique()
    answered = within[within["status"] == 200]
    known = answered.dropna(subset="label")
    found = pd.Series({
        "requests": len(within) / there if there else None,
        "errors": (within["status"] != 200).mean(),
        "p50_ms": within["ms"].median(),
        "p95_ms": within["ms"].quantile(0.95),
        "mean_score": answered["score"].mean(),
        "labelled": answered["label"].notna().mean(),
        "missing_days": len(days) - there,
        "late": (within["arrived"] > within["day"]).sum(),
    }).astype(float)
    measures = {str(name): float(value) for name, value in found.dropna().items()}
    return measures | _right(known)


def by_day(rows: "pd.DataFrame", days: Sequence[date]) -> "pd.DataFrame":
    """One row for each day, also for one that is missing."""
    import pandas as pd

    table = [measured(rows, [day]) for day in days]
    index = pd.Index([day.isoformat() for day in days], name="day")
    return pd.DataFrame(table, index=index, columns=list(METRICS))


def exposition(
    windows: Mapping[int, Mapping[str, float]], labels: Mapping[str, str], day: date
) -> bytes:
    """All measures in Prometheus' text format; of windows of so many days, the last one `day`."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client import Gauge as Metric

    registry = CollectorRegistry()
    for name, gauge in METRICS.items():
        measures = {length: found[name] for length, found in windows.items() if name in found}
        if measures:
            names = [*labels, "days"]
            metric = Metric(f"{PREFIX}_{gauge.name}", gauge.says, names, registry=registry)
            for length, value in measures.items():
                metric.labels(*labels.values(), length).set(value * gauge.times)
    ends = Metric(f"{PREFIX}_day_seconds", "The last day.", list(labels), registry=registry)
    ends.labels(*labels.values()).set(
        datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    )
    text: bytes = generate_latest(registry)
    return text


def picture(table: "pd.DataFrame", thresholds: Mapping[str, float], title: str) -> "Figure":
    """Draw volume, latency, labels and ranking, one above the other; a day without rows is grey."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7.2, 8.4), layout="constrained")
    panels = drawn.subplots(4, sharex=True)
    places = range(len(table))
    _bars(panels[0], table["requests"].tolist(), 0)
    _line(panels[1], table["p50_ms"].tolist(), "half of the requests", 0)
    _line(panels[1], table["p95_ms"].tolist(), "95 % of the requests", 1)
    _bars(panels[2], (100 * table["labelled"]).tolist(), 2)
    _line(panels[3], table["roc_auc"].tolist(), "of the day", 0)
    panels[1].set_yscale("log")
    units = {
        "requests": "requests per day",
        "p95_ms": "latency in ms",
        "": "labelled in %",  # a threshold of its measure would be a share
        "roc_auc": "ROC AUC",
    }
    for number, (metric, unit) in enumerate(units.items()):
        axes = panels[number]
        axes.set_ylabel(unit)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        for place in places:
            if table["missing_days"].iloc[place]:
                axes.axvspan(place - 0.5, place + 0.5, color="grey", alpha=0.25, lw=0)
        if metric in thresholds:
            axes.axhline(thresholds[metric], color="black", lw=1, ls="--", label="alert")
        if axes.lines:
            axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    panels[2].set_ylim(0, 105)
    panels[0].set_title(title)
    panels[3].set_xlabel("day (grey: nothing was delivered)")
    panels[3].set_xticks(list(places), [str(day)[5:] for day in table.index])
    return drawn


def _right(known: "pd.DataFrame") -> dict[str, float]:
    from sklearn import metrics

    if len(known) < LEAST_LABELS or known["label"].nunique() < 2:
        return {}
    return {
        "roc_auc": float(metrics.roc_auc_score(known["label"], known["score"])),
        "brier": float(metrics.brier_score_loss(known["label"], known["score"])),
    }


def _bars(axes: "Axes", heights: Sequence[float], colour: int) -> None:
    from include.evaluation import plots

    axes.bar(range(len(heights)), heights, 0.7, color=plots.COLOURS[colour])


def _line(axes: "Axes", values: Sequence[float], label: str, colour: int) -> None:
    from include.evaluation import plots

    marker = "os"[colour]
    axes.plot(range(len(values)), values, f"{marker}-", color=plots.COLOURS[colour], label=label)
