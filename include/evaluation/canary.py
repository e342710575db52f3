"""Is a new version worse than the one beside it? Tests for the difference, and what follows.

Each test asks whether it is worse by more than is tolerated. A test for any difference at all finds
a harmless one too, once there are requests enough.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SLOWER = 2.0
"""So many times as slow may answers be."""
APART = 0.1
"""So far apart may the distributions of scores be, in the distance of Kolmogorov and Smirnov."""
ALPHA = 0.001
"""How often a version that is no worse may be aborted by one look at it."""
DOUBT = 0.05
"""What is less likely than this, and not less than ALPHA, wants a longer look."""


@dataclass(frozen=True)
class Seen:
    """What callers got from a version."""

    failed: int
    seconds: list[float]
    """How long each good answer took."""
    scores: list[float]

    @classmethod
    def of(cls, version: str, requests: Iterable[Mapping[str, Any]]) -> "Seen":
        """Pick one version's answers out of a gateway's log; a request asked twice counts once."""
        asked = {line["request_id"]: line for line in requests}
        lines = [line for line in asked.values() if line["version"] == version]
        good = [line for line in lines if line["status"] == 200 and _is_score(line)]
        return cls(
            failed=len(lines) - len(good),
            seconds=[line["seconds"] for line in good],
            scores=[line["answer"]["scores"][0] for line in good],
        )

    @property
    def requests(self) -> int:
        """How many asked it."""
        return self.failed + len(self.seconds)


def _is_score(line: Mapping[str, Any]) -> bool:
    """Whether an answer holds a number; NaN would hide every difference of scores."""
    return math.isfinite(line["answer"]["scores"][0])


def evidence(stable: Seen, canary: Seen, side_by_side: bool = True) -> dict[str, float]:
    """How likely what was seen is by chance, for each way in which the canary could be worse.

    What was not asked side by side had another load, and is not compared by its latency.
    """
    from scipy import stats

    table = [[seen.failed, len(seen.seconds)] for seen in (canary, stable)]
    found = {"errors": float(stats.fisher_exact(table, alternative="greater").pvalue)}
    if not (stable.seconds and canary.seconds):  # nothing to compare but failures
        return found
    distance = stats.ks_2samp(canary.scores, stable.scores).statistic
    pairs = len(canary.scores) * len(stable.scores) / (len(canary.scores) + len(stable.scores))
    beyond = pairs**0.5 * (distance - APART)
    found["scores"] = float(stats.kstwobign.sf(beyond))  # 1 where it is less than APART
    if side_by_side:
        tolerated = [SLOWER * seconds for seconds in stable.seconds]
        slower = stats.mannwhitneyu(canary.seconds, tolerated, alternative="greater")
        found["latency"] = float(slower.pvalue)
    return found


def verdict(evidence: Mapping[str, float], requests: int, least: int) -> str:
    """Promote, abort, or hold: look longer, in doubt or where too few have asked."""
    worst = min(evidence.values()) * len(evidence)  # so many tests, so many chances to be wrong
    if worst < ALPHA:
        return "abort"
    return "hold" if worst < DOUBT or requests < least else "promote"
