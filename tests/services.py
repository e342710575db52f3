"""Real servers on loopback for the tests that talk to one, each gone at the end."""

import base64
import email
import json
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.message import Message
from functools import cache
from itertools import count
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest

from include import processes
from include.local_cloud import platforms
from include.local_cloud.server import Redirect, token_file
from include.tools import environment, needs, services
from include.tools.tracking_server import PASSWORD, USER
from tests import warm
from tests.conftest import HOME, SHARED
from tests.harness import clone

NUMBERS = count(1)


@dataclass(frozen=True)
class Server:
    """A server that runs, and the connection through which a pipeline finds it."""

    port: int
    connection: str
    process: processes.Process | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://{environment.HOST}:{self.port}"

    @property
    def with_login(self) -> str:
        """Where it listens, with user and password, as MLflow's client takes them."""
        known = json.loads(self.connection)
        return f"http://{known['login']}:{known['password']}@{environment.HOST}:{self.port}"

    def page(self, link: str) -> Request:
        """What a browser asks for that has logged in."""
        known = json.loads(self.connection)
        login = base64.b64encode(f"{known['login']}:{known['password']}".encode()).decode()
        return Request(link, headers={"Authorization": f"Basic {login}"})


def beyond_loopback(process: processes.Process) -> list[str]:
    """The addresses of other interfaces on which a process or its children listen."""
    listening = [
        connection.laddr
        for member in process.family()
        for connection in member.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    return [
        f"{address.ip}:{address.port}"
        for address in listening
        if address.ip.removeprefix("::ffff:") != environment.HOST  # gRPC writes it so
    ]


def http_connection(port: int) -> str:
    """An Airflow connection to a server on this machine, as AIRFLOW_CONN_* takes it."""
    return json.dumps({"conn_type": "http", "host": environment.HOST, "port": port})


@contextmanager
def tracking_server(home: Path) -> Iterator[Server]:
    """MLflow's tracking server, as `make up` starts it, on a copy of the empty store."""
    (home / "mlflow").mkdir(parents=True)
    clone(SHARED / "mlflow.db", home / "mlflow" / "mlflow.db")
    (mlflow,) = (each for each in services.SERVICES if each.name == "mlflow")
    folder = home / "services"  # of its own: what is stopped is known by its folder and name
    port, password = processes.free_port(), secrets.token_urlsafe()
    env = {mlflow.port_variable: str(port), PASSWORD: password}
    process = services.start(mlflow, home, folder, env)
    connection = json.loads(http_connection(port))
    connection |= {"login": USER, "password": password}
    yield Server(port, json.dumps(connection), process)
    processes.stop(folder, [process])
    assert not processes.in_use(port)


@pytest.fixture(scope="session")
def mlflow_server(mlflow_store: str) -> Iterator[Server]:
    """A tracking server for the pipelines whose tests want one."""
    with tracking_server(HOME / "mlflow-server") as server:
        yield server


@pytest.fixture(scope="session")
def model_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The gateway in front of served models, as `make up` starts it."""
    (gateway,) = (each for each in services.SERVICES if each.name == "gateway")
    home, folder = HOME / "gateway-home", HOME / "services"
    port, token = processes.free_port(), secrets.token_urlsafe()
    env = {
        **services.ports(),
        gateway.port_variable: str(port),
        "GATEWAY_SOURCES": f"{HOME}{os.pathsep}{tmp_path_factory.getbasetemp()}",
        "GATEWAY_TOKEN": token,
    }
    process = services.start(gateway, home, folder, env)
    connection = json.loads(http_connection(port)) | {"password": token}
    yield Server(port, json.dumps(connection))
    processes.stop(folder, [process])
    assert not process.family()


@dataclass(frozen=True)
class NoGateway:
    """A port where nobody answers, and what the runs that found nobody there have stopped."""

    port: int
    stopped: list[processes.Process]

    def check_that_own_one_is_gone(self, run: Any) -> None:
        """A run that found no gateway opened one of its own; of it nothing may be left."""
        assert run.xcom("open_gateway") != f"http://{environment.HOST}:{self.port}"
        assert run.xcom("close_gateway") is True
        assert [process.name for process in self.stopped].count("gateway") == 1
        assert not any(process.family() for process in self.stopped)
        assert not (HOME / "gateways" / run.dag_id / run.key).exists()


@contextmanager
def no_gateway() -> Iterator[NoGateway]:
    """Lead pipelines to a gateway that does not answer."""
    nobody = NoGateway(processes.free_port(), [])
    stop = processes.stop

    def noting(folder: Path, found: list[processes.Process]) -> None:
        nobody.stopped.extend(found)
        stop(folder, found)

    with pytest.MonkeyPatch.context() as patch:
        connection = json.loads(http_connection(nobody.port)) | {"password": "none"}
        patch.setenv("AIRFLOW_CONN_MODEL_GATEWAY", json.dumps(connection))
        patch.setattr(processes, "stop", noting)
        yield nobody


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """Amazon's S3 protocol, as moto speaks it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(environment.HOST, port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    connection = {
        "conn_type": "aws",
        "login": "an-id",
        "password": "a-secret",
        "extra": {"endpoint_url": f"http://{environment.HOST}:{port}", "region_name": "us-east-1"},
    }
    yield Server(port, json.dumps(connection))
    server.stop()
    assert not processes.in_use(port)


@dataclass(frozen=True)
class Bucket:
    """A bucket for artifacts, and a client that looks into it from outside."""

    name: str
    client: Any

    def put(self, key: str, content: bytes) -> None:
        """Write past the code under test."""
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        """Read past the code under test."""
        content: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return content

    def keys(self) -> list[str]:
        """Everything in it."""
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return sorted(each["Key"] for each in listed)


@pytest.fixture
def bucket(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, and the one setting that makes it the artifact store."""
    import boto3
    from airflow.sdk.io import store

    client = boto3.client(
        "s3",
        endpoint_url=s3_server.address,
        aws_access_key_id="an-id",
        aws_secret_access_key="a-secret",  # noqa: S106 - moto takes any
        region_name="us-east-1",
    )
    name = f"artifacts-{next(NUMBERS)}"
    client.create_bucket(Bucket=name)
    monkeypatch.setattr(store, "_STORE_CACHE", {})  # it may know another server by this connection
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", s3_server.connection)
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", f"s3://aws_default@{name}/catalogue")
    return Bucket(name, client)


@dataclass(frozen=True)
class Platform:
    """A platform of the local cloud, with what leads there and its side door."""

    redirect: Redirect
    door: str
    token: str

    def lead(self, patch: pytest.MonkeyPatch) -> None:
        """Have pipelines and clients of this process find it."""
        for name, value in environment.as_variables(self.redirect.connections).items():
            patch.setenv(name, value)
        for name, value in self.redirect.env.items():
            patch.setenv(name, value)

    def left(self) -> dict[str, list[str]]:
        """What users have not taken away, by kind."""
        found: dict[str, list[str]] = self._ask("GET", "resources")
        return found

    @contextmanager
    def trouble(self, kind: str, operation: str = "*", **more: Any) -> Iterator[None]:
        """Have something go wrong there for a while."""
        self._ask("POST", "faults", {"kind": kind, "operation": operation} | more)
        try:
            yield
        finally:
            self._ask("DELETE", "faults")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}"}
        asked = Request(f"{self.door}/{path}", data, headers, method=method)
        with urlopen(asked, timeout=30) as answer:
            return json.load(answer)


def opened(entry: platforms.Entry, home: Path, process: processes.Process) -> Platform:
    """A platform that was started with its state below this folder."""
    return Platform(
        redirect=platforms.redirects(home, [entry.name]),
        door=f"http://{environment.HOST}:{process.port}",
        token=token_file(entry.folder(home)).read_text(),
    )


@contextmanager
def platform(
    name: str, home: Path = HOME / "platforms", records: Path = HOME / "services"
) -> Iterator[Platform]:
    """A platform as `make up` starts it; at the end no process of it is left."""
    (entry,) = (each for each in platforms.PLATFORMS if each.name == name)
    process = platforms.start(entry, home, records, {})
    yield opened(entry, home, process)
    assert beyond_loopback(process) == []
    processes.stop(records, [process])
    assert not process.family()


@contextmanager
def warm_platform(name: str, libraries: Sequence[str]) -> Iterator[Platform]:
    """A platform whose jobs are forks of one process that has imported what they need."""
    home = HOME / f"warm-{name}"
    home.mkdir()
    python = home / "python"
    with warm.interpreter(Path(sys.executable), python, libraries), ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(python))
            found = stack.enter_context(platform(name, home, home / "services"))
        yield found


@pytest.fixture(scope="session")
def local_cloud() -> Iterator[Callable[[str], Platform]]:
    """The platforms by their names, each started when it is first asked for."""
    with ExitStack() as opened:
        yield cache(lambda name: opened.enter_context(platform(name)))


@pytest.fixture
def lead_to_platforms(
    local_cloud: Callable[[str], Platform], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Lead a pipeline to the platforms whose connections it names; most need none."""

    def lead(dag_id: str) -> None:
        wanted = needs.needs(environment.DAGS / f"{dag_id}.py").connections
        for entry in platforms.PLATFORMS:
            if entry.connections & wanted:
                local_cloud(entry.name).lead(monkeypatch)

    return lead


@pytest.fixture(scope="session")
def azure_ml(local_cloud: Callable[[str], Platform]) -> Platform:
    """Azure Machine Learning, with the storage and the identities that it works with."""
    return local_cloud("azure_ml")


@pytest.fixture(scope="session")
def sagemaker(local_cloud: Callable[[str], Platform]) -> Platform:
    """Amazon SageMaker, with the S3 that it works with."""
    return local_cloud("sagemaker")


@pytest.fixture(scope="session")
def kubeflow_platform(local_cloud: Callable[[str], Platform]) -> Platform:
    """Kubeflow Pipelines."""
    return local_cloud("kubeflow")


@pytest.fixture(scope="session")
def vertex(local_cloud: Callable[[str], Platform]) -> Platform:
    """Google's Vertex AI and Cloud Storage."""
    return local_cloud("vertex")


@dataclass(frozen=True)
class Mailbox:
    """A mail server that keeps what it is given, and the connection that sends there."""

    connection: str
    mails: list[Message]


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """As much of SMTP as a client without a password needs."""
    mails: list[Message] = []

    class Session(StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while command := self.rfile.readline().strip().upper():
                if command == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines = iter(self.rfile.readline, b".\r\n")
                    mails.append(email.message_from_bytes(b"".join(lines)))
                self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 well\r\n")

    extra = {"disable_ssl": True, "disable_tls": True, "from_email": "ml@example.org"}
    connection = {"conn_type": "smtp", "extra": extra | {"to": "on-call@example.org"}}
    with ThreadingTCPServer((environment.HOST, 0), Session) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        host, port = server.server_address[:2]
        yield Mailbox(json.dumps(connection | {"host": host, "port": port}), mails)
        server.shutdown()


@pytest.fixture(scope="session")
def kubernetes_platform(local_cloud: Callable[[str], Platform]) -> Platform:
    """A Kubernetes cluster of one node."""
    return local_cloud("kubernetes")
