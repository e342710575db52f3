"""A process that outlives whoever started it, and the folder in which anybody finds it again.

The folder is all that the two sides share. The process writes: `process.json` (who it is),
`progress.json` (how far it is; written anew as it works, so its age is the heartbeat) and
`checkpoints/`. Those who look after it write `order.json` (what is to be trained) and read the
rest. Each file is written whole or not at all, and a lock that dies with the process keeps a second
one out.

A process is known by its number *and* the time it began: numbers are given on, and a signal must
never reach a stranger. Whoever looks after a job must be on its machine.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from include.births import birth

PROJECT = Path(__file__).resolve().parents[2]
KEPT_CHECKPOINTS = 3
GRACE_SECONDS = 20.0
"""How long a job may take to finish its epoch and write a checkpoint once it is asked to stop."""
START_SECONDS = 30.0


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Progress:
    """How far a job is, in its own words."""

    state: str
    """starting, training, finished, stopped (it was asked to) or failed (and would again)."""
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    seconds_left: float | None = None
    message: str = ""
    at: float = 0.0

    def __str__(self) -> str:
        """One line for a log."""
        if self.loss is None:
            return self.state
        left = "" if self.seconds_left is None else f", about {self.seconds_left:.0f} s to go"
        share = self.epoch / self.epochs
        return f"epoch {self.epoch} of {self.epochs} ({share:.0%}), loss {self.loss:.4f}{left}"


@dataclass(frozen=True)
class Checkpoint:
    """A state that training can go on from; the file's name carries its epoch and its digest."""

    path: Path

    @property
    def epoch(self) -> int:
        """After which epoch it was written."""
        return int(self.path.stem.split("-")[1])

    def read(self) -> bytes:
        """What was written, or an error where a byte has changed."""
        content = self.path.read_bytes()
        if _digest(content) != self.path.stem.split("-")[2]:
            raise DamagedCheckpoint(f"{self.path} was changed after it was written")
        return content


@dataclass
class Job:
    """One training and its folder, seen from either side."""

    folder: Path
    asked_to_stop: bool = False
    """Known to the process itself alone, which is told by a signal."""

    # What those who look after it do.

    def prepare(self, order: dict[str, Any]) -> None:
        """Make the folder ready for this order; what another order left there is of no use."""
        if self.folder.exists() and self.order() != order:
            self.stop()
            shutil.rmtree(self.folder)
        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        self._write("order.json", json.dumps(order, indent=2).encode())

    def start(self, command: Sequence[str]) -> None:
        """Start a process in a session of its own; return once it has said who it is."""
        with (self.folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # Its end is taken note of, however long it takes: no zombie stays behind.
        threading.Thread(target=process.wait, daemon=True).start()
        latest = time.monotonic() + START_SECONDS
        while (self._record() or {}).get("pid") != process.pid:
            if process.poll() is not None and self.alive():
                return  # one that was started a moment ago holds the lock: it is the job
            if process.poll() is not None or time.monotonic() > latest:
                process.kill()
                raise RuntimeError(f"the training did not start: {self.last_words()}")
            time.sleep(0.02)

    def alive(self) -> bool:
        """Whether the process runs, and is not another one that was given its number."""
        return self._process() is not None

    def state(self) -> str:
        """What its progress says; new where nothing was started, died where it ended in silence."""
        alive = self.alive()  # asked first: what a process wrote before it ended is read after
        told = self.progress()
        if told is None:
            return "died" if self._record() else "new"
        ended = told.state in ("finished", "stopped", "failed")
        return told.state if alive or ended else "died"

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Have it finish its epoch and write a checkpoint; insist where it doesn't."""
        process = self._process()
        if process is None:
            return
        with suppress(psutil.NoSuchProcess):
            process.terminate()
        if not self._ends_within(grace):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self._ends_within(grace)

    def last_words(self, lines: int = 5) -> str:
        """The end of what it printed."""
        text = (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:]) or "it said nothing"

    # What both do.

    def order(self) -> dict[str, Any] | None:
        """What is to be trained."""
        return self._read("order.json")

    def progress(self) -> Progress | None:
        """The last that was heard of it."""
        told = self._read("progress.json")
        return None if told is None else Progress(**told)

    def checkpoints(self) -> list[Checkpoint]:
        """What training can go on from, oldest first."""
        found = [Checkpoint(path) for path in (self.folder / "checkpoints").glob("epoch-*.pt")]
        return sorted(found, key=lambda each: each.epoch)

    def reached(self) -> int:
        """The epoch of the last checkpoint: what the next process need not train again."""
        kept = self.checkpoints()
        return kept[-1].epoch if kept else 0

    # What the process does.

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the one process of this job: nobody else's while this block runs."""
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SystemExit(f"another process is at work in {self.folder}") from None
            signal.signal(signal.SIGTERM, self._hear)
            self.tell(Progress("starting"))
            record = {"pid": os.getpid(), "born": birth(os.getpid())}
            self._write("process.json", json.dumps(record).encode())
            yield

    def tell(self, progress: Progress) -> None:
        """Say how far it is: the heartbeat."""
        told = asdict(progress) | {"at": time.time()}
        self._write("progress.json", json.dumps(told).encode())

    def keep(self, epoch: int, content: bytes) -> None:
        """Write a checkpoint, and only then drop those that are no longer needed."""
        self._write(f"checkpoints/epoch-{epoch:06}-{_digest(content)}.pt", content)
        for old in self.checkpoints()[:-KEPT_CHECKPOINTS]:
            old.path.unlink(missing_ok=True)

    def finish(self, results: dict[str, bytes]) -> None:
        """Write what came out."""
        for name, content in results.items():
            self._write(name, content)

    def _hear(self, *_: object) -> None:
        self.asked_to_stop = True

    def _record(self) -> dict[str, Any] | None:
        return self._read("process.json")

    def _process(self) -> psutil.Process | None:
        record = self._record()
        if record is None:
            return None
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(record["pid"])
            same = birth(found.pid) == record["born"]
            if same and found.status() != psutil.STATUS_ZOMBIE:
                return found
        return None

    def _ends_within(self, seconds: float) -> bool:
        latest = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > latest:
                return False
            time.sleep(0.05)
        return True

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    def _write(self, name: str, content: bytes) -> None:
        """Write beside and rename: whoever reads sees the old file or the new one, never half."""
        target = self.folder / name
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
