"""Who releases a model just now: a second one is told, and changes nothing.

A lease is known to this gateway process alone. It ends with a restart, and by itself when its owner
has not been heard of for as long as was asked for.
"""

import time
from dataclasses import dataclass, field

MOST_SECONDS = 24 * 3600.0


class Held(Exception):
    """Somebody else holds the lease."""


@dataclass
class Lease:
    """One owner's, until a moment of the monotonic clock."""

    owner: str
    seconds: float
    until: float


@dataclass
class Leases:
    """The leases by model."""

    _held: dict[str, Lease] = field(default_factory=dict)

    def take(self, model: str, owner: str, seconds: float) -> Lease:
        """Give it to this owner, or raise Held; who has it already goes on having it."""
        self.check(model, owner)
        lease = self._held[model] = Lease(owner, seconds, time.monotonic() + seconds)
        return lease

    def release(self, model: str, owner: str) -> None:
        """Give it back; one that was never taken is gone already."""
        self.check(model, owner)
        self._held.pop(model, None)

    def check(self, model: str, owner: str) -> None:
        """Let its owner go on, and anybody where nobody holds it; raise Held for the others."""
        lease = self._held.get(model)
        if lease is None:
            return
        left = lease.until - time.monotonic()
        if left <= 0:
            del self._held[model]
        elif lease.owner == owner:
            lease.until = time.monotonic() + lease.seconds
        else:
            raise Held(
                f"{model} is being released by {lease.owner!r}, which has not been heard of for "
                f"{lease.seconds - left:.0f} s; its lease ends in {left:.0f} s"
            )

    def known(self) -> dict[str, dict[str, float | str]]:
        """All that are held."""
        now = time.monotonic()
        return {
            model: {"owner": lease.owner, "seconds_left": round(lease.until - now, 1)}
            for model, lease in self._held.items()
            if lease.until > now
        }
