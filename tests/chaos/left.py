"""What must not be left when all runs have ended, and when everything was stopped."""

from collections.abc import Set
from datetime import datetime
from pathlib import Path

from tests.chaos.installation import Installation
from tests.scheduler import nothing_left


def running(installation: Installation, before: Set[tuple[str, str, str]]) -> list[str]:
    """Leases, and what is on the platforms and was not there before."""
    leases = installation.gateway("/leases")
    held = [f"{model} is still leased to {lease['owner']!r}" for model, lease in leases.items()]
    more = sorted(installation.resources() - before)
    return held + [
        f"{platform} has {kind} that nobody took away: {name}" for platform, kind, name in more
    ]


def stopped(home: Path, last_kill: datetime | None) -> list[str]:
    """Processes, ports, and half-written files of a writer that was killed."""
    return nothing_left.left(home) + [
        f"half-written, and older than the last kill: {path}" for path in parts(home, last_kill)
    ]


def parts(home: Path, last_kill: datetime | None) -> list[Path]:
    """The half-written files that are older than the last kill."""
    if last_kill is None:
        return []
    latest = last_kill.timestamp()
    return sorted(path for path in home.rglob("*.part") if path.stat().st_mtime < latest)
