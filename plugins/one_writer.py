"""Whoever changes something on SQLite waits for the one before, and Airflow does not stand still.

The API server writes down what a person does from its event loop. Where a request at the same time,
of another person or of a task, has written and not yet closed its transaction, which takes the
event loop as well, both wait until SQLite gives up, and so does everybody else. So requests that
may write follow one another. On other databases nothing happens here: there the first write waits
for nobody.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

READS = {"GET", "HEAD", "OPTIONS"}
MOST_BYTES = 16 * 2**20
"""So much of a body is held while it waits for its turn; longer ones are refused."""


class InTurn:
    """Lets one request that may write through at a time."""

    def __init__(self, app: "ASGIApp") -> None:
        """Stand before Airflow's own application."""
        self.app = app
        self.turn = asyncio.Lock()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Read what is sent before waiting for the turn: a slow sender keeps nobody else."""
        if scope["type"] != "http" or scope["method"] in READS:
            await self.app(scope, receive, send)
            return
        messages = [await receive()]
        size = len(messages[0].get("body", b""))
        while messages[-1].get("more_body") and size <= MOST_BYTES:
            messages.append(await receive())
            size += len(messages[-1].get("body", b""))
        if size > MOST_BYTES:
            from starlette.responses import PlainTextResponse

            told = PlainTextResponse(f"the body is longer than {MOST_BYTES} bytes\n", 413)
            await told(scope, receive, send)
            return

        async def again() -> "Message":
            return messages.pop(0) if messages else await receive()

        async with self.turn:
            await self.app(scope, again, send)


class OneWriter(AirflowPlugin):
    """Registers the middleware where the metadata database is SQLite."""

    name = "one_writer"
    fastapi_root_middlewares: list[Any] = (
        [{"name": "one writer at a time", "middleware": InTurn}]
        if conf.get("database", "sql_alchemy_conn").startswith("sqlite")
        else []
    )
