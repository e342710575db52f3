"""Experiments, tried a thousand times: how often they find what is there, and what is not."""

import numpy as np
import pytest
from scipy.stats import binom

from include.evaluation import experiments

ALPHA, POWER = 0.05, 0.8
TRIED = 1000


def planned(looks=1, share=0.5, baseline=0.6, lift=0.1):
    return experiments.plan(baseline, lift, ALPHA, POWER, looks, share)


def decided(plan, share, baseline, lift, rng):
    """Run one experiment as planned: who has won, if anybody."""
    new = rng.random(plan.total) < share
    hits = rng.random(plan.total) < np.where(new, baseline + lift, baseline)
    for look, bound in enumerate(plan.bounds, start=1):
        asked, good = new[: plan.asked_by(look)], hits[: plan.asked_by(look)]
        counted = (good[~asked].sum(), (~asked).sum(), good[asked].sum(), asked.sum())
        score = experiments.compare(*counted, bound).score
        if abs(score) >= bound:
            return "new" if score > 0 else "old"
    return None


DESIGNS = [(1, 0.5), (4, 0.5), (4, 0.2)]


@pytest.mark.parametrize(("looks", "share"), DESIGNS)
def test_of_a_thousand_experiments_without_a_difference_no_more_than_alpha_find_one(looks, share):
    rng, plan = np.random.default_rng(97), planned(looks, share)
    wrong = sum(decided(plan, share, 0.6, 0.0, rng) is not None for _ in range(TRIED))
    assert wrong <= binom.ppf(0.999, TRIED, ALPHA)
    assert wrong >= binom.ppf(0.001, TRIED, ALPHA)  # nor are chances given away


@pytest.mark.parametrize(("looks", "share"), DESIGNS)
def test_of_a_thousand_experiments_with_the_planned_lift_enough_find_it(looks, share):
    rng, plan = np.random.default_rng(97), planned(looks, share)
    found = sum(decided(plan, share, 0.6, 0.1, rng) == "new" for _ in range(TRIED))
    assert found >= binom.ppf(0.001, TRIED, POWER)


def test_looking_five_times_at_the_single_looks_bound_finds_what_is_not_there():
    """What the bounds are for: the same traffic, judged by 1.96 each time."""
    rng, single = np.random.default_rng(97), planned(1)
    careless = experiments.Plan(single.total, single.bounds * 5)
    wrong = sum(decided(careless, 0.5, 0.6, 0.0, rng) is not None for _ in range(TRIED))
    assert wrong > 2 * ALPHA * TRIED
