"""What a platform remembers: one JSON file for each thing, so that it survives a restart."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from include.local_cloud import server

LONGEST_FILE = 225  # disks take 255 bytes, and an unfinished file has a longer name


@dataclass(frozen=True)
class Table:
    """Things of one kind by their names; what is read is a copy, and what is put is on disk."""

    folder: Path
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        """Make its folder."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, name: str) -> bool:
        """Whether there is one."""
        return self._file(name).exists()

    def __iter__(self) -> Iterator[str]:
        """The names, sorted."""
        return iter(sorted(unquote(path.stem) for path in self.folder.glob("*.json")))

    def get(self, name: str) -> dict[str, Any] | None:
        """One of them, or None."""
        try:
            found: dict[str, Any] = json.loads(self._file(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    def all(self) -> list[dict[str, Any]]:
        """All of them, by name."""
        return [found for name in self if (found := self.get(name)) is not None]

    def put(self, name: str, thing: dict[str, Any]) -> dict[str, Any]:
        """Keep it, in the place of an older one of that name."""
        server.write(self._file(name), json.dumps(thing))
        return thing

    def add(self, name: str, thing: dict[str, Any]) -> bool:
        """Keep it unless the name is taken; of two at once one succeeds."""
        with self._lock:
            if name in self:
                return False
            self.put(name, thing)
            return True

    def change(self, name: str, **changes: Any) -> dict[str, Any] | None:
        """Change some of its fields; None where there is no such thing (any more)."""
        with self._lock:
            found = self.get(name)
            return None if found is None else self.put(name, found | changes)

    def drop(self, name: str) -> bool:
        """Forget it; whether it was there."""
        with self._lock:
            there = name in self
            self._file(name).unlink(missing_ok=True)
            return there

    def _file(self, name: str) -> Path:
        file = f"{quote(name, safe='')}.json"
        if len(file) > LONGEST_FILE:
            raise ValueError(f"the local cloud keeps no name as long as {name[:40]!r}…")
        return self.folder / file
