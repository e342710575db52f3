"""Measures of a service: counted by hand, and left out where there is nothing to count."""

import time
from dataclasses import FrozenInstanceError
from datetime import date
from math import nan

import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgba
from prometheus_client.parser import text_string_to_metric_families
from sklearn.metrics import brier_score_loss, roc_auc_score

from include.evaluation import monitoring, plots

FIRST, SECOND, THIRD = (date(2026, 1, day) for day in (1, 2, 3))


def row(day, ms=10.0, score=0.5, label=None, arrived=None, status=200):
    told = {"day": str(day), "arrived": str(arrived or day), "status": status, "ms": ms}
    return told | {"score": score, "label": label}


def table(*rows):
    return pd.DataFrame(rows).astype({"score": float, "label": float})


ROWS = table(
    row(FIRST, ms=10, score=0.2, label=0),
    row(FIRST, ms=30, score=0.8, label=1, arrived=THIRD),
    row(FIRST, ms=50, status=503, score=None),
    row(THIRD, ms=20, score=0.5),
)


def test_the_measures_are_those_that_one_counts_by_hand():
    assert monitoring.measured(ROWS, [FIRST, SECOND, THIRD]) == pytest.approx({
        "requests": 2.0,  # four on two days; the day that is missing is not one without callers
        "errors": 0.25,
        "p50_ms": 25.0,
        "p95_ms": 47.0,
        "mean_score": 0.5,
        "labelled": 2 / 3,
        "missing_days": 1.0,
        "late": 1.0,
    })


def test_a_day_without_anything_has_no_latency_and_is_missing():
    assert monitoring.measured(ROWS, [SECOND]) == {"missing_days": 1.0, "late": 0.0}
    by_day = monitoring.by_day(ROWS, [FIRST, SECOND, THIRD])
    assert by_day["missing_days"].tolist() == [0, 1, 0]
    assert (by_day.index.name, by_day.index.tolist()) == (
        "day",
        ["2026-01-01", "2026-01-02", "2026-01-03"],
    )
    assert list(by_day) == list(monitoring.METRICS)
    assert by_day.loc[str(SECOND), "p95_ms"] != by_day.loc[str(SECOND), "p95_ms"]


def many(labels):
    scores = [(place * 37 % 100) / 100 for place in range(len(labels))]
    return table(*(row(FIRST, score=s, label=n) for s, n in zip(scores, labels, strict=True)))


def test_who_was_right_is_measured_over_what_is_labelled_alone():
    labels = [None if place % 4 == 0 else place % 3 == 0 for place in range(120)]
    rows = many(labels).assign(model=None)  # of what else is missing nothing depends
    known = rows.dropna(subset="label")
    measures = monitoring.measured(rows, [FIRST])
    assert measures["labelled"] == 0.75
    assert measures["roc_auc"] == roc_auc_score(known.label, known.score)
    assert measures["brier"] == brier_score_loss(known.label, known.score)


@pytest.mark.parametrize(
    "labels",
    [[0, 1] * 24 + [0], [0] * 100],
    ids=["too few labels", "nobody has left"],
)
def test_where_labels_can_not_tell_nothing_is_told(labels):
    assert not monitoring.measured(many(labels), [FIRST]).keys() & {"roc_auc", "brier"}


def test_fifty_labels_are_enough():
    assert monitoring.measured(many([0, 1] * 25), [FIRST]).keys() >= {"roc_auc", "brier"}


PUBLISHED = {
    "requests": ("model_window_requests_per_day", "Requests per day that was delivered.", 40),
    "errors": ("model_window_error_ratio", "Share of requests without an answer.", 0.25),
    "p50_ms": (
        "model_window_latency_p50_seconds",
        "Latency that half of the requests met.",
        0.02,
    ),
    "p95_ms": (
        "model_window_latency_p95_seconds",
        "Latency that 95 % of the requests met.",
        0.09,
    ),
    "mean_score": ("model_window_score_mean", "Mean score.", 0.4),
    "labelled": ("model_window_labelled_ratio", "Share of answers whose label is known.", 0.5),
    "roc_auc": (
        "model_window_roc_auc",
        "Area under the ROC curve, of what is labelled.",
        0.7,
    ),
    "brier": (
        "model_window_brier_score",
        "Mean squared error of the score, of what is labelled.",
        0.2,
    ),
    "missing_days": ("model_window_missing_days", "Days of which nothing was delivered.", 2),
    "late": ("model_window_late_rows", "Rows that came with a later day's delivery.", 3),
}


def test_each_measure_is_published_with_its_name_its_unit_and_what_it_says(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    milliseconds = {"p50_ms": 20, "p95_ms": 90}
    measures = {name: value for name, (_, _, value) in PUBLISHED.items()} | milliseconds
    text = monitoring.exposition({7: measures}, {"model": "a"}, THIRD)
    monkeypatch.undo()
    time.tzset()
    found = [
        (family.name, family.documentation, sample.value, sample.labels)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    ]
    labels = {"model": "a", "days": "7"}
    assert found == [
        *((*told[:2], pytest.approx(told[2]), labels) for told in PUBLISHED.values()),
        ("model_window_day_seconds", "The last day.", 1767398400, {"model": "a"}),
    ]


def test_a_gauge_can_not_be_changed():
    with pytest.raises(FrozenInstanceError):
        monitoring.METRICS["late"].times = 60


def test_prometheus_reads_what_is_published_in_plain_units():
    windows = {
        days: monitoring.measured(ROWS, over)
        for days, over in {1: [THIRD], 3: [FIRST, SECOND, THIRD]}.items()
    }
    text = monitoring.exposition(windows, {"model": 'a "model"', "version": "3"}, THIRD)
    found = {
        (sample.name, sample.labels.get("days")): sample
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    assert found["model_window_latency_p95_seconds", "3"].value == pytest.approx(0.047)
    assert found["model_window_requests_per_day", "1"].value == 1
    assert found["model_window_missing_days", "3"].labels["model"] == 'a "model"'
    assert found["model_window_day_seconds", None].value == 1767398400  # 2026-01-03T00:00Z
    assert not any(name.endswith("roc_auc") for name, _ in found)


@pytest.fixture(scope="module")
def drawn():
    """Three days, the second of them missing; on the third so many are labelled that it counts."""
    labelled = [row(THIRD, ms=20, score=place % 10 / 10, label=place % 2) for place in range(60)]
    by_day = monitoring.by_day(table(*ROWS.to_dict("records"), *labelled), [FIRST, SECOND, THIRD])
    thresholds = {"requests": 5, "p95_ms": 200, "labelled": 0.3, "roc_auc": 0.6, "late": 1}
    return by_day, monitoring.picture(by_day, thresholds, "Three days")


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_each_panel_is_named_with_its_unit_and_the_last_one_with_the_days(drawn):
    panels = drawn[1].axes
    assert [axes.get_ylabel() for axes in panels] == [
        "requests per day",
        "latency in ms",
        "labelled in %",
        "ROC AUC",
    ]
    assert [axes.get_title() for axes in panels] == ["Three days", "", "", ""]
    assert [axes.get_xlabel() for axes in panels] == [
        *[""] * 3,
        "day (grey: nothing was delivered)",
    ]
    assert [tick.get_text() for tick in panels[-1].get_xticklabels()] == ["01-01", "01-02", "01-03"]
    assert [len(axes.get_xticks()) for axes in panels] == [3] * 4  # all panels share the days
    assert [len(axes.get_xticklabels()) for axes in panels] == [0, 0, 0, 3]


def test_the_bars_are_the_requests_and_the_labelled_percentage_of_each_day(drawn):
    _, picture = drawn
    for number, heights, colour in ((0, [3, nan, 61], 0), (2, [100, nan, 6000 / 61], 2)):
        bars = picture.axes[number].containers[0]
        assert [bar.get_height() for bar in bars] == pytest.approx(heights, nan_ok=True)
        assert [bar.get_x() + bar.get_width() / 2 for bar in bars] == pytest.approx([0, 1, 2])
        assert bars[0].get_width() == pytest.approx(0.7)
        assert to_hex(bars[0].get_facecolor()).upper() == plots.COLOURS[colour]
    assert [len(axes.containers) for axes in picture.axes] == [1, 0, 1, 0]


def test_the_labelled_percentage_is_drawn_against_the_whole(drawn):
    by_day, _ = drawn
    picture = monitoring.picture(by_day.assign(labelled=0.3), {}, "Three days")
    assert picture.axes[2].get_ylim() == (0, 105)


def test_the_lines_are_the_latencies_and_the_ranking_of_each_day(drawn):
    by_day, picture = drawn
    latency, ranking = lines(picture.axes[1]), lines(picture.axes[3])
    assert list(latency) == ["half of the requests", "95 % of the requests", "alert"]
    assert list(ranking) == ["of the day", "alert"]
    for line, metric, colour, marker in (
        (latency["half of the requests"], "p50_ms", 0, "o"),
        (latency["95 % of the requests"], "p95_ms", 1, "s"),
        (ranking["of the day"], "roc_auc", 0, "o"),
    ):
        assert list(line.get_xdata()) == [0, 1, 2]
        assert list(line.get_ydata()) == pytest.approx(by_day[metric].tolist(), nan_ok=True)
        assert (line.get_color(), line.get_marker()) == (plots.COLOURS[colour], marker)
        assert line.get_linestyle() == "-"
    assert [axes.get_yscale() for axes in picture.axes] == ["linear", "log", "linear", "linear"]


def test_a_threshold_is_a_dashed_line_where_its_measure_is_drawn_in_its_unit(drawn):
    alerts = [lines(axes).get("alert") for axes in drawn[1].axes]
    assert [line and line.get_ydata()[0] for line in alerts] == [5, 200, None, 0.6]
    for line in filter(None, alerts):
        assert (line.get_linestyle(), line.get_color(), line.get_linewidth()) == ("--", "black", 1)
    by_day, _ = drawn
    bare = monitoring.picture(by_day, {}, "Three days")
    assert [len(axes.get_lines()) for axes in bare.axes] == [0, 2, 0, 1]
    assert [axes.get_legend() is None for axes in bare.axes] == [True, False, True, False]


def test_a_day_that_is_missing_is_grey_in_every_panel(drawn):
    for axes in drawn[1].axes:
        bars = [bar for each in axes.containers for bar in each]
        (span,) = (patch for patch in axes.patches if patch not in bars)
        assert (span.get_x(), span.get_x() + span.get_width()) == (0.5, 1.5)
        assert span.get_facecolor() == to_rgba("grey", 0.25)
        assert span.get_linewidth() == 0


def test_the_picture_has_room_for_its_legends_and_no_frames(drawn):
    _, picture = drawn
    assert picture.get_size_inches().tolist() == [7.2, 8.4]
    assert picture.get_layout_engine() is not None
    for axes in picture.axes:
        assert [name for name, spine in axes.spines.items() if spine.get_visible()] == [
            "left",
            "bottom",
        ]
        assert {line.get_alpha() for line in axes.get_xgridlines()} == {0.3}
        assert axes.get_xgridlines()[0].get_visible()
    legends = [axes.get_legend() for axes in picture.axes]
    assert [legend is None for legend in legends] == [False, False, True, False]
    for legend, axes in zip(legends, picture.axes, strict=True):
        if legend is not None:
            anchor = legend.get_bbox_to_anchor().transformed(axes.transAxes.inverted())
            assert (anchor.x0, anchor.y0) == pytest.approx((1, 0.5))  # beside the panel
            assert legend._loc == 6  # by the middle of its left side
            assert not legend.get_frame_on()
            assert legend.get_texts()[0].get_fontsize() == 9
