"""The installation that is disturbed: all of `make up`, in a folder of its own, on free ports."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request

from include import loopback, processes
from include.local_cloud import platforms, server
from include.tools import environment, rest, services, supervisor, tracking_server, up
from tests.scheduler.api import Api

PORTS = ("AIRFLOW_PORT", "GATEWAY_PORT", "MLFLOW_PORT")
# A killed scheduler, triggerer or task is noticed within a minute; by default it takes five.
SETTINGS = {
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "20",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "40",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "20",
    "LOCAL_CLOUD": "all",
}
COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")
SECONDS = 10.0
# What a request meets while the server that it asks has been killed.
AWAY = (OSError, HTTPException, RuntimeError)


@dataclass(frozen=True)
class Installation:
    """All that runs, and where it is."""

    home: Path
    env: dict[str, str]

    @property
    def folder(self) -> Path:
        """Where the records of its processes are."""
        return self.home / "services"

    @cached_property
    def api(self) -> Api:
        """Airflow's."""
        return Api(self.env["AIRFLOW__API__BASE_URL"], rest.password(self.env))

    @cached_property
    def registry(self) -> Any:
        """MLflow's client; a dead server is met at once, and not asked for minutes."""
        from mlflow import MlflowClient

        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(int(SECONDS))
        login = f"{tracking_server.USER}:{self.env[tracking_server.PASSWORD]}"
        return MlflowClient(f"http://{login}@{environment.HOST}:{self.env['MLFLOW_PORT']}")

    def gateway(self, path: str) -> dict[str, Any]:
        """What the gateway says to an operator."""
        address = f"http://{environment.HOST}:{self.env['GATEWAY_PORT']}{path}"
        return _asked(address, self.env["GATEWAY_TOKEN"])

    def resources(self) -> set[tuple[str, str, str]]:
        """What users have left on the platforms: platform, kind, name."""
        running = {process.name: process for process in processes.running(self.folder)}
        found = set()
        for entry in platforms.PLATFORMS:
            address = f"http://{environment.HOST}:{running[entry.name].port}/resources"
            token = server.token_file(entry.folder(self.home)).read_text(encoding="utf-8")
            kinds = _asked(address, token)
            found |= {(entry.name, kind, name) for kind, names in kinds.items() for name in names}
        return found

    def addresses(self) -> dict[str, set[str]]:
        """The ports of each service, as messages write them."""
        found = {each.name: {f":{each.port}"} for each in processes.recorded(self.folder)}
        for entry in platforms.PLATFORMS:
            file = entry.folder(self.home) / "ports.json"
            kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            found[entry.name] |= {f":{port}" for port in kept.values()}
        return found

    def unwell(self) -> list[str]:
        """The services that do not do their work just now."""
        recorded = {process.name: process for process in processes.recorded(self.folder)}
        wanted = {entry.name for entry in platforms.PLATFORMS}.union(
            up.COMPONENTS, [each.name for each in services.SERVICES], [supervisor.NAME]
        )
        bad = {name for name in wanted if name not in recorded or not recorded[name].alive()}
        health = {each.name: each.health for each in services.SERVICES}
        health |= {entry.name: "/health" for entry in platforms.PLATFORMS}
        for name in sorted(health.keys() - bad):
            try:
                address = f"http://{environment.HOST}:{recorded[name].port}{health[name]}"
                loopback.ask(address, SECONDS).close()
            except AWAY:
                bad.add(name)
        try:
            told = self.api.call("GET", "/monitor/health")
            bad |= {name for name in COMPONENTS if told[name]["status"] != "healthy"}
        except AWAY:
            bad.add("api-server")
        return sorted(bad)


@contextmanager
def opened(home: Path) -> Iterator[Installation]:
    """Have everything running that `make up` starts, and end it as `make down` does."""
    ports = {name: str(processes.free_port()) for name in PORTS}
    os.environ.update(SETTINGS | ports | {"CATALOGUE_HOME": str(home)})
    try:
        up.up()
        yield Installation(home, up.settings(home))
    finally:
        up.down()


def _asked(address: str, token: str) -> dict[str, Any]:
    request = Request(address, headers={"Authorization": f"Bearer {token}"})
    with loopback.ask(request, SECONDS) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
