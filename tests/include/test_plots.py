"""Pictures of a model: which there are, and what is drawn in them."""

import numpy as np
import pytest

from include.data import churn
from include.evaluation import plots


def test_numbers_are_drawn_as_curves_and_categories_as_bars():
    before, now = churn.customers(200, 1), churn.customers(200, 2)
    curves = plots.shifted(before.usage_hours, now.usage_hours, "usage")
    assert [each.get_text() for each in curves.axes[0].get_legend().get_texts()] == [
        "reference",
        "window",
    ]
    drawn = plots.shifted(before.plan, now.plan, "plan")
    heights = sum(bar.get_height() for bar in drawn.axes[0].patches)
    assert heights == pytest.approx(2)


def test_scores_are_judged_in_four_pictures():
    rng = np.random.default_rng(97)
    labels = rng.integers(0, 2, 400)
    scores = (rng.random(400) * 0.7 + 0.3 * labels).round(1)
    pictures = plots.judged(labels, {"one": scores}, 0.5)
    assert list(pictures) == ["roc", "precision_recall", "calibration", "confusion"]
