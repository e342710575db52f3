"""The versions that run: a scorer process each, started, looked after, drained and stopped.

A version that dies is started again; one that doesn't answer is out until it does. Only the gateway
is answered by a scorer: each has a token of its own.
"""

import asyncio
import logging
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

TOKEN = "SCORER_TOKEN"  # noqa: S105 - the variable that tells a scorer its token
OURS = ("GATEWAY_TOKEN", "MLFLOW_PASSWORD")
AIRFLOWS = ("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_")
"""Keys are among these, and no model has a use for any of them."""
REGISTRYS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""What a scorer is told where its model comes from the registry, and not otherwise."""
START_SECONDS = 60.0
CHECK_SECONDS = 1.0
PING_SECONDS = 5.0
"""A busy machine may let a good version wait; one that has ended is known at once."""
MISSES = 2
"""So many checks in a row may fail before a version counts as hung."""
ANSWER = aiohttp.ClientTimeout(total=10.0)
LONGEST_PAUSE = 5.0
KEPT_SECONDS = 15.0
"""A connection is used again for so long; the scorer closes it later."""


class DidNotStart(RuntimeError):
    """A version ended before it could answer; the reason is what it said last."""


class NotNow(RuntimeError):
    """The machine could not start a process; later it may."""


class NoAnswer(RuntimeError):
    """A version could not be reached; another one may answer."""


class TooSlow(NoAnswer):
    """A version took too long; the request would take another one as long."""


@dataclass
class Version:
    """One version and the process that answers for it."""

    model: str
    number: str
    made_of: dict[str, Any]
    folder: Path
    process: asyncio.subprocess.Process | None = None
    address: str = ""
    healthy: bool = False
    in_flight: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: asyncio.Task[None] | None = None
    token: str = field(default_factory=secrets.token_urlsafe)

    @property
    def shown(self) -> dict[str, str]:
        """The header that its process wants to see."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def log(self) -> Path:
        """What its process has said."""
        return self.folder / f"{self.model}@{self.number}.log"

    def last_words(self, lines: int = 5) -> str:
        """The end of what its process has said."""
        try:
            text = self.log.read_bytes().decode(errors="replace")
        except OSError as error:
            return f"its log can't be read: {error.strerror}"
        return "\n".join(text.splitlines()[-lines:]) or "it said nothing"


class Fleet:
    """All versions of all models behind one gateway."""

    def __init__(self, folder: Path) -> None:
        """Keep logs in this folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.versions: dict[tuple[str, str], Version] = {}
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_SECONDS)
        self.session = aiohttp.ClientSession(connector=connector)

    def put(self, model: str, number: str, made_of: Mapping[str, Any]) -> asyncio.Future[None]:
        """Start a version; the future tells when it answers, or why it never will."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add(model, number, made_of, ready)
        return ready

    def restore(self, model: str, number: str, made_of: Mapping[str, Any]) -> None:
        """Start a version that answered before; it is tried again until it does."""
        self._add(model, number, made_of, None)

    async def remove(self, model: str, number: str, grace: float) -> None:
        """Let it answer what it was asked, then stop it."""
        version = self.versions.pop((model, number))
        with suppress(TimeoutError):
            await asyncio.wait_for(version.idle.wait(), grace)
        assert version.keeper is not None  # noqa: S101
        version.keeper.cancel()
        with suppress(asyncio.CancelledError):
            await version.keeper

    async def close(self) -> None:
        """Stop everything."""
        await asyncio.gather(*(self.remove(*key, grace=0.0) for key in list(self.versions)))
        await self.session.close()

    def healthy(self, model: str) -> set[str]:
        """The versions of a model that answer."""
        return {v.number for v in self.versions.values() if v.model == model and v.healthy}

    async def ask(
        self, model: str, number: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Have a version answer a request: its status and its answer."""
        version = self.versions[model, number]
        version.in_flight += 1  # before anything is awaited: nobody can drain it in between
        version.idle.clear()
        try:
            async with self.session.post(
                f"{version.address}/invocations",
                data=body,
                headers={**headers, **version.shown},
                timeout=ANSWER,
            ) as answer:
                return answer.status, await answer.read()
        except TimeoutError as error:
            raise TooSlow(f"version {number} of {model} did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswer(f"version {number} of {model}: {type(error).__name__}") from error
        finally:
            version.in_flight -= 1
            if version.in_flight == 0:
                version.idle.set()

    def _add(
        self,
        model: str,
        number: str,
        made_of: Mapping[str, Any],
        ready: asyncio.Future[None] | None,
    ) -> None:
        version = Version(model, number, dict(made_of), self.folder)
        version.idle.set()
        self.versions[model, number] = version
        version.keeper = asyncio.create_task(self._keep(version, ready))

    async def _keep(self, version: Version, ready: asyncio.Future[None] | None) -> None:
        """Have its process running until this task is cancelled, whatever goes wrong meanwhile."""
        pause = 0.1
        try:
            while True:
                failure = await self._lived(version, ready)
                if failure is not None and ready is not None and not ready.done():
                    del self.versions[version.model, version.number]
                    ready.set_exception(failure)
                    return
                if failure is None:
                    pause = 0.1
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            version.healthy = False
            if version.process is not None:
                await _end(version.process)

    async def _lived(
        self, version: Version, ready: asyncio.Future[None] | None
    ) -> DidNotStart | NotNow | None:
        """Start its process and look after it to its end; returns why it never answered."""
        try:
            process = await self._spawn(version)
            answered = await self._answers(version, START_SECONDS)
            if answered:
                version.healthy = True
                if ready is not None and not ready.done():
                    ready.set_result(None)
                await self._look_after(version, process)
            version.healthy = False
            status = process.returncode
            if not answered and status is not None and status < 0:
                return NotNow(f"its process was ended by signal {-status}")
            await _end(process)
        except Exception as error:  # the next try may go well: no file descriptor, no memory
            version.healthy = False
            logging.exception("version %s of %s", version.number, version.model)
            kind = NotNow if isinstance(error, OSError) else DidNotStart
            return kind(f"{type(error).__name__}: {error}")
        return None if answered else DidNotStart(version.last_words())

    async def _spawn(self, version: Version) -> asyncio.subprocess.Process:
        """Start its process on a socket that listens already: no port is ever guessed."""
        with socket.create_server(("127.0.0.1", 0)) as listener, version.log.open("wb") as log:
            version.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            made_of = version.made_of
            version.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "include.serving.scorer"),
                *("--model", made_of["source"], "--name", version.model),
                *("--version", version.number),
                *("--error-every", str(made_of["error_every"])),
                *("--delay-seconds", str(made_of["delay_seconds"])),
                *("--fd", str(listener.fileno()), "--parent", str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                env=_environment(version),
            )
        return version.process

    async def _look_after(self, version: Version, process: asyncio.subprocess.Process) -> None:
        """Check it again and again; return when its process has ended."""
        misses = 0
        while process.returncode is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), CHECK_SECONDS)
                return
            misses = 0 if await self._answers(version, PING_SECONDS) else misses + 1
            version.healthy = misses < MISSES

    async def _answers(self, version: Version, seconds: float) -> bool:
        """Whether it answers in time; an ended process is not waited for."""
        assert version.process is not None  # noqa: S101
        asked = asyncio.create_task(self._ping(version.address, seconds))
        ended = asyncio.create_task(version.process.wait())
        await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not asked.done():
            asked.cancel()
            return False
        return asked.result()

    async def _ping(self, address: str, seconds: float) -> bool:
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self.session.get(f"{address}/ping", timeout=timeout) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError):
            return False


def _environment(version: Version) -> dict[str, str]:
    """A scorer's environment: its own token, and no login that it has no use for."""
    withheld = {*OURS}
    if not version.made_of["source"].startswith("models:/"):
        withheld.update(REGISTRYS)
    known = {
        name: value
        for name, value in os.environ.items()
        if name not in withheld and not name.startswith(AIRFLOWS)
    }
    return known | {TOKEN: version.token}


async def _end(process: asyncio.subprocess.Process, grace: float = 5.0) -> None:
    """Ask a process to end, and insist."""
    for send in (process.terminate, process.kill):
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            send()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace)
