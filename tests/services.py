"""Real servers on loopback for the tests that talk to one, each gone at the end."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from include.tools import environment, processes, services
from tests.conftest import HOME


@dataclass(frozen=True)
class Server:
    """A server that runs, and the connection through which a pipeline finds it."""

    port: int
    connection: str

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://{environment.HOST}:{self.port}"


def http_connection(port: int) -> str:
    """An Airflow connection to a server on this machine, as AIRFLOW_CONN_* takes it."""
    return json.dumps({"conn_type": "http", "host": environment.HOST, "port": port})


@pytest.fixture(scope="session")
def mlflow_server() -> Iterator[Server]:
    """MLflow's tracking server, as `make up` starts it, on a store that no other test looks at."""
    (mlflow,) = (each for each in services.SERVICES if each.name == "mlflow")
    home, folder = HOME / "mlflow-server", HOME / "services"
    port = processes.free_port()
    process = services.start(mlflow, home, folder, {mlflow.port_variable: str(port)})
    yield Server(port, http_connection(port))
    processes.stop(folder, [process])
    assert not processes.in_use(port)
