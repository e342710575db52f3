"""The local servers that pipelines talk to. A new one is one entry in SERVICES."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from include import processes
from include.local_cloud import platforms
from include.serving import launch
from include.tools import environment, tracking_server


@dataclass(frozen=True)
class Service:
    """A server on loopback, and the connection through which pipelines find it."""

    name: str
    connection: str
    port_variable: str
    port: int
    health: str
    command: Callable[[Path, Mapping[str, str]], list[str]]
    prepare: Callable[[Path], None]
    without: Callable[[Path], dict[str, str]]
    """What is otherwise in the connection for pipelines that can do without the server."""


def _mlflow_command(home: Path, env: Mapping[str, str]) -> list[str]:
    """Clients write artifacts to disk themselves: the store also works without a server."""
    folder = home / "mlflow"
    return [
        *(sys.executable, "-m", "include.tools.tracking_server"),
        *("--host", environment.HOST, "--port", env["MLFLOW_PORT"]),
        *("--store", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts", (folder / "artifacts").as_uri()),
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


def _gateway_command(home: Path, env: Mapping[str, str]) -> list[str]:
    """Its scorers fetch models from the registry by name."""
    registry = f"http://{environment.HOST}:{env['MLFLOW_PORT']}"
    images = [home / airflow / "images" for airflow in ("airflow", "run")]
    sources = [home / "mlflow", *images]
    command = launch.command(home / "gateway", int(env["GATEWAY_PORT"]), registry, sources)
    return [*command, "--registry-user", tracking_server.USER]


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
    Service(
        name="gateway",
        connection="model_gateway",
        port_variable="GATEWAY_PORT",
        port=8090,
        health="/ping",
        command=_gateway_command,
        prepare=lambda home: (home / "gateway").mkdir(parents=True, exist_ok=True),
        without=lambda home: {},
    ),
]


def ports() -> dict[str, str]:
    """The port of each service by its variable, as `config/connections.yaml` wants them."""
    return {
        service.port_variable: str(environment.port(service.port_variable, service.port))
        for service in SERVICES
    }


def prepare(service: Service, home: Path) -> None:
    """Make what a service, or a pipeline without it, expects to find; two at once make it once."""
    with processes.alone(home / f"{service.name}.lock"):
        service.prepare(home)


def start(service: Service, home: Path, folder: Path, env: Mapping[str, str]) -> processes.Process:
    """Start a service on the port that `env` names and wait until it answers."""
    port = int(env[service.port_variable])
    prepare(service, home)
    process = processes.start(folder, service.name, service.command(home, env), env, port)
    url = f"http://{environment.HOST}:{port}{service.health}"
    try:
        processes.wait_until_answers(url, process)
    except RuntimeError:
        processes.stop(folder, [process])
        raise
    return process


def connections() -> frozenset[str]:
    """The names of those that are filled in when what stands behind them has been started."""
    ours = {service.connection for service in SERVICES}
    return frozenset(ours.union(*(entry.connections for entry in platforms.wanted())))


@dataclass(frozen=True)
class AtHand:
    """What pipelines need to find the servers that run."""

    connections: dict[str, dict[str, Any]]
    env: dict[str, str]


def sweep(home: Path) -> list[processes.Process]:
    """End the servers of runs that were killed before they could do so; returns what was ended."""
    swept = []
    with processes.alone(home / "run" / "sweep.lock"):
        for own in (home / "run" / "services").glob("*"):
            if not psutil.pid_exists(int(own.name)):
                left = processes.recorded(own)
                processes.stop(own, left)
                shutil.rmtree(own, ignore_errors=True)
                swept += left
    return swept


@contextmanager
def at_hand(home: Path, env: Mapping[str, str], needed: frozenset[str]) -> Iterator[AtHand]:
    """Have what stands behind these connections, for a while where it doesn't run already.

    A connection is that of a running server; or of a server that was started for this; or, where
    nobody needs the server, its way of doing without. The environment's own connections stay.
    """
    sweep(home)
    known = {process.name: process for process in processes.running(home / "services")}
    own = home / "run" / "services" / str(os.getpid())
    used, borrowed, without = ports(), [], {}
    needed = frozenset(name for name in needed if f"AIRFLOW_CONN_{name.upper()}" not in os.environ)
    try:
        for service in SERVICES:
            if service.name in known:
                used[service.port_variable] = str(known[service.name].port)
            elif service.connection in needed:
                used[service.port_variable] = str(processes.free_port())
                borrowed.append(start(service, home, own, {**env, **used}))
            else:
                prepare(service, home)
                without[service.connection] = service.without(home)
        for entry in platforms.wanted():
            if entry.name not in known and entry.connections & needed:
                borrowed.append(platforms.start(entry, own, own, env))
        theirs = platforms.redirects(home, known)
        ours = platforms.redirects(own, {process.name for process in borrowed})
        filled = environment.connections({**env, **used})
        yield AtHand(
            connections={name: without.get(name) or fields for name, fields in filled.items()}
            | theirs.connections
            | ours.connections,
            env=theirs.env | ours.env,
        )
    finally:
        processes.stop(own, borrowed)
        shutil.rmtree(own, ignore_errors=True)
