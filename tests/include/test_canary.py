"""The tests that a canary must pass: they find what is worse, and seldom anything else."""

import numpy as np
import pytest

from include.evaluation.canary import ALPHA, Seen, evidence, verdict

LEAST = 8


def version(rng, requests, failing=0.0, slower=1.0, moved=0.0):
    failed = int(rng.binomial(requests, failing))
    good = requests - failed
    seconds = slower * rng.lognormal(-5, 0.5, good)
    return Seen(failed, seconds.tolist(), (rng.beta(2, 3, good) + moved).tolist())


def judged(stable, canary):
    return verdict(evidence(stable, canary), canary.requests, LEAST)


def test_a_log_is_read_version_by_version_and_who_asked_twice_counts_once():
    lines = [
        {
            "request_id": "a",
            "version": "1",
            "status": 200,
            "seconds": 0.1,
            "answer": {"scores": [0.3]},
        },
        {"request_id": "b", "version": "2", "status": 500, "seconds": 0.2, "answer": None},
        {
            "request_id": "c",
            "version": "2",
            "status": 200,
            "seconds": 0.9,
            "answer": {"scores": [0.5]},
        },
        {
            "request_id": "c",
            "version": "2",
            "status": 200,
            "seconds": 0.4,
            "answer": {"scores": [0.5]},
        },
    ]
    assert Seen.of("1", lines) == Seen(0, [0.1], [0.3])
    assert Seen.of("2", lines) == Seen(1, [0.4], [0.5])
    assert Seen.of("2", lines).requests == 2


def test_a_version_that_is_no_worse_is_seldom_aborted():
    rng = np.random.default_rng(97)
    verdicts = [
        judged(version(rng, 285, failing=0.02), version(rng, 15, failing=0.02)) for _ in range(1000)
    ]
    # 1,000 looks at ALPHA each: more than 6 aborts would be met once in 20,000 times.
    assert verdicts.count("abort") <= 6
    assert verdicts.count("promote") > 900
    assert ALPHA == 0.001


@pytest.mark.parametrize(
    ("fault", "test"),
    [({"failing": 0.5}, "errors"), ({"slower": 6.0}, "latency"), ({"moved": 0.6}, "scores")],
)
def test_each_way_to_be_worse_is_found_on_fifteen_answers(fault, test):
    rng = np.random.default_rng(97)
    for _ in range(50):
        stable, canary = version(rng, 285), version(rng, 15, **fault)
        found = evidence(stable, canary)
        assert min(found, key=found.get) == test
        assert judged(stable, canary) == "abort"


def test_a_harmless_difference_is_no_alarm_however_many_ask():
    rng = np.random.default_rng(97)
    stable = version(rng, 20_000)
    assert judged(stable, version(rng, 20_000, slower=1.5, moved=0.03)) == "promote"


def test_in_doubt_and_with_few_answers_it_holds():
    rng = np.random.default_rng(97)
    stable = version(rng, 285)
    assert judged(stable, version(rng, LEAST - 1)) == "hold"
    one_of_fifteen = Seen(1, *(values[:14] for values in (stable.seconds, stable.scores)))
    assert 0.001 < 3 * evidence(stable, one_of_fifteen)["errors"] < 0.2
    two_of_thirty = Seen(2, *(values[:28] for values in (stable.seconds, stable.scores)))
    assert judged(stable, two_of_thirty) == "hold"


def test_who_was_not_asked_at_the_same_time_is_not_judged_by_latency():
    rng = np.random.default_rng(97)
    stable, later = version(rng, 150), version(rng, 300, slower=6.0)
    assert evidence(stable, later, side_by_side=False).keys() == {"errors", "scores"}


def test_a_version_that_answers_nothing_is_judged_by_its_failures():
    rng = np.random.default_rng(97)
    stable = version(rng, 285)
    assert evidence(stable, Seen(15, [], [])).keys() == {"errors"}
    assert judged(stable, Seen(15, [], [])) == "abort"
    assert judged(stable, Seen(0, [], [])) == "hold"
