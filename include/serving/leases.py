"""Who releases a model just now: a second one is told, and changes nothing.

A lease ends by itself when its owner has not been heard of for as long as was asked for. After a
restart of the gateway this time begins anew.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from include.serving import kept

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

    file: Path
    _held: dict[str, Lease] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take up the leases that were held when the gateway last ended."""
        now = time.monotonic()
        for model, (owner, seconds) in kept.read(self.file, {}).items():
            self._held[model] = Lease(owner, seconds, now + seconds)

    def take(self, model: str, owner: str, seconds: float) -> Lease:
        """Give it to this owner, or raise Held; who has it already goes on having it."""
        self.check(model, owner)
        lease = Lease(owner, seconds, time.monotonic() + seconds)
        self._keep(self._held | {model: lease})
        return lease

    def release(self, model: str, owner: str) -> None:
        """Give it back; one that was never taken is gone already."""
        self.check(model, owner)
        self._keep({name: lease for name, lease in self._held.items() if name != model})

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

    def _keep(self, held: dict[str, Lease]) -> None:
        kept.write(self.file, {name: (each.owner, each.seconds) for name, each in held.items()})
        self._held = held
