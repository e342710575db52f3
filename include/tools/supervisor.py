"""Starts what has ended again: `make up` leaves it running beside Airflow and its services.

A process comes back with the command, the port and the environment that it had. One that ends again
and again comes back after longer and longer pauses. A process that runs and answers nothing is left
alone: `make down` and `make up` end it.
"""

import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from include import processes

NAME = "supervisor"
LOOK_SECONDS = 1.0
PAUSES = (0.0, 2.0, 5.0, 15.0, 60.0)
"""Seconds before the first, second, … start again; the last one stays."""
WELL_AFTER = 120.0
"""Seconds after which an earlier end no longer counts."""


def lock(folder: Path) -> Path:
    """Who starts or stops something in the folder holds this: one at a time."""
    return folder / "changing.lock"


def start(folder: Path, env: Mapping[str, str]) -> None:
    """Leave one running; it gives its own environment to what it starts."""
    command = [sys.executable, "-m", "include.tools.supervisor", str(folder)]
    processes.start(folder, NAME, command, env)


def stop(folder: Path) -> None:
    """End it, and nothing else."""
    processes.stop(folder, [each for each in processes.recorded(folder) if each.name == NAME])


@dataclass
class Supervisor:
    """Remembers when each process last ended."""

    folder: Path
    ends: dict[str, list[float]] = field(default_factory=dict)

    def look(self, now: float) -> None:
        """Start again what has ended and has waited long enough, unless somebody is at work."""
        with processes.at_once_or_not(lock(self.folder)) as mine:
            if not mine:
                return
            for process in processes.recorded(self.folder):
                if process.name != NAME and process.command and not process.alive():
                    self._again(process, now)

    def _again(self, process: processes.Process, now: float) -> None:
        ends = [each for each in self.ends.get(process.name, []) if now - each < WELL_AFTER]
        pause = PAUSES[min(len(ends), len(PAUSES) - 1)]
        if ends and now - ends[-1] < pause:
            return
        self.ends[process.name] = [*ends, now]
        ended = f"{process.name} (pid {process.pid}) ended."
        try:
            processes.end([process])  # its children
            again = processes.start(self.folder, process.name, process.command, {}, process.port)
        except (OSError, RuntimeError) as error:  # no disk, no process: later there may be
            print(f"{ended} It was not started again: {error}", flush=True)
        else:
            print(f"{ended} Started again: pid {again.pid}.", flush=True)


def main(folder: Path) -> None:
    """Look until somebody asks it to end; what was begun is finished first."""
    ended = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: ended.set())
    supervisor = Supervisor(folder)
    while not ended.wait(LOOK_SECONDS):
        supervisor.look(time.monotonic())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
