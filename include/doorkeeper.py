"""Refuses requests for another host, and requests of another server's pages.

It stands before applications that speak ASGI: Airflow's API server, and MLflow's tracking server.
"""

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from include import loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class Doorkeeper:
    """Answers for the application where `Host` or `Origin` is foreign."""

    def __init__(
        self, app: "ASGIApp", names: frozenset[str] | None, origins: Collection[str] = ()
    ) -> None:
        """Know the hosts that are served, and the pages of other servers that are let in.

        Without names the application itself looks at the host. A `*` in an origin stands for
        anything.
        """
        self.app = app
        self.names = names
        self.origins = origins

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Look at two headers; what is no request passes."""
        why = self._refusal(scope["headers"]) if "headers" in scope else None
        if why is None:
            await self.app(scope, receive, send)
        else:
            await refuse(scope, receive, send, 403, why)

    def _refusal(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        hosts, origins = (every(headers, name) for name in (b"host", b"origin"))
        if origins and all(map(self._allowed, origins)):
            origins = []
        host = hosts[0] if len(hosts) == 1 else None
        origin = ", ".join(origins) if origins else None
        if self.names is None:
            return loopback.of_another_page(host, origin)
        return loopback.refusal(host, origin, self.names)

    def _allowed(self, origin: str) -> bool:
        return any(
            fnmatchcase(origin, each) if "*" in each else origin == each for each in self.origins
        )


def every(headers: Collection[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    """The values of a header, which a request may have twice."""
    return [value.decode("latin-1") for name, value in headers if name == wanted]


async def refuse(
    scope: "Scope",
    receive: "Receive",
    send: "Send",
    status: int,
    why: str,
    headers: dict[str, str] | None = None,
) -> None:
    """Answer with the reason as plain text; a websocket is closed with it."""
    if scope["type"] == "http":
        from starlette.responses import PlainTextResponse

        await PlainTextResponse(f"{why}\n", status, headers)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": why[:100]})
