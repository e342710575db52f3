"""The gateway as a pipeline sees it: found by the connection `model_gateway`, refused in words.

Where nobody answers there, a setup task may `open_own()` for its run, and a teardown task must then
`close_own()`; the tasks between find it by `gateway()` alone.
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from include import processes, runs, tracking
from include.serving import launch

CONNECTION = "model_gateway"
OWN = "address-and-token"
STARTS_WITHIN = 90.0  # what it takes to load the largest model, on a busy machine


class Refused(ValueError):
    """The gateway understood and said no; asked again it would say the same."""


@dataclass(frozen=True)
class Gateway:
    """A gateway and the token that it obeys."""

    address: str
    token: str

    def answers(self) -> bool:
        """Whether anybody is there."""
        try:
            return httpx.get(f"{self.address}/ping", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def start_version(
        self,
        model: str,
        version: str,
        source: str,
        error_every: int = 0,
        delay_seconds: float = 0.0,
    ) -> None:
        """Have a version running, and wait until it answers. The last two make it practise."""
        made_of = {"source": source, "error_every": error_every, "delay_seconds": delay_seconds}
        self._call("PUT", f"/models/{model}/{version}", made_of)

    def stop_version(self, model: str, version: str) -> None:
        """Let it answer what it was asked, then stop it."""
        self._call("DELETE", f"/models/{model}/{version}")

    def versions(self, model: str) -> dict[str, dict[str, Any]]:
        """The versions of a model that run, and how they are."""
        found: dict[str, dict[str, Any]] = self._call("GET", "/models").json().get(model, {})
        return found

    def set_route(
        self,
        name: str,
        model: str,
        weights: Mapping[str, float],
        sticky: str | None = None,
        shadow: str | None = None,
    ) -> None:
        """Switch a route, between two requests."""
        route = {"model": model, "weights": dict(weights), "sticky": sticky, "shadow": shadow}
        self._call("PUT", f"/routes/{name}", route)

    def route(self, name: str) -> dict[str, Any] | None:
        """What is done with requests for a name; None where nothing is."""
        found: dict[str, Any] | None = self._call("GET", "/routes").json().get(name)
        return found

    def remove_route(self, name: str) -> None:
        """Take a name away from callers."""
        self._call("DELETE", f"/routes/{name}")

    def ask(
        self, route: str, rows: list[dict[str, Any]], headers: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], str]:
        """What a caller gets for these rows, and the version that gave it."""
        body = {"dataframe_records": rows}
        answer = self._call("POST", f"/routes/{route}/invocations", body, headers)
        return answer.json(), answer.headers["X-Model-Version"]

    def requests(self, route: str, after: int = 0) -> tuple[list[dict[str, Any]], int]:
        """What was asked through a route from an offset on, and the offset behind it."""
        return self._lines(f"/routes/{route}/requests", after)

    def predictions(
        self, model: str, version: str, after: int = 0
    ) -> tuple[list[dict[str, Any]], int]:
        """What a version has answered from an offset on, and the offset behind it."""
        return self._lines(f"/models/{model}/{version}/predictions", after)

    def _lines(self, path: str, after: int) -> tuple[list[dict[str, Any]], int]:
        found: list[dict[str, Any]] = []
        while True:
            answer = self._call("GET", f"{path}?after={after}")
            if not answer.text:
                return found, after
            found += [json.loads(line) for line in answer.text.splitlines()]
            after = int(answer.headers["X-Next-Offset"])

    def _call(
        self,
        method: str,
        path: str,
        document: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        try:
            answer = httpx.request(
                method,
                self.address + path,
                json=document,
                headers={"Authorization": f"Bearer {self.token}", **(headers or {})},
                timeout=STARTS_WITHIN,
            )
        except httpx.TransportError as error:
            raise ConnectionError(
                f"no model gateway answers at {self.address} ({type(error).__name__}). Start one "
                f"(`make up`), or point the Airflow connection {CONNECTION} at one that runs."
            ) from None
        if answer.is_success:
            return answer
        try:
            reason = str(answer.json()["error"])
        except (ValueError, KeyError, TypeError):
            reason = answer.text[:200]
        message = f"{method} {path}: HTTP {answer.status_code}: {reason}"
        raise Refused(message) if answer.is_client_error else ConnectionError(message)


def gateway() -> Gateway:
    """The gateway that this run talks to: the one that it started itself, or the connection's."""
    record = _own_folder() / OWN
    if record.exists():
        own = json.loads(record.read_text(encoding="utf-8"))
        return Gateway(own["address"], own["token"])
    return connected()


def connected() -> Gateway:
    """The gateway behind the connection."""
    found = Connection.get(CONNECTION)
    return Gateway(f"{found.conn_type}://{found.host}:{found.port}", found.password or "")


def open_own() -> str:
    """Start a gateway for this run where none answers; returns the address either way."""
    try:
        shared = connected()
    except AirflowNotFoundException:
        shared = None
    if shared is not None and shared.answers():
        return shared.address
    folder = _own_folder()
    if processes.running(folder):
        return gateway().address  # this task's try before this one has started it
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    port, token = processes.free_port(), secrets.token_urlsafe(32)
    process = launch.gateway(folder, port, token, tracking.address())
    address = f"http://{launch.HOST}:{port}"
    try:
        processes.wait_until_answers(f"{address}/ping", process)
    except RuntimeError:
        processes.stop(folder, [process])
        raise
    record = folder / f"{OWN}.part"
    record.touch(mode=0o600)
    record.write_text(json.dumps({"address": address, "token": token}), encoding="utf-8")
    record.replace(folder / OWN)
    return address


def close_own() -> bool:
    """Stop what `open_own` started for this run; a gateway of others is left alone."""
    folder = _own_folder()
    if not folder.exists():
        return False
    processes.stop(folder, processes.recorded(folder))
    shutil.rmtree(folder)
    return True


def _own_folder() -> Path:
    place = runs.here()
    home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
    return home / "gateways" / place.dag_id / place.key
