"""The local servers that pipelines talk to. A new one is one entry in SERVICES."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.tools import environment, processes


@dataclass(frozen=True)
class Service:
    """A server on loopback, and the connection through which pipelines find it."""

    name: str
    connection: str
    port_variable: str
    port: int
    health: str
    command: Callable[[Path, int], list[str]]
    prepare: Callable[[Path], None]
    without: Callable[[Path], dict[str, str]]
    """The connection for pipelines that can do without the server."""


def _mlflow_command(home: Path, port: int) -> list[str]:
    """Clients write artifacts to disk themselves: the store also works without a server."""
    folder = home / "mlflow"
    return [
        sys.executable,
        *("-m", "mlflow", "server"),
        *("--host", environment.HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--no-serve-artifacts", "--default-artifact-root", (folder / "artifacts").as_uri()),
    ]


def _create_mlflow_store(home: Path) -> None:
    """Make the tables before several processes try to at once."""
    import logging
    import warnings

    folder = home / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "mlflow.db").exists():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, on its own database
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        part = folder / "mlflow.db.part"
        SqlAlchemyStore(f"sqlite:///{part}", (folder / "artifacts").as_uri()).engine.dispose()
    part.replace(folder / "mlflow.db")


SERVICES = [
    Service(
        name="mlflow",
        connection="mlflow_default",
        port_variable="MLFLOW_PORT",
        port=5000,
        health="/health",
        command=_mlflow_command,
        prepare=_create_mlflow_store,
        without=lambda home: {"conn_type": "sqlite", "host": str(home / "mlflow" / "mlflow.db")},
    ),
]


def ports() -> dict[str, str]:
    """The port of each service by its variable, as `config/connections.yaml` wants them."""
    return {
        service.port_variable: str(environment.port(service.port_variable, service.port))
        for service in SERVICES
    }


def start(service: Service, home: Path, folder: Path, env: Mapping[str, str]) -> processes.Process:
    """Start a service on the port that `env` names and wait until it answers."""
    port = int(env[service.port_variable])
    service.prepare(home)
    process = processes.start(folder, service.name, service.command(home, port), env, port)
    url = f"http://{environment.HOST}:{port}{service.health}"
    try:
        processes.wait_until_answers(url, process)
    except RuntimeError:
        processes.stop(folder, [process])
        raise
    return process


@contextmanager
def at_hand(
    home: Path, env: Mapping[str, str], connections: frozenset[str]
) -> Iterator[dict[str, dict[str, Any]]]:
    """Have what stands behind these connections, for a while where it doesn't run already.

    Yields all connections as they are then: a running server's; a server's that was started for
    this; or, where nobody asked for the server by its connection, its way of doing without.
    """
    known = {process.name: process for process in processes.running(home / "services")}
    own = home / "run" / "services" / str(os.getpid())
    used, borrowed, without = ports(), [], {}
    try:
        for service in SERVICES:
            if service.name in known:
                used[service.port_variable] = str(known[service.name].port)
            elif service.connection in connections:
                used[service.port_variable] = str(processes.free_port())
                borrowed.append(start(service, home, own, {**env, **used}))
            else:
                service.prepare(home)
                without[service.connection] = service.without(home)
        yield environment.connections({**env, **used}) | without
    finally:
        processes.stop(own, borrowed)
        shutil.rmtree(own, ignore_errors=True)
