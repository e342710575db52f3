"""Who comes in to Airflow: requests under its own names, and people with the link of `make up`.

A page of another site is refused, also one whose host name was led to this machine. The link's
page logs in with the password behind its `#`, which browsers keep to themselves.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

from include import loopback

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/enter"


class Doorkeeper:
    """Answers requests for another host, and of another site's pages, with a refusal."""

    def __init__(self, app: "ASGIApp") -> None:
        """Stand before Airflow's own application."""
        self.app = app
        base = urlsplit(conf.get("api", "base_url", fallback="")).hostname
        self.names = loopback.names() | ({base.lower()} if base else set())
        self.origins = set(conf.getlist("api", "access_control_allow_origins", fallback=[]))

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Look at two headers; what is no request passes."""
        why = self._refusal(scope["headers"]) if "headers" in scope else None
        if why is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            from starlette.responses import PlainTextResponse

            await PlainTextResponse(f"{why}\n", status_code=403)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": why[:100]})

    def _refusal(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        found = {
            wanted: [value.decode("latin-1") for name, value in headers if name == wanted]
            for wanted in (b"host", b"origin")
        }
        hosts, origins = found[b"host"], found[b"origin"]
        if origins and set(origins) <= self.origins:
            origins = []
        host = hosts[0] if len(hosts) == 1 else None
        return loopback.refusal(host, ", ".join(origins) if origins else None, self.names)


def app() -> "FastAPI":
    """The page behind the link."""
    from fastapi import FastAPI
    from fastapi.responses import FileResponse

    page = FastAPI(openapi_url=None)

    @page.get("/")
    def enter() -> FileResponse:
        """Log in, and go on to Airflow."""
        file = Path(__file__).with_suffix("") / "enter.html"
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    return page


class DoorkeeperPlugin(AirflowPlugin):
    """Registers the middleware and the page."""

    name = "doorkeeper"
    fastapi_root_middlewares: list[Any] = [  # noqa: RUF012
        {"name": "doorkeeper", "middleware": Doorkeeper}
    ]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Built when the API server asks: every task loads this file and needs none of it."""
        return [{"name": "enter", "url_prefix": PREFIX, "app": app()}]
