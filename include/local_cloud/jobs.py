"""The work that a platform is given: commands that run as processes, as containers would there."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from include.processes import BELONGS_TO
from include.tools.environment import PROJECT

LAST_WORDS = 1_000
# What a job finds of this machine's environment; connections and keys are nobody's business there.
PASSED_ON = ("LD_LIBRARY_PATH", "NO_PROXY", "PATH", "no_proxy", BELONGS_TO)
# What stands for an image of this project has its modules too.
WITH_PROJECT = {"PYTHONPATH": str(PROJECT)}


@dataclass
class Jobs:
    """The processes that run for a platform, by the names of their jobs."""

    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Do the whole of a job (fetch, run, bring back) beside the API; `work` ends its state."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        with self._lock:
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def run(
        self, name: str, command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path
    ) -> int:
        """Run a command to its end in a family of its own; negative when it was stopped.

        As in a container, it finds these variables and hardly another, and nobody else's home.
        """
        known = {each: os.environ[each] for each in PASSED_ON if each in os.environ}
        plain = {"HOME": str(folder), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", "TZ": "UTC"}
        with log.open("ab") as output, self._lock:
            if self._closed:
                return -signal.SIGTERM
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**known, **plain, "TMPDIR": str(folder), **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running[name] = process
        try:
            return process.wait()
        finally:
            _end(process)  # what it left running in its family
            with self._lock:
                self._running.pop(name, None)

    def stop(self, name: str) -> bool:
        """End a job's process and its family; whether one ran."""
        with self._lock:
            process = self._running.get(name)
        if process:
            _end(process)
        return process is not None

    def close(self) -> None:
        """End all of them, and wait until each has told its end."""
        with self._lock:
            self._closed = True
            running, threads = list(self._running.values()), list(self._threads)
        for process in running:
            _end(process)
        for thread in threads:
            thread.join(timeout=10)


def last_words(log: Path) -> str:
    """The end of what a job printed: the reason why it failed is there."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return text[-LAST_WORDS:].strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
