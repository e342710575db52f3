"""Requests with NaN or Infinity are refused: JSON has neither, and Airflow's parser takes both.

A Param with a minimum and a maximum lets NaN through, because NaN is neither below nor above them.
Deep documents and broken texts are refused too: Airflow would answer them with an error of its own.
"""

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 16 * 2**20
"""Longer bodies are refused: a body is held until it is complete."""
MOST_VALUES = 200_000
"""So many take a tenth of a second to read; more would keep everybody else waiting."""
DEEPEST = 50
READS = {"GET", "HEAD", "OPTIONS"}
DEEP = "the body is nested too deeply"
HALF = re.compile("[\ud800-\udfff]")


class StrictJson:
    """Reads each JSON body before Airflow does."""

    def __init__(self, app: "ASGIApp") -> None:
        """Stand before Airflow's own application."""
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Refuse what is no JSON; leave other faults to Airflow, which names the field."""
        if not _has_json(scope):
            await self.app(scope, receive, send)
            return
        messages, body = [], b""
        while not messages or (messages[-1].get("more_body") and len(body) <= MOST_BYTES):
            messages.append(await receive())
            body += messages[-1].get("body", b"")
        if why := await asyncio.to_thread(_fault, body):  # meanwhile others are answered
            from starlette.responses import JSONResponse

            status, detail = why
            await JSONResponse({"detail": detail}, status)(scope, receive, send)
            return

        async def again() -> "Message":
            return messages.pop(0) if messages else await receive()

        await self.app(scope, again, send)


class NotANumber(ValueError):
    """A body holds NaN or an infinity."""


def _has_json(scope: "Scope") -> bool:
    if scope["type"] != "http":
        return False
    kinds = [value for name, value in scope.get("headers", ()) if name == b"content-type"]
    if not kinds:  # then Airflow takes the body for JSON
        return scope["method"] not in READS
    return any(b"json" in kind.lower() for kind in kinds)


def _fault(body: bytes) -> tuple[int, str] | None:
    if len(body) > MOST_BYTES:
        return 413, f"the body is longer than {MOST_BYTES} bytes"
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
        return 413, f"the body holds more than {MOST_VALUES} values"
    try:
        document = json.loads(body, parse_constant=_refuse)
    except NotANumber as error:
        return 400, str(error)
    except RecursionError:
        return 400, DEEP
    except ValueError as error:
        return (400, f"the body is no JSON: {error}") if body else None
    return _flaw(document)


def _flaw(document: Any) -> tuple[int, str] | None:
    """What in a document would make Airflow fail."""
    waiting = [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            return 400, DEEP
        if isinstance(value, dict):
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list):
            waiting += [(each, depth + 1) for each in value]
        elif isinstance(value, str) and HALF.search(value):
            return 400, "a text in the body holds half of a pair of surrogates"
    return None


def _refuse(word: str) -> None:
    raise NotANumber(f"the body holds {word}, which JSON does not have: give a number")


class StrictJsonPlugin(AirflowPlugin):
    """Registers the middleware."""

    name = "strict_json"
    fastapi_root_middlewares: list[Any] = [  # noqa: RUF012
        {"name": "strict json", "middleware": StrictJson}
    ]
