"""The tests that a canary must pass: their p-values by hand, and the verdicts that follow."""

import math
from dataclasses import FrozenInstanceError
from math import exp

import pytest

from include.evaluation import canary
from include.evaluation.canary import Seen, evidence, verdict

LEAST = 8
EVENLY = [place / 100 for place in range(100)]
ONE_EACH_WAY = {"errors": 0.8, "scores": 0.8, "latency": 1.0}


def answered(version, request, *scores, seconds=0.01, status=200):
    told = {"request_id": f"{version}-{request}", "version": version, "status": status}
    return told | {"seconds": seconds, "answer": {"scores": list(scores)} if scores else None}


def judged(stable, seen):
    return verdict(evidence(stable, seen), seen.requests, LEAST)


def test_a_log_is_read_version_by_version_and_a_repeated_request_counts_once():
    lines = [
        answered("1", "a", 0.3, seconds=0.1),
        answered("2", "b", seconds=0.2, status=500),
        answered("2", "c", 0.5, 0.7, seconds=0.9),
        answered("2", "c", 0.6, math.nan, seconds=0.4),
    ]
    assert Seen.of("1", lines) == Seen(0, [0.1], [0.3])
    assert Seen.of("2", lines) == Seen(1, [0.4], [0.6])  # the last answer, and its first score
    assert Seen.of("2", lines).requests == 2
    assert Seen.of("3", lines) == Seen(0, [], [])


def test_what_was_seen_can_not_be_changed():
    with pytest.raises(FrozenInstanceError):
        Seen(0, [], []).failed = 9


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_an_answer_that_is_no_number_is_a_failure_and_hides_no_difference(score):
    log = [answered("1", n, each) for n, each in enumerate([score, *EVENLY])]
    log += [answered("2", n, 1.0) for n in range(100)]
    stable, moved = Seen.of("1", log), Seen.of("2", log)
    assert (stable.failed, stable.scores) == (1, EVENLY)
    assert judged(stable, moved) == "abort"
    blind = Seen.of("3", [answered("3", n, score) for n in range(100)])
    assert judged(stable, blind) == "abort"


def test_the_p_value_of_errors_is_one_sided_by_hand():
    def p(failed, requests, canary_failed, canary_requests):
        stable, canary = [0.01] * (requests - failed), [0.01] * (canary_requests - canary_failed)
        found = evidence(Seen(failed, stable, stable), Seen(canary_failed, canary, canary))
        return found["errors"]

    # Both of the 2 failures among 315 requests fall on the 30 of the canary.
    assert p(0, 285, 2, 30) == pytest.approx(30 * 29 / (315 * 314))
    # Of 3 failures most fall on one of two equal halves, and as often on the other.
    assert p(1, 30, 2, 30) == pytest.approx(1 / 2)
    # The canary has none of 2 failures: no outcome speaks less against it.
    assert p(2, 30, 0, 30) == pytest.approx(1)


@pytest.mark.parametrize(
    ("stable", "seen", "p"),
    [
        # Of the 6 orders of 4 answers one has the canary's two behind twice as long as stable's.
        ([1.0, 1.1], [2.3, 2.4], 1 / 6),
        ([1.0, 1.1], [1.8, 1.9], 1),  # slower, but not twice as slow
        ([5.0, 6.0], [1.0, 1.1], 1),
    ],
)
def test_the_p_value_of_latency_asks_one_sided_for_more_than_twice_as_slow(stable, seen, p):
    found = evidence(Seen(0, stable, [0.5] * 2), Seen(0, seen, [0.5] * 2))
    assert found["latency"] == pytest.approx(p)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_the_p_value_of_scores_by_hand_whichever_way_they_moved(score):
    seconds = [0.01] * 48
    moved = [score] * 8 + [0.5] * 8  # half of 16 moved: the distance is 0.5, and 0.1 is tolerated
    found = evidence(Seen(0, seconds, [0.5] * 48), Seen(0, seconds[:16], moved))
    squared = 0.4**2 * (16 * 48) / (16 + 48)
    assert found["scores"] == pytest.approx(2 * exp(-2 * squared), rel=1e-4)


@pytest.mark.parametrize("moved", [0, 50, 100])
def test_a_distance_of_scores_that_is_tolerated_is_no_evidence(moved):
    seconds = [0.01] * 1000
    scores = [1.0] * moved + [0.5] * (1000 - moved)  # a distance of 0.1 at most
    found = evidence(Seen(0, seconds, [0.5] * 1000), Seen(0, seconds, scores))
    assert found["scores"] == 1


def test_a_canary_that_was_not_asked_side_by_side_is_not_judged_by_latency():
    stable, slow = Seen(0, [0.01] * 100, EVENLY), Seen(0, [0.09] * 100, EVENLY)
    assert judged(stable, slow) == "abort"
    assert evidence(stable, slow, side_by_side=True) == evidence(stable, slow)
    later = evidence(stable, slow, side_by_side=False)
    assert later == {"errors": 1, "scores": 1}


def test_a_version_that_answers_nothing_is_judged_by_its_failures():
    good = Seen(0, [0.01] * 100, EVENLY)
    assert evidence(good, Seen(15, [], [])).keys() == {"errors"}
    assert evidence(Seen(15, [], []), good).keys() == {"errors"}
    assert judged(good, Seen(15, [], [])) == "abort"
    assert judged(good, Seen(0, [], [])) == "hold"


def test_two_failures_among_thirty_are_in_doubt_and_hold():
    stable = Seen(0, [0.01] * 285, [0.5] * 285)
    doubtful = Seen(2, [0.01] * 28, [0.5] * 28)
    assert canary.ALPHA < 3 * evidence(stable, doubtful)["errors"] < canary.DOUBT
    assert judged(stable, doubtful) == "hold"


def test_a_canary_that_is_better_in_every_way_is_promoted():
    stable, better = Seen(30, [0.05] * 100, EVENLY), Seen(0, [0.01] * 100, EVENLY)
    assert min(evidence(stable, better).values()) > 0.99
    assert judged(stable, better) == "promote"


def test_the_levels_are_those_that_the_pipeline_promises():
    assert (canary.ALPHA, canary.DOUBT) == (0.001, 0.05)


@pytest.mark.parametrize(
    ("p", "tests", "answer"),
    [
        (0.0009, 1, "abort"),
        (0.001, 1, "hold"),  # as likely as ALPHA, not less
        (0.0009, 3, "hold"),
        (0.0003, 3, "abort"),
        (0.045, 1, "hold"),
        (0.05, 1, "promote"),
        (0.045, 3, "promote"),
        (0.015, 3, "hold"),
    ],
)
def test_the_smallest_p_value_is_multiplied_by_the_number_of_tests(p, tests, answer):
    found = ONE_EACH_WAY | {"errors": p}
    assert verdict(dict(list(found.items())[:tests]), LEAST, LEAST) == answer


@pytest.mark.parametrize(("requests", "answer"), [(7, "hold"), (8, "promote"), (9, "promote")])
def test_a_canary_is_promoted_once_enough_have_asked(requests, answer):
    assert verdict(ONE_EACH_WAY, requests, LEAST) == answer


@pytest.mark.parametrize("requests", [0, 7])
def test_a_canary_that_is_clearly_worse_is_aborted_however_few_have_asked(requests):
    assert verdict({"errors": 0.0001}, requests, LEAST) == "abort"
