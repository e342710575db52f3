"""Comparing two shares: how many must be asked, when one may look, and who has won.

A plan is made before the first request: from the share as it is, the lift that would matter, the
false alarms and the misses that one can live with, and how often one wants to look. With one look
it is the two-proportion test; with more it is sequential, with O'Brien and Fleming's bounds: hard
to pass at first, and at the last look little higher than that of the single one. The score of the
two-proportion test is a random walk in the number asked, and both bounds and number come from the
chance that such a walk stays between two walls.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

NODES = 120
SUSPICIOUS = 0.001


@dataclass(frozen=True)
class Plan:
    """What was agreed on before anybody was asked."""

    total: int
    """How many have to be asked, both sides together, if nothing is decided before."""
    bounds: list[float]
    """For each look how far from 0 the score must be to decide."""

    def asked_by(self, look: int) -> int:
        """How many have been asked when one looks for the first, second … time."""
        return ceil(self.total * look / len(self.bounds))


@dataclass(frozen=True)
class Compared:
    """What the two-proportion test says of a new share beside the old one."""

    score: float
    """How many standard errors the new one lies above."""
    difference: float
    low: float
    high: float
    """Where the true difference is; it holds for all looks together if the bounds are a plan's."""


def plan(
    baseline: float, lift: float, alpha: float, power: float, looks: int, new_share: float
) -> Plan:
    """How many to ask to find a lift with this power, and a lift of 0 with a chance of alpha."""
    from scipy.optimize import brentq

    if not 0 < baseline < baseline + lift < 1:
        raise ValueError(
            f"a share of {baseline:.3f} can't be lifted by {lift:g}: both must be between 0 and 1"
        )
    wall = brentq(lambda at: stays_within(at, looks, 0.0) - (1 - alpha), 0.5, 8 * sqrt(looks))
    drift = brentq(lambda by: stays_within(wall, looks, by) - (1 - power), 0.0, 2 * wall)
    middle = baseline + lift / 2
    spread = middle * (1 - middle) * (1 / new_share + 1 / (1 - new_share))
    total = ceil(looks * drift**2 * spread / lift**2)
    return Plan(total, [wall / sqrt(look) for look in range(1, looks + 1)])


def stays_within(wall: float, steps: int, drift: float) -> float:
    """The chance that a walk of standard normal steps is between the walls after each of them."""
    import numpy as np
    from scipy.stats import norm

    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    places, weights = wall * nodes, wall * weights
    step = norm.pdf(places[:, None] - places[None, :] - drift)
    density = norm.pdf(places - drift)
    for _ in range(steps - 1):
        density = step @ (weights * density)
    return float(weights @ density)


def compare(hits: int, asked: int, new_hits: int, new_asked: int, bound: float) -> Compared:
    """Test the difference of two shares; the bound says how many standard errors are enough."""
    if not asked or not new_asked:
        raise ValueError(f"one side has no answers: {asked} here, {new_asked} there")
    old, new = hits / asked, new_hits / new_asked
    pooled = (hits + new_hits) / (asked + new_asked)
    error = sqrt(pooled * (1 - pooled) * (1 / asked + 1 / new_asked))
    reach = bound * sqrt(old * (1 - old) / asked + new * (1 - new) / new_asked)
    difference = new - old
    score = difference / error if error else 0.0
    return Compared(score, difference, difference - reach, difference + reach)


def counted(
    lines: Iterable[Mapping[str, Any]], truth: Mapping[str, int]
) -> tuple[Counter[str], Counter[str]]:
    """For each version how many callers it got right and how many it answered, each caller once."""
    hits: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    met = set()
    for line in lines:
        caller, version = line["key"], line["version"]
        if line["status"] == 200 and caller in truth and caller not in met:
            met.add(caller)
            answered[version] += 1
            hits[version] += int(line["answer"]["predictions"][0] == truth[caller])
    return hits, answered


def split_as_planned(counts: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """The chance of counts that are at least as far from the weights; see SUSPICIOUS."""
    from scipy.stats import chisquare

    everybody, whole = sum(counts.values()), sum(weights.values())
    expected = [everybody * weight / whole for weight in weights.values()]
    return float(chisquare([counts.get(side, 0) for side in weights], expected).pvalue)
