"""Experiments on two shares: by hand, against tables and against SciPy."""

from dataclasses import FrozenInstanceError
from functools import cache

import numpy as np
import pytest
from scipy.stats import chi2_contingency, multivariate_normal, norm

from include.evaluation import experiments

ALPHA, POWER = 0.05, 0.8


@cache
def planned(looks=1, share=0.5, baseline=0.6, lift=0.1):
    return experiments.plan(baseline, lift, ALPHA, POWER, looks, share)


@pytest.mark.parametrize(
    ("looks", "last"), [(1, 1.960), (2, 1.977), (3, 2.004), (4, 2.024), (5, 2.040)]
)
def test_the_bounds_are_those_of_obrien_and_flemings_table(looks, last):
    bounds = planned(looks).bounds
    assert bounds == pytest.approx([last * np.sqrt(looks / k) for k in range(1, looks + 1)], 1e-3)


def test_with_one_look_it_is_the_formula_of_the_textbooks():
    needed = (norm.isf(ALPHA / 2) + norm.isf(1 - POWER)) ** 2 * 0.65 * 0.35 / 0.1**2
    assert planned().total == np.ceil(needed * 4)  # 1 / 0.5 + 1 / 0.5
    assert planned(share=0.2).total == np.ceil(needed * 6.25)  # 1 / 0.2 + 1 / 0.8
    assert planned(share=0.8).total == planned(share=0.2).total
    small = needed * 4 * 0.105 * 0.895 / (0.65 * 0.35) * 0.1**2 / 0.01**2
    assert planned(baseline=0.1, lift=0.01).total == np.ceil(small)


@pytest.mark.parametrize(("looks", "dearer"), [(2, 1.008), (3, 1.017), (4, 1.024), (5, 1.028)])
def test_to_look_more_often_costs_what_the_table_says(looks, dearer):
    assert planned(looks).total / planned().total == pytest.approx(dearer, abs=0.002)


def test_a_looser_level_and_less_power_need_fewer():
    loose = experiments.plan(0.6, 0.1, alpha=0.5, power=0.55, looks=1, new_share=0.5)
    assert loose.bounds == pytest.approx([norm.isf(0.25)])
    strict = experiments.plan(0.6, 0.1, alpha=1e-6, power=0.99, looks=1, new_share=0.5)
    assert strict.bounds == pytest.approx([norm.isf(0.5e-6)])
    needed = (norm.isf(0.5e-6) + norm.isf(0.01)) ** 2 * 4 * 0.65 * 0.35 / 0.1**2
    assert strict.total == np.ceil(needed)


@pytest.mark.parametrize("drift", [0.0, 0.4, -0.4])
def test_the_chance_to_stay_between_the_walls_by_the_normal_distribution(drift):
    once = norm.cdf(1.5 - drift) - norm.cdf(-1.5 - drift)
    assert experiments.stays_within(1.5, 1, drift) == pytest.approx(once)
    places = multivariate_normal([drift, 2 * drift], [[1, 1], [1, 2]])
    twice = places.cdf([1.5, 1.5], lower_limit=[-1.5, -1.5])
    assert experiments.stays_within(1.5, 2, drift) == pytest.approx(twice, abs=1e-5)


def test_looks_are_at_equal_shares_rounded_up_and_the_last_is_at_everybody():
    plan = experiments.Plan(10, [3.0, 2.0, 1.0])
    assert [plan.asked_by(look) for look in (1, 2, 3)] == [4, 7, 10]


def test_neither_a_plan_nor_a_comparison_can_be_changed():
    with pytest.raises(FrozenInstanceError):
        experiments.Plan(10, [2.0]).total = 5
    with pytest.raises(FrozenInstanceError):
        experiments.compare(5, 10, 6, 10, 1.96).score = 9


def test_the_score_is_that_of_scipys_test_without_correction():
    table = [[200, 141], [240, 101]]
    compared = experiments.compare(200, 341, 240, 341, 1.96)
    assert 2 * norm.sf(compared.score) == pytest.approx(chi2_contingency(table, False).pvalue)
    assert compared.difference == pytest.approx(40 / 341)
    assert compared.low == pytest.approx(0.0460, abs=1e-4)
    assert compared.high == pytest.approx(0.1886, abs=1e-4)


def test_a_bound_twice_as_high_makes_the_interval_twice_as_wide():
    once, twice = (experiments.compare(200, 341, 240, 341, bound) for bound in (1.96, 3.92))
    assert twice.high - twice.low == pytest.approx(2 * (once.high - once.low))
    assert twice.score == once.score


def test_a_new_share_that_is_lower_has_a_score_and_a_difference_below_zero():
    up, down = (
        experiments.compare(200, 341, 240, 341, 2),
        experiments.compare(240, 341, 200, 341, 2),
    )
    assert (down.score, down.difference) == pytest.approx((-up.score, -up.difference))
    assert (down.low, down.high) == pytest.approx((-up.high, -up.low))


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
    assert experiments.split_as_planned({"1": 800}, weights) < experiments.SUSPICIOUS == 0.001


def test_the_chance_of_a_split_by_hand():
    # 800 and 200 are expected: chi-squared is 15²/800 + 15²/200, with one degree of freedom.
    found = experiments.split_as_planned({"2": 185, "1": 815}, {"1": 80.0, "2": 20.0})
    assert found == pytest.approx(2 * norm.sf(np.sqrt(15**2 / 800 + 15**2 / 200)))
    # A side that nobody was given to is missing from the counts: 2 of 4 are expected on each.
    assert experiments.split_as_planned({"1": 4}, {"1": 1, "2": 1}) == pytest.approx(
        2 * norm.sf(np.sqrt(2**2 / 2 + 2**2 / 2))
    )


@pytest.mark.parametrize(
    ("baseline", "lift", "told"),
    [
        (0.95, 0.1, "0.950 can't be lifted by 0.1"),
        (0.5, 0.5, "0.500 can't be lifted by 0.5"),
        (0.0, 0.1, "0.000 can't be lifted by 0.1"),
        (0.5, 0.0, "0.500 can't be lifted by 0"),
        (0.5, -0.1, "0.500 can't be lifted by -0.1"),
    ],
)
def test_a_share_that_can_not_be_lifted_so_is_refused(baseline, lift, told):
    with pytest.raises(ValueError, match="lifted") as refused:
        planned(baseline=baseline, lift=lift)
    assert str(refused.value) == f"a share of {told}: both must be between 0 and 1"


@pytest.mark.parametrize(
    ("counted", "told"), [((5, 10, 0, 0), "10 here, 0 there"), ((0, 0, 5, 10), "0 here, 10 there")]
)
def test_a_side_without_answers_is_refused(counted, told):
    with pytest.raises(ValueError, match=rf"^one side has no answers: {told}$"):
        experiments.compare(*counted, 1.96)


def test_each_caller_is_counted_once_on_the_side_that_answered_first():
    def line(caller, version, said, status=200):
        answer = {"predictions": [said, 1 - said]} if status == 200 else None
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
