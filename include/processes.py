"""Background processes with a record on disk: started and stopped as families, and only ours.

A process leads a session of its own, and its name in this world stands in its environment. So its
children are found when it was killed itself, and those that began another session are found too.
"""

import errno
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.error import URLError

import psutil

from include import loopback
from include.births import birth

HOST = "127.0.0.1"
# Above those that Ray takes by itself, and below those that systems lend to whoever calls somebody.
PORTS = range(24_001, 32_768)
GRACE_SECONDS = 20.0
BELONGS_TO = "CATALOGUE_PROCESS"
NOBODY = 2**31 - 1  # a number that no process has

# Held on to: Python warns about a process whose handle is thrown away while it runs.
_HANDLES: list[subprocess.Popen[bytes]] = []
# The newest of the ports that this process was given: by the time that one is dropped, it is used.
_CLAIMS: deque[int] = deque()
MOST_CLAIMS = 100


@dataclass(frozen=True)
class Process:
    """Something that was started: its pid together with its birth is nobody else's."""

    name: str
    pid: int
    born: str
    port: int | None
    log: str
    command: Sequence[str] = ()

    def alive(self) -> bool:
        """Whether it still runs, and is not another process that was given the same number."""
        with suppress(psutil.NoSuchProcess):
            return birth(self.pid) == self.born and is_running(psutil.Process(self.pid))
        return False

    def family(self) -> list[psutil.Process]:
        """It and all that came from it and live, also when it is dead itself."""
        label = str(Path(self.log).with_suffix(""))
        session = None if self._number_was_given_on() else self.pid
        found = []
        for each in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                ours = os.getsid(each.pid) == session or each.environ().get(BELONGS_TO) == label
                if ours and is_running(each):
                    found.append(each)
        return found

    def _number_was_given_on(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            return birth(self.pid) != self.born
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
    record, log = folder / f"{name}.json", folder / f"{name}.log"
    if record.exists() and (left := [each.pid for each in _read(record).family()]):
        raise RuntimeError(f"{name} runs already in {folder}: pid {', '.join(map(str, left))}")
    if log.exists():
        log.replace(folder / f"{name}.log.1")  # it may say why the last one ended
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **env, BELONGS_TO: str(folder / name)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _HANDLES.append(process)
    started = Process(name, process.pid, birth(process.pid), port, str(log), command)
    part = folder / f"{name}.json.part"
    part.write_text(json.dumps(asdict(started)))
    part.replace(record)
    return started


def recorded(folder: Path) -> list[Process]:
    """What was started from here and not stopped, whether or not it still runs."""
    return [_read(record) for record in sorted(folder.glob("*.json"))]


def _read(record: Path) -> Process:
    """A record; of a broken one at least the name, by which its family is found."""
    try:
        return Process(**json.loads(record.read_text()))
    except (TypeError, ValueError):
        return Process(record.stem, NOBODY, "", None, str(record.with_suffix(".log")))


def running(folder: Path) -> list[Process]:
    """What was started from here and does its work."""
    return [process for process in recorded(folder) if process.alive()]


def stop(folder: Path, processes: Sequence[Process], grace: float = GRACE_SECONDS) -> None:
    """End them and their families, and forget them."""
    end(processes, grace)
    for process in processes:
        (folder / f"{process.name}.json").unlink(missing_ok=True)


def end(processes: Sequence[Process], grace: float = GRACE_SECONDS) -> None:
    """Ask them and their families to end, insist where they don't, and see that they did."""
    for sign, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        family = [member for process in processes for member in process.family()]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(sign)
        wait(family, seconds)
    if left := [member.pid for process in processes for member in process.family()]:
        raise RuntimeError(f"these processes do not end: {sorted(left)}")
    # What has ended is no longer warned about.
    _HANDLES[:] = [handle for handle in _HANDLES if handle.poll() is None]


def wait_until_answers(url: str, process: Process, seconds: float = 120.0) -> None:
    """Poll until the address answers; fail with the log's end when the process dies before."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with loopback.ask(url, 5):
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


def wait(family: Sequence[psutil.Process], seconds: float) -> None:
    """Wait until all of them have ended, at most so long.

    An ended process stays in the system's table until its parent has asked for its exit status. The
    first process of a container may never ask, so nobody waits for that.
    """
    deadline = time.monotonic() + seconds
    while any(is_running(member) for member in family) and time.monotonic() < deadline:
        time.sleep(0.02)


def is_running(member: psutil.Process) -> bool:
    """Whether it still does something; what has ended may wait for its parent to notice."""
    with suppress(psutil.NoSuchProcess):
        ended = member.status() == psutil.STATUS_ZOMBIE and member.num_threads() == 1
        return member.is_running() and not ended  # a thread may outlive the first one
    return False


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Let one process at a time do this; the others wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def at_once_or_not(lock: Path) -> Iterator[bool]:
    """Whether this is the only process to do this now; waits for nobody."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def free_port() -> int:
    """A loopback port that nobody uses, and that nobody else is given until it is used.

    Between this and the moment when a server listens there may be seconds. So a port is claimed,
    by a datagram socket of its number: only one process can have that, and it ends with us.
    """
    first = secrets.randbelow(len(PORTS))
    for step in range(len(PORTS)):
        port = PORTS[(first + step) % len(PORTS)]
        with socket.socket(type=socket.SOCK_DGRAM) as claim, socket.socket() as listener:
            try:
                claim.bind((HOST, port))
                listener.bind((HOST, port))
            except OSError as taken:
                if taken.errno != errno.EADDRINUSE:
                    raise
                continue
            _CLAIMS.append(claim.detach())
        if len(_CLAIMS) > MOST_CLAIMS:
            os.close(_CLAIMS.popleft())
        return port
    raise OSError(errno.EADDRINUSE, f"no port from {PORTS[0]} to {PORTS[-1]} is free")


def in_use(port: int) -> bool:
    """Whether somebody listens on a loopback port."""
    with socket.socket() as caller:
        return caller.connect_ex((HOST, port)) == 0
