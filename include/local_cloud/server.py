"""What the local platforms have in common: how one starts, is found, is troubled and ends.

Beside the vendor's API, on ports of its own choice, a platform has a side door: plain HTTP on the
port that its launcher names. It is for who runs the platform, never for a pipeline. Each request
but the first shows the token of the file `door-token` in the platform's folder:

    GET    /health      answers once the platform does
    GET    /resources   what its users have left there, by kind
    POST   /faults      trouble to come: {"kind": "throttled", "operation": "Create*", "times": 2}
    DELETE /faults      no more trouble
"""

import hmac
import json
import math
import os
import secrets
import signal
import threading
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from include import loopback, processes

HOST = "127.0.0.1"
MOST_BYTES = 2**28
DEEPEST = 100  # levels of lists and objects in one document
MOST_PARTS = 1_000_000  # values in one document
# What a request raises whose parts are not of the kind that the vendor says. The traceback goes to
# the log, for it may be a fault of the platform as well.
MALFORMED = (
    *(ArithmeticError, AttributeError, LookupError),
    *(RecursionError, TypeError, ValueError),
)
KINDS = ("throttled", "unavailable", "slow", "quota", "job_fails")


@dataclass
class Fault:
    """Trouble that was asked for: what `operation` (a pattern) meets the next so many times."""

    kind: str
    operation: str = "*"
    times: int = 1
    seconds: float = 0.0
    """How long a slow answer takes."""
    reason: str = "asked for by a fault"
    """What a failing job says."""

    def __post_init__(self) -> None:
        """Refuse what would never happen."""
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of fault; there are: {', '.join(KINDS)}")
        texts, numbers = (self.operation, self.reason), (self.times, self.seconds)
        if not all(isinstance(each, str) for each in texts):
            raise ValueError("operation and reason of a fault are texts")
        if not all(isinstance(each, int | float) for each in numbers):
            raise ValueError("times and seconds of a fault are numbers")


@dataclass
class Faults:
    """The trouble to come, shared by all threads of a platform."""

    coming: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def add(self, fault: Fault) -> None:
        """Have something go wrong."""
        with self._lock:
            self.coming.append(fault)

    def clear(self) -> None:
        """Have nothing go wrong any more."""
        with self._lock:
            self.coming.clear()

    def end(self) -> None:
        """Keep nobody waiting: the platform closes."""
        self._ended.set()

    def meet(self, operation: str) -> Fault | None:
        """What a call meets: nothing, or a fault to answer with; a slow one is waited out here."""
        fault = self._take(operation, lambda kind: kind != "job_fails")
        if fault and fault.kind == "slow":
            self._ended.wait(fault.seconds)
            return None
        return fault

    def of_job(self, operation: str) -> Fault | None:
        """Why a job that was accepted will fail, or nothing."""
        return self._take(operation, lambda kind: kind == "job_fails")

    def _take(self, operation: str, wanted: Callable[[str], bool]) -> Fault | None:
        with self._lock:
            for fault in self.coming:
                if wanted(fault.kind) and fnmatchcase(operation, fault.operation):
                    fault.times -= 1
                    if fault.times <= 0:
                        self.coming.remove(fault)
                    return fault
        return None


@dataclass(frozen=True)
class Redirect:
    """What leads clients here instead of to the vendor."""

    connections: dict[str, dict[str, Any]]
    """Airflow connections, by their names."""
    env: dict[str, str] = field(default_factory=dict)
    """For clients whose address no connection can change."""


class Handler(BaseHTTPRequestHandler):
    """Reads a request, and refuses those that a page of another server may have sent."""

    timeout = 60  # seconds that a client may be silent within a request
    wbufsize = -1  # headers and body in one packet: the second would wait for the first's echo

    def parse_request(self) -> bool:
        """Read the first line and the headers; answer at once where they are refused."""
        if not super().parse_request():
            return False
        hosts, length = self.headers.get_all("Host", []), self.headers.get("Content-Length", "0")
        origin = loopback.origin(self.headers.get_all("Origin", []))
        why = loopback.refusal(hosts[0] if len(hosts) == 1 else None, origin)
        if why:
            self.send_error(403, explain=why)
        elif not readable(self.path):
            self.send_error(400, explain="the address can't be read")
        elif "Transfer-Encoding" in self.headers:
            self.send_error(501, explain="the body must have a Content-Length")
        elif not (length.isascii() and length.isdecimal()):
            self.send_error(400, explain=f"Content-Length {length!r} is no number")
        elif len(length) > len(str(MOST_BYTES)) or int(length) > MOST_BYTES:
            self.send_error(413, explain=f"the body is longer than {MOST_BYTES} bytes")
        else:
            return True
        return False

    def body(self) -> bytes:
        """What follows the headers."""
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def log_request(self, *_: object) -> None:
        """Say nothing of each request: the log is for what goes wrong."""

    def log_message(self, *_: object) -> None:
        """Say nothing of what was refused either: the client is told."""


class Platform(Protocol):
    """A vendor's API that listens already."""

    def redirect(self) -> Redirect:
        """What leads clients here."""

    def resources(self) -> dict[str, list[str]]:
        """What users have left, by kind; kinds of which nothing is left are not in it."""

    def close(self) -> None:
        """Stop listening, end the jobs, and leave no process behind."""


def main(opened: Callable[[Path, Faults], Platform]) -> None:
    """Run a platform until somebody asks it to end."""
    parser = ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True, help="where its state is kept")
    parser.add_argument("--port", type=int, required=True, help="of the side door")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(loopback.no_proxy())  # for the platform, and all that it starts
    ended = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: ended.set())
    faults = Faults()
    # Its port is taken first: the platform looks for free ones.
    with ThreadingHTTPServer((HOST, asked.port), BaseHTTPRequestHandler) as door:
        platform = opened(asked.folder, faults)
        try:
            write(redirect_file(asked.folder), json.dumps(asdict(platform.redirect())))
            token = secret(token_file(asked.folder))
            door.RequestHandlerClass = _side_door(platform, faults, token)
            threading.Thread(target=door.serve_forever, daemon=True).start()
            ended.wait()
            door.shutdown()
        finally:
            faults.end()
            platform.close()


def readable(address: str) -> bool:
    """Whether the address of a request can be taken apart, down to its port."""
    try:
        urlsplit(address).port  # noqa: B018 - it is read when it is asked for
    except ValueError:
        return False
    return True


def parsed(text: bytes | str) -> Any:
    """The JSON document of a request. It can be kept, shown and copied, or it is a ValueError."""
    return checked(json.loads(text))


def checked(document: Any) -> Any:
    """The same document, unless JSON can't show it again or it is too deep to be copied."""
    level, parts = [document], 0
    for _ in range(DEEPEST):
        parts += len(level)
        if parts > MOST_PARTS:
            raise ValueError(f"the document has more than {MOST_PARTS} values")
        inner: list[Any] = []
        for each in level:
            if isinstance(each, str):
                each.encode()  # half of a surrogate pair is no text
            elif isinstance(each, float) and not math.isfinite(each):
                raise ValueError(f"the document holds {each}, which is no JSON")
            elif isinstance(each, dict):
                inner += [*each.keys(), *each.values()]
            elif isinstance(each, list):
                inner += each
        if not inner:
            return document
        level = inner
    raise ValueError(f"the document is nested deeper than {DEEPEST} levels")


def redirect_file(folder: Path) -> Path:
    """Where a running platform says what leads to it."""
    return folder / "redirect.json"


def redirect(folder: Path) -> Redirect:
    """What a running platform said."""
    return Redirect(**json.loads(redirect_file(folder).read_text(encoding="utf-8")))


def token_file(folder: Path) -> Path:
    """Where the token of a platform's side door is."""
    return folder / "door-token"


def secret(file: Path) -> str:
    """What this file holds; made at random where it is missing."""
    if not file.exists():
        write(file, secrets.token_urlsafe(32))
    return file.read_text(encoding="utf-8")


def port(folder: Path, name: str = "api") -> int:
    """The port of a listener: the same after a restart, unless another program has taken it.

    Airflow and its tasks keep an address that they were given when they started.
    """
    file = folder / "ports.json"
    kept: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    if name not in kept or processes.in_use(kept[name]):
        kept[name] = processes.free_port()
        write(file, json.dumps(kept))
    return kept[name]


def write(target: Path, content: str | bytes) -> None:
    """Whole or not at all, and for its owner alone: credentials may be in it."""
    part = target.with_name(f"{target.name}.{threading.get_ident()}.part")
    part.touch(mode=0o600)
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(target)


def _side_door(platform: Platform, faults: Faults, token: str) -> type[BaseHTTPRequestHandler]:
    class SideDoor(Handler):
        def do_GET(self) -> None:
            if self.path == "/health":
                self._answer(200, {"status": "ok"})
            elif self._admitted("/resources"):
                self._answer(200, platform.resources())

        def do_POST(self) -> None:
            body = self.body()
            if not self._admitted("/faults"):
                return
            try:
                faults.add(Fault(**parsed(body)))
            except (TypeError, ValueError, RecursionError) as error:
                self._answer(400, {"error": str(error)})
            else:
                self._answer(200, {})

        def do_DELETE(self) -> None:
            if self._admitted("/faults"):
                faults.clear()
                self._answer(200, {})

        def _admitted(self, path: str) -> bool:
            given = self.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {token}".encode()):
                self._answer(401, {"error": "the token of the side door is missing or wrong"})
            elif self.path != path:
                self._answer(404, {"error": f"nothing at {self.path}"})
            else:
                return True
            return False

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    return SideDoor
