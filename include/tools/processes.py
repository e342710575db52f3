"""Background processes with a record on disk: started and stopped as a group, and only ours."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

GRACE_SECONDS = 20.0

# Held on to: Python warns about a process whose handle is thrown away while it runs.
_HANDLES: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Process:
    """Something that was started: its pid together with its start time is nobody else's."""

    name: str
    pid: int
    started: float
    port: int | None
    log: str

    def alive(self) -> bool:
        """Whether it still runs, and is not another process that was given the same number."""
        try:
            found = psutil.Process(self.pid)
            return found.create_time() == self.started and found.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        text = Path(self.log).read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def start(
    folder: Path, name: str, command: Sequence[str], env: Mapping[str, str], port: int | None = None
) -> Process:
    """Start a command in the background, as a group of its own, and write down that it was."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **env},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _HANDLES.append(process)
    created = psutil.Process(process.pid).create_time()
    started = Process(name, process.pid, created, port, str(log))
    (folder / f"{name}.json").write_text(json.dumps(asdict(started)))
    return started


def running(folder: Path) -> list[Process]:
    """What was started from here and is still alive; records of the dead are cleared away."""
    found = []
    for record in sorted(folder.glob("*.json")):
        process = Process(**json.loads(record.read_text()))
        if process.alive():
            found.append(process)
        else:
            record.unlink(missing_ok=True)
    return found


def stop(folder: Path, processes: Sequence[Process], grace: float = GRACE_SECONDS) -> None:
    """Ask all of them and their descendants to end, insist where they don't, and see that they did.

    A task's process leaves its parent's group, so descendants are looked up before anyone is told.
    """
    family: dict[int, psutil.Process] = {}
    for process in processes:
        if process.alive():
            parent = psutil.Process(process.pid)
            family |= {each.pid: each for each in [parent, *parent.children(recursive=True)]}
    for sign, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        for member in family.values():
            try:
                member.send_signal(sign)
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(list(family.values()), timeout=seconds)
        family = {each.pid: each for each in alive}
        if not family:
            break
    if family:
        raise RuntimeError(f"these processes do not end: {sorted(family)}")
    for process in processes:
        (folder / f"{process.name}.json").unlink(missing_ok=True)


def wait_until_answers(url: str, process: Process, seconds: float = 120.0) -> None:
    """Poll until the address answers; fail with the log's end when the process dies before."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urlopen(url, timeout=5):  # noqa: S310
                return
        except (URLError, ConnectionError, TimeoutError):
            pass
        if not process.alive():
            raise RuntimeError(f"{process.name} ended. Its log:\n{process.last_words()}")
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{process.name} does not answer at {url} after {seconds:.0f} s. Its log:\n"
                f"{process.last_words()}"
            )
        time.sleep(0.2)


def free_port() -> int:
    """A loopback port that nobody uses at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def in_use(port: int) -> bool:
    """Whether somebody listens on a loopback port."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
