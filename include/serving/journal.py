"""The gateway's log of requests: no answer waits for it, and it takes a bounded part of the disk.

A route's lines are in segments, `<route>.<offset>.jsonl`, each named after the offset at which it
begins. So an offset stays right when old segments are removed. One thread writes. Lines that it
can't write, or that come faster than it writes, are dropped and counted; no line is ever cut.
"""

import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

MOST_WAITING = 10_000  # lines
MOST_WAITING_BYTES = 32 * 2**20
SEGMENT_BYTES = 16 * 2**20
MOST_SEGMENTS = 8  # of a route
MOST_READ = 2**22
STOP_SECONDS = 5.0


@dataclass
class _Open:
    """The segment of a route that is written to."""

    start: int
    size: int
    number: int
    """Of its file descriptor."""


class Journal:
    """The log of all routes."""

    def __init__(self, folder: Path, dropped: Callable[[str], None]) -> None:
        """Keep segments in this folder, and call `dropped` with the route of each lost line."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.dropped = folder, dropped
        self._waiting: queue.Queue[tuple[str, bytes] | Event | None] = queue.Queue(MOST_WAITING)
        self._open: dict[str, _Open] = {}
        self._noted = self._done = 0  # bytes; each is counted by one thread alone
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def note(self, route: str, line: bytes) -> None:
        """Have a line written; never waits."""
        try:
            if self._noted - self._done + len(line) > MOST_WAITING_BYTES:
                raise queue.Full
            self._waiting.put_nowait((route, line))
        except queue.Full:
            self.dropped(route)
        else:
            self._noted += len(line)

    def flush(self, seconds: float) -> None:
        """Wait until what was noted before this is written or dropped."""
        written = Event()
        with suppress(queue.Full):  # then what is read is what there is
            self._waiting.put(written, timeout=seconds)
            written.wait(seconds)

    def read(self, route: str, after: int) -> tuple[bytes, int]:
        """Whole lines from an offset on, and the offset behind them."""
        for start, file in self._segments(route):
            begin = max(after, start)  # what was before is removed
            try:
                with file.open("rb") as lines:
                    if begin - start > os.fstat(lines.fileno()).st_size:
                        continue
                    lines.seek(begin - start)
                    content = lines.read(MOST_READ)
            except FileNotFoundError:  # removed since it was found
                continue
            content = content[: content.rfind(b"\n") + 1]
            if content:
                return content, begin + len(content)
        return b"", after

    def close(self) -> None:
        """Write what waits, and end; a disk that hangs is not waited for."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=STOP_SECONDS)
            self._thread.join(STOP_SECONDS)

    def _write(self) -> None:
        while (told := self._waiting.get()) is not None:
            if isinstance(told, Event):
                told.set()
                continue
            route, line = told
            try:
                self._append(route, line)
            except OSError:  # a full disk, most often; the next line may find room
                self.dropped(route)
            self._done += len(line)
        for opened in self._open.values():
            os.close(opened.number)

    def _append(self, route: str, line: bytes) -> None:
        segment = self._open.get(route)
        if segment is None or segment.size >= SEGMENT_BYTES:
            segment = self._next(route, segment)
        try:
            written = 0
            while written < len(line):
                written += os.write(segment.number, line[written:])
        except OSError:
            os.ftruncate(segment.number, segment.size)  # half a line would spoil the next one
            raise
        segment.size += len(line)

    def _next(self, route: str, full: _Open | None) -> _Open:
        """Go on with the newest segment that there is, or begin one."""
        there = self._segments(route)
        if full is not None or not there:
            start = 0 if full is None else full.start + full.size
            file = self.folder / f"{route}.{start:020}.jsonl"
        else:
            start, file = there[-1]
        number = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if full is not None:
            os.close(full.number)
        size = _whole_lines(number)
        os.ftruncate(number, size)
        self._open[route] = opened = _Open(start, size, number)
        for _, old in there[: -MOST_SEGMENTS + 1 or None] if full is not None else []:
            old.unlink(missing_ok=True)
        return opened

    def _segments(self, route: str) -> list[tuple[int, Path]]:
        """Offset and file of each segment, in their order."""
        found = []
        for file in self.folder.glob(f"{route}.*.jsonl"):
            name, _, start = file.stem.rpartition(".")
            if name == route and start.isdecimal():
                found.append((int(start), file))
        return sorted(found)


def _whole_lines(number: int) -> int:
    """How many bytes of a file are whole lines: a killed gateway may have left half of one."""
    size = os.fstat(number).st_size
    end = size
    while end:
        begin = max(0, end - 65536)
        last = os.pread(number, end - begin, begin).rfind(b"\n")
        if last >= 0:
            return begin + last + 1
        end = begin
    return 0
