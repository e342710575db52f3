"""The Catalogue page: all fifty pipelines on one screen of Airflow's own UI.

Airflow's navigation gets an entry, and a React component that is plain JavaScript draws the page.
What it shows comes from `include/spec.yaml`, from Airflow's public REST API with the reader's own
permissions, and from MLflow.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI

FILES = Path(__file__).with_suffix("")
PREFIX = "/catalogue"


def app() -> "FastAPI":
    """What the page loads. Airflow's login does not watch over a plugin's routes: each must ask."""
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi import Depends, FastAPI
    from fastapi.responses import FileResponse

    # The documentation's routes would not ask, so there are none.
    page = FastAPI(dependencies=[Depends(get_user)], openapi_url=None)

    @page.get("/sections")
    def sections() -> list[dict[str, Any]]:
        """The fifty tasks in their ten sections, as specified."""
        from include import spec

        return [
            {
                "number": section.number,
                "title": section.title,
                "tour": section.tour,
                "tasks": [
                    {
                        "number": task.number,
                        "title": task.title,
                        "dag_id": task.dag_id,
                        "level": task.level,
                        "purpose": task.purpose,
                        "tags": task.tags,
                        "boxes": task.boxes,
                    }
                    for task in section.tasks
                ],
            }
            for section in spec.load().sections
        ]

    @page.get("/experiments")
    def experiments() -> dict[str, Any]:
        """The address of each experiment by its name; none where MLflow has no server."""
        from include import tracking

        where = tracking.address()
        if not where.startswith("http"):
            return {"pages": {}, "fault": None}
        try:
            tracking.server()
            known = tracking.client().search_experiments()
        except (ConnectionError, PermissionError, ValueError) as error:
            return {"pages": {}, "fault": str(error)}
        pages = {each.name: f"{where}/#/experiments/{each.experiment_id}" for each in known}
        return {"pages": pages, "fault": None}

    @page.get("/{name}")
    def file(name: Literal["page.js", "page.css", "icon.svg"]) -> FileResponse:
        """The page itself, asked for anew each time: it must fit the Airflow that serves it."""
        return FileResponse(FILES / name, headers={"Cache-Control": "no-cache"})

    return page


class Catalogue(AirflowPlugin):
    """An entry in the navigation, and the routes behind it."""

    name = "catalogue"
    react_apps = [  # noqa: RUF012
        {
            "name": "Catalogue",
            "bundle_url": f"{PREFIX[1:]}/page.js",
            "icon": f"{PREFIX[1:]}/icon.svg",
            "url_route": "catalogue",
            "destination": "nav",
            "nav_top_level": True,
        }
    ]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Built when the API server asks: every task loads this file and needs none of it."""
        return [{"name": "catalogue", "url_prefix": PREFIX, "app": app()}]
