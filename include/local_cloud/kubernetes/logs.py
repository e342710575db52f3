"""What containers printed, in the amounts and with the times that clients ask for."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from include.local_cloud.kubernetes.numbers import whole
from include.local_cloud.kubernetes.status import bad_request


@dataclass(frozen=True)
class Asked:
    """Which part of a log a client wants."""

    earliest: float | None = None
    """Since when, in seconds of the epoch."""
    tail: int | None = None
    most: int | None = None
    """Bytes."""
    timestamps: bool = False

    def rest(self) -> "Asked":
        """What is wanted of the lines that come later, while the client follows."""
        return Asked(timestamps=self.timestamps)


def wanted(query: Mapping[str, str]) -> Asked:
    """Read the parameters of a request, or refuse them."""
    seconds, since = whole(query, "sinceSeconds", least=1), query.get("sinceTime")
    if seconds is not None and since:
        raise bad_request("at most one of sinceTime and sinceSeconds may be specified")
    return Asked(
        earliest=_moment(since) if since else None if seconds is None else time.time() - seconds,
        tail=whole(query, "tailLines"),
        most=whole(query, "limitBytes", least=1),
        timestamps=query.get("timestamps", "").lower() == "true",
    )


def lines(file: Path, place: int, asked: Asked) -> tuple[bytes, int]:
    """The whole lines after a place in the file, and the place after them."""
    if not file.exists():
        return b"", place
    with file.open("rb") as log:
        log.seek(place)
        text = log.read()
    whole = text[: text.rfind(b"\n") + 1]
    found = whole.splitlines(keepends=True)
    if asked.earliest is not None:
        found = [line for line in found if _written(line) >= asked.earliest]
    if asked.tail is not None:
        found = found[-asked.tail :] if asked.tail else []
    if not asked.timestamps:
        found = [line.partition(b" ")[2] for line in found]
    shown = b"".join(found)[: asked.most]
    return shown, place + len(whole)


def _written(line: bytes) -> float:
    stamp = line.partition(b" ")[0].decode()
    return datetime.fromisoformat(stamp).timestamp()


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise bad_request(f"sinceTime: {text!r:.100} is no time of RFC 3339") from None
    if moment.tzinfo is None:
        raise bad_request(f"sinceTime: {text!r:.100} has no time zone")
    return moment.timestamp()
