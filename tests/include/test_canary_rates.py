"""How often a canary is aborted that is no worse, and how often one that is worse is found."""

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
