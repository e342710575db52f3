"""Experiments on two shares: against tables, against SciPy, and by trying them a thousand times."""

import numpy as np
import pytest
from scipy.stats import binom, chi2_contingency, norm

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


@pytest.mark.parametrize(
    ("looks", "last"), [(1, 1.960), (2, 1.977), (3, 2.004), (4, 2.024), (5, 2.040)]
)
def test_the_bounds_are_those_of_obrien_and_flemings_table(looks, last):
    bounds = planned(looks).bounds
    assert bounds == pytest.approx([last * np.sqrt(looks / k) for k in range(1, looks + 1)], 1e-3)


def test_with_one_look_it_is_the_formula_of_the_textbooks():
    needed = (norm.isf(ALPHA / 2) + norm.isf(1 - POWER)) ** 2 * 4 * 0.65 * 0.35 / 0.1**2
    assert planned().total == pytest.approx(needed, abs=2)
    assert planned(5).total < 1.04 * planned().total
    assert planned(share=0.2).total > 1.5 * planned().total


def test_the_last_look_is_at_everybody():
    plan = planned(4)
    assert [plan.asked_by(look) for look in (1, 2, 3, 4)][-1] == plan.total
    assert plan.asked_by(1) == pytest.approx(plan.total / 4, abs=1)


def test_the_score_is_that_of_scipys_test_without_correction():
    table = [[200, 141], [240, 101]]
    compared = experiments.compare(200, 341, 240, 341, 1.96)
    assert 2 * norm.sf(compared.score) == pytest.approx(chi2_contingency(table, False).pvalue)
    assert compared.difference == pytest.approx(40 / 341)
    assert compared.low == pytest.approx(0.0460, abs=1e-4)
    assert compared.high == pytest.approx(0.1886, abs=1e-4)


def test_who_all_answer_alike_do_not_differ():
    assert experiments.compare(5, 5, 7, 7, 1.96).score == 0


def test_a_split_is_suspicious_when_answers_are_missing_and_not_by_chance():
    weights = {"1": 80.0, "2": 20.0}
    usual = [dict(zip("12", each, strict=True)) for each in ((800, 200), (815, 185), (780, 220))]
    assert all(
        experiments.split_as_planned(each, weights) > experiments.SUSPICIOUS for each in usual
    )
    lost = {"1": 800, "2": 134}
    assert experiments.split_as_planned(lost, weights) < experiments.SUSPICIOUS
    assert experiments.split_as_planned({"1": 800}, weights) < experiments.SUSPICIOUS


def test_what_makes_no_sense_is_refused_in_words():
    with pytest.raises(ValueError, match=r"0\.950 can't be lifted by 0\.1"):
        planned(baseline=0.95)
    with pytest.raises(ValueError, match="one side has no answers: 10 here, 0 there"):
        experiments.compare(5, 10, 0, 0, 1.96)


def test_each_caller_is_counted_once_on_the_side_that_answered_first():
    def line(caller, version, said, status=200):
        answer = {"predictions": [said]} if status == 200 else None
        return {"key": caller, "version": version, "status": status, "answer": answer}

    lines = [
        line("7", "1", 1),
        line("8", "2", 0),
        line("7", "2", 0),
        line("9", "2", 1, status=500),
        line("9", "2", 1),
        line("a stranger", "1", 1),
    ]
    hits, answered = experiments.counted(lines, {"7": 1, "8": 1, "9": 1})
    assert answered == {"1": 1, "2": 2}
    assert (hits["1"], hits["2"]) == (1, 1)
