"""Callers: so many requests a second, whether they are answered or not.

Each request leaves at its time, not when the one before has come back, and its latency counts from
that time. So a service that stalls can't hide it by being asked less.
"""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from include.serving import tokens
from include.serving.client import Gateway

TIMEOUT = aiohttp.ClientTimeout(total=15.0)


@dataclass(frozen=True)
class Answer:
    """What one caller got."""

    number: int
    status: int
    """0 where the connection failed."""
    version: str
    seconds: float


@dataclass
class Traffic:
    """What all callers got."""

    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    sent: int = 0
    """How many have left by now; whatever is done next, the request of this number comes after."""

    def more(self, answers: int, within: float = 60.0) -> None:
        """Come back when so many more callers have got their answers."""
        wanted, latest = len(self.answers) + answers, time.monotonic() + within
        while len(self.answers) < wanted:
            if time.monotonic() > latest:
                raise TimeoutError(f"{answers} requests were not answered within {within:g} s")
            time.sleep(0.01)

    @property
    def failed(self) -> int:
        """How many got no answer, or an error."""
        return sum(answer.status != 200 for answer in self.answers)

    @property
    def unanswered(self) -> int:
        """How many found nobody who answers."""
        return sum(answer.status == 0 for answer in self.answers)

    def by_version(self) -> dict[str, int]:
        """How many were answered by which version."""
        return dict(Counter(a.version for a in self.answers if a.status == 200))

    def milliseconds(self, percent: float) -> float:
        """The latency that so many percent stayed within."""
        ordered = sorted(answer.seconds for answer in self.answers)
        if not ordered:
            raise ValueError("nobody asked anything")
        place = min(len(ordered) - 1, int(len(ordered) * percent / 100))
        return round(ordered[place] * 1000, 3)

    def report(self) -> dict[str, Any]:
        """One line for a log, an XCom or a bench."""
        return {
            "requests": len(self.answers),
            "rps": round(len(self.answers) / self.seconds, 1),
            "failed": self.failed,
            "p50_ms": self.milliseconds(50),
            "p95_ms": self.milliseconds(95),
            "p99_ms": self.milliseconds(99),
            "by_version": self.by_version(),
        }


def drive(
    address: str,
    rows: Sequence[Mapping[str, Any]],
    rate: float,
    count: int,
    headers: Sequence[Mapping[str, str]] = ({},),
) -> Traffic:
    """Send so many requests at a rate, row after row, and wait for the answers.

    An error that a version answers is an answer. Without any answer there was no gateway: that is
    measured once more, since it says nothing about the versions behind it.
    """
    traffic = Traffic()
    asyncio.run(_drive(address, rows, rate, count, headers, traffic, threading.Event()))
    if traffic.unanswered:
        raise ConnectionError(
            f"{traffic.unanswered} of {count} requests got no answer at {address}. Is the gateway "
            "down (`make status`)? What was measured says nothing about a version."
        )
    return traffic


@contextmanager
def running(
    address: str,
    rows: Sequence[Mapping[str, Any]],
    rate: float,
    headers: Sequence[Mapping[str, str]] = ({},),
) -> Iterator[Traffic]:
    """Send requests at a rate while the block runs; at its end every answer is in."""
    traffic, over = Traffic(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        driven = pool.submit(
            lambda: asyncio.run(_drive(address, rows, rate, None, headers, traffic, over))
        )
        try:
            yield traffic
        finally:
            over.set()
        driven.result()


def switched(
    gateway: Gateway,
    route: str,
    model: str,
    to: str,
    rows: Sequence[Mapping[str, Any]],
    rate: float,
    before: int,
    after: int,
) -> dict[str, Any]:
    """Switch all callers to one version while they ask, and count who lost by it.

    Misrouted is whoever was answered before the switch by anything but the versions of that time,
    or left after it and was answered by anything but the new one. Who is on the way meanwhile may
    meet either.
    """
    table = gateway.route(route)
    old = {v for v, weight in table["weights"].items() if weight > 0} if table else {to}
    with running(route_address(gateway, route), rows, rate, [token(gateway)]) as callers:
        callers.more(before)
        answered = len(callers.answers)
        gateway.set_route(route, model, {to: 1.0})
        sent = callers.sent
        callers.more(after)
    misrouted = 0
    for place, answer in enumerate(callers.answers):
        right = old if place < answered else {to} if answer.number >= sent else old | {to}
        misrouted += bool(answer.version) and answer.version not in right
    return callers.report() | {"misrouted": misrouted}


def route_address(gateway: Gateway, route: str) -> str:
    """Where callers of a route send their requests."""
    return f"{gateway.address}/routes/{route}"


def token(gateway: Gateway) -> dict[str, str]:
    """The header that callers show: it can only ask."""
    return {"Authorization": f"Bearer {tokens.of_callers(gateway.token)}"}


async def _drive(
    address: str,
    rows: Sequence[Mapping[str, Any]],
    rate: float,
    count: int | None,
    headers: Sequence[Mapping[str, str]],
    traffic: Traffic,
    over: threading.Event,
) -> None:
    bodies = [json.dumps({"dataframe_records": [dict(row)]}).encode() for row in rows]
    waiting: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=TIMEOUT
    ) as session:
        began = time.perf_counter()
        number = 0
        while number != count and not over.is_set():
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            head = {"Content-Type": "application/json", **headers[number % len(headers)]}
            body = bodies[number % len(bodies)]
            task = asyncio.create_task(
                _ask(session, f"{address}/invocations", body, head, number, due, traffic)
            )
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            number += 1
            traffic.sent = number
        if waiting:
            await asyncio.wait(waiting)
        traffic.seconds = time.perf_counter() - began


async def _ask(
    session: aiohttp.ClientSession,
    address: str,
    body: bytes,
    headers: Mapping[str, str],
    number: int,
    due: float,
    traffic: Traffic,
) -> None:
    status, version = 0, ""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with session.post(address, data=body, headers=headers) as answer:
            await answer.read()
            status, version = answer.status, answer.headers.get("X-Model-Version", "")
    traffic.answers.append(Answer(number, status, version, time.perf_counter() - due))
