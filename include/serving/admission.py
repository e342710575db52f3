"""What the gateway lets in: known people, so much at once, and nobody who falls silent half way."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from aiohttp import web

from include.serving import protocol

MOST_BYTES_AT_ONCE = 32 * 2**20
MOST_REQUESTS_AT_ONCE = 500
BODY_SECONDS = 10.0
SILENT_SECONDS = 75.0  # as long as a connection is kept for its next request
LOOK_SECONDS = 5.0
TEXT = re.compile(r"[ -~]{1,200}")
BY_NAME = re.compile(r"models:/[A-Za-z0-9_. -]{1,200}/[0-9]{1,18}")


@dataclass
class Room:
    """What requests and copies of them hold at this moment."""

    requests: int = 0
    size: int = 0
    """In bytes."""

    @asynccontextmanager
    async def taken(self, request: web.Request) -> AsyncIterator[bytes]:
        """Read a body and have room for it until the block ends; refuse it where there is none.

        What has come counts, not what is announced: who sends slowly takes no room from others.
        """
        announced = request.content_length
        if announced is not None and announced > protocol.MOST_BYTES:
            raise _too_long()
        parts: list[bytes] = []
        came = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.content.iter_any():
                    came += len(part)
                    if came > protocol.MOST_BYTES:
                        raise _too_long()
                    if not self.has(len(part)):
                        raise self._full()
                    self.size += len(part)
                    parts.append(part)
            if self.requests >= MOST_REQUESTS_AT_ONCE:
                raise self._full()
            with self.held(0):
                yield b"".join(parts)
        finally:
            self.size -= sum(map(len, parts))

    def _full(self) -> web.HTTPTooManyRequests:
        return web.HTTPTooManyRequests(
            text=f"{self.requests} requests with {self.size} bytes are at work: ask again",
            headers={"Retry-After": "1"},
        )

    def has(self, size: int) -> bool:
        """Whether one more of this size may come in."""
        return self.requests < MOST_REQUESTS_AT_ONCE and self.size + size <= MOST_BYTES_AT_ONCE

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Count one more request of this size until the block ends."""
        self.requests += 1
        self.size += size
        try:
            yield
        finally:
            self.requests -= 1
            self.size -= size


@dataclass
class Patience:
    """Ends connections on which no request has become whole for a long time."""

    busy: set[Any] = field(default_factory=set)
    _since: dict[Any, float] = field(default_factory=dict)

    @contextmanager
    def at_work(self, request: web.Request) -> Iterator[None]:
        """A request has come as far as its headers: nobody is to be ended meanwhile."""
        self.busy.add(request.protocol)
        try:
            yield
        finally:
            self.busy.discard(request.protocol)

    async def look_after(self, server: web.Server) -> None:
        """Look again and again until this task is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._look(server.connections, time.monotonic())

    def _look(self, connections: list[Any], now: float) -> None:
        self._since = {
            each: now if each in self.busy else self._since.get(each, now) for each in connections
        }
        for each, since in self._since.items():
            if now - since > SILENT_SECONDS:
                each.force_close()
                if each.transport is not None:
                    each.transport.abort()


def _too_long() -> web.HTTPRequestEntityTooLarge:
    most = protocol.MOST_BYTES
    return web.HTTPRequestEntityTooLarge(most, text=f"the body is longer than {most} bytes")


def text(request: web.Request, header: str) -> str | None:
    """A header that goes into logs and answers; None where it is not there."""
    value = request.headers.get(header)
    if value is not None and not TEXT.fullmatch(value):
        raise web.HTTPBadRequest(text=f"{header} must be 1 to 200 characters that ASCII can print")
    return value


def offset(request: web.Request) -> int:
    """Where a log is to be read from."""
    given = request.query.get("after", "0")
    if not (given.isascii() and given.isdecimal() and len(given) <= 18):
        raise web.HTTPBadRequest(text="'after' must be a number of bytes, as X-Next-Offset says")
    return int(given)


def sources(given: Iterable[Path]) -> tuple[Path, ...]:
    """The folders below which a model may lie; the setting GATEWAY_SOURCES names others."""
    named = os.environ.get("GATEWAY_SOURCES", "").split(os.pathsep)
    set_by_user = [Path(folder) for folder in named if folder]
    return tuple(folder.resolve() for folder in set_by_user or given)


def allowed(source: str, folders: tuple[Path, ...]) -> bool:
    """Whether a version may be made of this: a registered model, or a folder below one of these."""
    if BY_NAME.fullmatch(source):
        return True
    try:
        source.encode()
        path = url2pathname(urlsplit(source).path) if source.startswith("file:") else source
        real = Path(path).resolve()
    except (RuntimeError, ValueError):  # a loop of links, a NUL, half a pair of surrogates
        return False
    return any(real.is_relative_to(folder) for folder in folders)
