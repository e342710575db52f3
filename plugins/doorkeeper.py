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

from include import doorkeeper, loopback

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

PREFIX = "/enter"


class Doorkeeper(doorkeeper.Doorkeeper):
    """Stands before Airflow's own application, with Airflow's own settings."""

    def __init__(self, app: "ASGIApp") -> None:
        """Serve the host of `[api] base_url` too, and the origins that Airflow allows."""
        base = urlsplit(conf.get("api", "base_url", fallback="")).hostname
        names = loopback.names() | ({base.lower()} if base else set())
        origins = conf.getlist("api", "access_control_allow_origins", fallback=[])
        super().__init__(app, names, origins)


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
