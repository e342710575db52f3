"""The gateway as a pipeline sees it: found by the connection `model_gateway`, refused in words.

A setup task opens it for its run by `open_own()`: where nobody answers there, it starts one, and
where somebody does, it takes the lease on the pipeline's model, so that no other Airflow releases
at the same time. A teardown task must then `close_own()`; the tasks between find it by `gateway()`.
"""

import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from airflow.sdk import Connection
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException

from include import processes, runs, tracking
from include.serving import launch

CONNECTION = "model_gateway"
OWN = "address-and-token"
STARTS_WITHIN = 90.0  # what it takes to load the largest model, on a busy machine
AGAIN = (429, 503)
ASKED_AGAIN_FOR = 30.0  # seconds, where the gateway says that it is not well now
LEASE_SECONDS = 1800.0  # counted from the last that the gateway has heard of us


class Refused(ValueError):
    """The gateway understood and said no; asked again it would say the same."""


@dataclass(frozen=True)
class Gateway:
    """A gateway, the token that it obeys, and who asks."""

    address: str
    token: str
    owner: str = ""

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

    def take_lease(self, model: str) -> None:
        """Have nobody else change this model and its routes; say who has it where we can't."""
        self._call("PUT", f"/leases/{model}", {"owner": self.owner, "seconds": LEASE_SECONDS})

    def release_lease(self, model: str) -> None:
        """Let others change this model again."""
        self._call("DELETE", f"/leases/{model}")

    def _lines(self, path: str, after: int) -> tuple[list[dict[str, Any]], int]:
        found: list[dict[str, Any]] = []
        while True:
            answer = self._call("GET", f"{path}?after={after}")
            if not answer.content:
                return found, after
            found += [json.loads(line) for line in answer.content.splitlines()]
            after = int(answer.headers["X-Next-Offset"])

    def _call(
        self,
        method: str,
        path: str,
        document: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        shown = {"Authorization": f"Bearer {self.token}"}
        shown |= {"X-Lease-Owner": self.owner} if self.owner else {}
        latest = time.monotonic() + ASKED_AGAIN_FOR
        while True:
            try:
                answer = httpx.request(
                    method,
                    self.address + path,
                    json=document,
                    headers={**shown, **(headers or {})},
                    timeout=STARTS_WITHIN,
                )
            except httpx.TransportError as error:
                raise ConnectionError(
                    f"no model gateway answers at {self.address} ({type(error).__name__}). Start "
                    f"one (`make up`), or point the Airflow connection {CONNECTION} at one that "
                    "runs."
                ) from None
            pause = float(answer.headers.get("Retry-After", "nan"))
            if answer.status_code not in AGAIN or not time.monotonic() + pause < latest:
                break
            time.sleep(pause)
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
        return Gateway(own["address"], own["token"], _owner())
    return connected()


def connected() -> Gateway:
    """The gateway behind the connection."""
    found = Connection.get(CONNECTION)
    address = f"{found.conn_type}://{found.host}:{found.port}"
    return Gateway(address, found.password or "", _owner())


def open_own() -> str:
    """Start a gateway for this run where none answers; returns the address either way."""
    try:
        shared = connected()
    except AirflowNotFoundException:
        shared = None
    if shared is not None and shared.answers():
        shared.take_lease(runs.here().dag_id)
        return shared.address
    folder = _own_folder()
    if processes.running(folder):
        return gateway().address  # this task's try before this one has started it
    from include.serving import image

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    port, token = processes.free_port(), secrets.token_urlsafe(32)
    sources = [*tracking.artifact_folders(runs.here().dag_id), image.roots()]
    process = launch.gateway(folder, port, token, tracking.address(), sources)
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
        with suppress(AirflowNotFoundException, ConnectionError):
            connected().release_lease(runs.here().dag_id)
        return False
    processes.stop(folder, processes.recorded(folder))
    shutil.rmtree(folder)
    return True


def _owner() -> str:
    """Name this pipeline of this Airflow, of which one run at a time releases anything."""
    try:
        place = runs.here()
    except RuntimeError:  # nobody's task: a test, or a person
        return ""
    home = os.environ.get("AIRFLOW_HOME", "~/airflow")
    return f"{place.dag_id} of {conf.get('api', 'base_url', fallback='')} {home}".strip()[:200]


def _own_folder() -> Path:
    place = runs.here()
    home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
    return home / "gateways" / place.dag_id / place.key
