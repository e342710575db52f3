"""Measures of a service: counted by hand, and left out where there is nothing to count."""

from datetime import date

import pandas as pd
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sklearn.metrics import brier_score_loss, roc_auc_score

from include.evaluation import monitoring

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
    assert by_day.loc[str(SECOND), "p95_ms"] != by_day.loc[str(SECOND), "p95_ms"]


def many(labels):
    scores = [(place * 37 % 100) / 100 for place in range(len(labels))]
    return table(*(row(FIRST, score=s, label=n) for s, n in zip(scores, labels, strict=True)))


def test_who_was_right_is_measured_over_what_is_labelled_alone():
    labels = [None if place % 4 == 0 else place % 3 == 0 for place in range(120)]
    rows = many(labels)
    known = rows.dropna()
    measures = monitoring.measured(rows, [FIRST])
    assert measures["labelled"] == 0.75
    assert measures["roc_auc"] == roc_auc_score(known.label, known.score)
    assert measures["brier"] == brier_score_loss(known.label, known.score)


@pytest.mark.parametrize(
    "labels", [[0, 1] * 24, [0] * 100], ids=["too few labels", "nobody has left"]
)
def test_where_labels_can_not_tell_nothing_is_told(labels):
    assert not monitoring.measured(many(labels), [FIRST]).keys() & {"roc_auc", "brier"}


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


def test_the_picture_says_in_which_units_and_which_day_is_missing():
    by_day = monitoring.by_day(ROWS, [FIRST, SECOND, THIRD])
    drawn = monitoring.picture(by_day, {"p95_ms": 200}, "Three days")
    panels = drawn.axes
    assert [axes.get_ylabel() for axes in panels] == [
        "requests per day",
        "latency in ms",
        "labelled in %",
        "ROC AUC",
    ]
    assert "day" in panels[-1].get_xlabel()
    assert [label.get_text() for label in panels[-1].get_xticklabels()] == [
        "01-01",
        "01-02",
        "01-03",
    ]
    lines = {line.get_label(): line.get_ydata() for line in panels[1].get_lines()}
    assert list(lines["alert"]) == [200, 200]
    assert lines["95 % of the requests"][2] == 20
