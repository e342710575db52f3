"""What containers printed, in the amounts and with the times that clients ask for."""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path


def lines(file: Path, place: int, asked: Mapping[str, str]) -> tuple[bytes, int]:
    """The whole lines after a place in the file, and the place after them."""
    if not file.exists():
        return b"", place
    with file.open("rb") as log:
        log.seek(place)
        text = log.read()
    whole = text[: text.rfind(b"\n") + 1]
    found = whole.splitlines(keepends=True)
    if seconds := asked.get("sinceSeconds"):
        found = [line for line in found if _written(line) >= time.time() - float(seconds)]
    if since := asked.get("sinceTime"):
        earliest = datetime.fromisoformat(since).timestamp()
        found = [line for line in found if _written(line) >= earliest]
    if last := asked.get("tailLines"):
        found = found[-int(last) :] if int(last) else []
    if asked.get("timestamps", "").lower() != "true":
        found = [line.partition(b" ")[2] for line in found]
    shown = b"".join(found)
    if limit := asked.get("limitBytes"):
        shown = shown[: int(limit)]
    return shown, place + len(whole)


def _written(line: bytes) -> float:
    stamp = line.partition(b" ")[0].decode()
    return datetime.fromisoformat(stamp).timestamp()
