"""MLflow for pipelines: one MLflow run per pipeline run, one model version per trained model.

Every name carries the dag_id: experiment and registered model are called after the DAG. A run is
found again by its key and its params, a version by its run and its content, so that a second try or
a second run for the same date adds to what is there instead of beside it. The first task that opens
the run makes it: let tasks that work side by side come after one.

The connection `mlflow_default` says where MLflow is: `http` or `https` with host, port and perhaps
login and password, or `sqlite` with a file as host. Without it MLflow's own `MLFLOW_TRACKING_URI`
counts, and without that a SQLite file under AIRFLOW_HOME.
"""

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from airflow.sdk import Connection, get_current_context
from airflow.sdk.exceptions import AirflowNotFoundException

from include import runs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CONNECTION = "mlflow_default"
CHAMPION = "champion"
RUN_LINK = "mlflow_run"
ANSWERED = re.compile(r"failed with error code (\d{3})|too many (\d{3}) error responses")
POINTS_AT_ONCE = 1000  # MLflow refuses more metrics in one request
_lent: dict[str, str] = {}  # what this process has put into its environment for MLflow's client
SERVED_WITH = ("scikit-learn", "skops", "pandas", "numpy")

# Airflow repeats a failed task by its own rules; MLflow's seven tries would hide a dead server for
# minutes. And nobody is told that these pipelines ran.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


@dataclass(frozen=True)
class Version:
    """A registered model version, as much of it as a gate or a reader needs."""

    model: str
    number: str
    sha256: str
    run_id: str
    key: str
    replaces: str | None
    """The version that was champion before this one was promoted."""
    reference: str | None = None
    """Where its bytes are, if the artifact store has them and not MLflow."""


@contextmanager
def _reachable() -> Iterator[None]:
    """Say how to mend a fault of the network or the login, as an error that retries know."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if "API request to" not in str(error):
            raise
        answered = ANSWERED.search(str(error))
        if answered:
            raise _refused(int(answered[1] or answered[2])) from None
        raise ConnectionError(
            f"MLflow does not answer at {address()}. Start it (`make up`), or point the Airflow "
            f"connection {CONNECTION} at a server that runs."
        ) from None


def _refused(status: int) -> Exception:
    """What an HTTP status says that MLflow did not send for a reason of its own."""
    look_at = f"Look at host, port, login and password of the Airflow connection {CONNECTION}."
    if status in (401, 403):
        return PermissionError(f"MLflow at {address()} refuses us: HTTP {status}. {look_at}")
    if status == 429 or status >= 500:
        return ConnectionError(f"MLflow at {address()} can't answer now: HTTP {status}.")
    return ValueError(f"{address()} answers, but not as MLflow: HTTP {status}. {look_at}")


def address() -> str:
    """Where MLflow is, as MLflow writes it."""
    try:
        connection = Connection.get(CONNECTION)
    except AirflowNotFoundException:
        home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
        local = f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
        return os.environ.get("MLFLOW_TRACKING_URI", local)
    if connection.conn_type == "sqlite":
        return f"sqlite:///{connection.host}"
    _log_in(connection)
    port = f":{connection.port}" if connection.port else ""
    path = f"/{connection.schema}" if connection.schema else ""
    return f"{connection.conn_type}://{connection.host}{port}{path}"


def _log_in(connection: Connection) -> None:
    """MLflow takes the login from the environment; another server is not shown an earlier one."""
    if connection.login:
        _lent["MLFLOW_TRACKING_USERNAME"] = connection.login
        _lent["MLFLOW_TRACKING_PASSWORD"] = connection.password or ""
        os.environ.update(_lent)
        return
    for name, value in _lent.items():
        if os.environ.get(name) == value:  # or it is yours
            os.environ.pop(name, None)


def client() -> "MlflowClient":
    """Talk to the tracking server and the registry directly."""
    client: MlflowClient = _mlflow().MlflowClient()
    return client


def server() -> str:
    """Ask for the server's version: somebody is there, and it is MLflow."""
    _mlflow()
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    where = address()
    with _reachable():
        answer = http_request(get_default_host_creds(where), "/version", "GET")
    if answer.status_code != 200:
        raise _refused(answer.status_code)
    return str(answer.text)


@_reachable()
def artifact_folders(name: str) -> list[Path]:
    """The folder below which the models of an experiment lie, where it is on this machine."""
    location = client().get_experiment(_experiment(name)).artifact_location
    url = urlsplit(location)
    return [Path(url2pathname(url.path)).parent] if url.scheme in ("", "file") else []


@contextmanager
def run() -> Iterator["Run"]:
    """Open this pipeline run's MLflow run: the one that an earlier task or try began, or a new one.

    Everything logged inside, also by MLflow's own functions, lands there. The run is marked as
    finished when the block ends well and as failed when it doesn't.
    """
    with _opened(runs.here().key, _labels()) as active:
        yield active


@contextmanager
def part(name: str) -> Iterator["Run"]:
    """Open a run within this pipeline run's, for one of several that are to be compared."""
    with _reachable():
        whole = _begun(_labels(), _experiment(runs.here().dag_id))
    if whole is None:
        with run() as whole:
            pass
    labels = {"mlflow.parentRunId": whole.info.run_id, "airflow.part": name}
    with _opened(name, labels) as active:
        yield active


def page(run: "Run") -> str:
    """Where a run can be looked at; without a server, its name in the store."""
    where = address()
    if not where.startswith("http"):
        return f"runs:/{run.info.run_id}"
    return f"{where}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def picture(run: "Run", name: str) -> str | None:
    """Where a kept plot alone can be shown, if there is a server to show it."""
    where = address()
    if not where.startswith("http"):
        return None
    return f"{where}/get-artifact?path={name}&run_uuid={run.info.run_id}"


def log_figure(figure: "Figure", name: str) -> None:
    """Keep a plot with the open run."""
    _mlflow().log_figure(figure, name, save_kwargs={"dpi": 120})


@_reachable()
def log_history(history: Mapping[str, Sequence[float]]) -> None:
    """Add measures to the open run, step by step; sent again, they are the same points.

    MLflow takes a point with another time for another point, so the time is the run's start and the
    step in milliseconds, which a second try gives again.
    """
    mlflow = _mlflow()
    info = mlflow.active_run().info
    points = [
        mlflow.entities.Metric(measure, value, info.start_time + step, step)
        for measure, values in history.items()
        for step, value in enumerate(values, start=1)
    ]
    for first in range(0, len(points), POINTS_AT_ONCE):
        client().log_batch(info.run_id, metrics=points[first : first + POINTS_AT_ONCE])


def log_model(model: Any, example: "pd.DataFrame") -> "LoggedModel":
    """Keep a fitted model with the open run, with signature and example, unless it is there."""
    from include.training import model_format

    mlflow = _mlflow()
    info = mlflow.active_run().info
    sha256 = runs.digest(model_format.dumps(model))
    for known in client().search_logged_models(
        [info.experiment_id], f"source_run_id = '{info.run_id}' AND tags.sha256 = '{sha256}'"
    ):
        if known.status == mlflow.entities.LoggedModelStatus.READY:
            return known
    with hushed():
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=mlflow.models.infer_signature(example, model.predict(example)),
            input_example=example.head(3),
            pip_requirements=[f"{package}=={installed(package)}" for package in SERVED_WITH],
            skops_trusted_types=model_format.TRUSTED_TYPES,
            tags={"sha256": sha256},
        )
    return client().get_logged_model(logged.model_id)


def register(model: Any, example: "pd.DataFrame", metrics: dict[str, float]) -> str:
    """Give a fitted model a version number in the registry, or the one that it already has."""
    with run():
        _mlflow().log_metrics(metrics)
        return register_logged(log_model(model, example))


@_reachable()
def register_logged(logged: "LoggedModel") -> str:
    """Give a model that a run keeps a version number, or the one that it already has."""
    place = runs.here()
    sha256 = logged.tags["sha256"]
    for known in versions(place.dag_id):
        if (known.run_id, known.sha256) == (logged.source_run_id, sha256):
            return known.number
    created = client().create_model_version(
        _registered(place.dag_id),
        source=logged.model_uri,
        run_id=logged.source_run_id,
        model_id=logged.model_id,
        tags={"sha256": sha256, "airflow.run_key": place.key},
    )
    return str(created.version)


@_reachable()
def register_reference(reference: str) -> str:
    """Give a model that the artifact store keeps a version number, or the one that it already has.

    Call it with the run open: what the run keeps, a sidecar say, is all that MLflow has of it.
    """
    place = runs.here()
    for known in versions(place.dag_id):
        if (known.key, known.reference) == (place.key, reference):
            return known.number
    info = _mlflow().active_run().info
    sha256 = reference.partition("#sha256=")[2][:12]
    created = client().create_model_version(
        _registered(place.dag_id),
        source=info.artifact_uri,
        run_id=info.run_id,
        tags={"sha256": sha256, "airflow.run_key": place.key, "reference": reference},
    )
    return str(created.version)


@_reachable()
def aliases() -> dict[str, str]:
    """Which version of this DAG's model each alias points to, whoever set it."""
    found = client().get_registered_model(runs.here().dag_id).aliases
    return {alias: str(number) for alias, number in found.items()}


@_reachable()
def retire(number: str) -> None:
    """Take a version out of the registry; the run that made it stays."""
    client().delete_model_version(runs.here().dag_id, number)


@_reachable()
def promote(number: str) -> str | None:
    """Let callers have this version; returns the one that they had before."""
    name = runs.here().dag_id
    current = champion(name)
    if current is not None and current.number == number:
        return current.replaces
    if current is not None:
        client().set_model_version_tag(name, number, "replaces", current.number)
    client().set_registered_model_alias(name, CHAMPION, number)
    return None if current is None else current.number


@_reachable()
def champion(name: str) -> Version | None:
    """The version that callers get, if any was ever promoted."""
    from mlflow.exceptions import MlflowException

    try:
        return _version(client().get_model_version_by_alias(name, CHAMPION))
    except MlflowException as error:
        # An unknown alias of a known model is reported as a bad parameter.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


@_reachable()
def versions(name: str) -> list[Version]:
    """All versions of a model, newest first."""
    found = client().search_model_versions(f"name = '{name}'", order_by=["version_number DESC"])
    return [_version(each) for each in found]


def load(name: str, number: str) -> Any:
    """Fetch a registered model and build it from reviewed types only.

    MLflow's own loader takes the list of trusted types from the model itself, which is why it asks
    for MLFLOW_ALLOW_PICKLE_DESERIALIZATION first.
    """
    from include.training import model_format

    with files(name, number) as folder:
        return model_format.loads((folder / "model.skops").read_bytes())


@contextmanager
def files(name: str, number: str) -> Iterator[Path]:
    """A copy of the files of a registered model, which goes when the block ends."""
    mlflow = _mlflow()
    with _reachable(), TemporaryDirectory() as copy:
        source = f"models:/{name}/{number}"
        yield Path(mlflow.artifacts.download_artifacts(source, dst_path=copy))


@contextmanager
def hushed() -> Iterator[None]:
    """Keep notices that MLflow causes, and that are not about the model, out of the task's log."""
    evaluation = logging.getLogger("mlflow.models.evaluation")
    before = evaluation.level
    evaluation.setLevel(logging.ERROR)  # it misses SHAP and a model where predictions are given
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Hint: Inferred schema contains integer column")
            warnings.filterwarnings("ignore", "Operation with range is deprecated")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="mlflow")
            yield
    finally:
        evaluation.setLevel(before)


def _mlflow() -> ModuleType:
    for noisy in map(logging.getLogger, ("mlflow", "alembic")):
        if noisy.level != logging.WARNING:  # setting it makes Python forget what it knows of all
            noisy.setLevel(logging.WARNING)  # before the import: it logs to stderr
    with warnings.catch_warnings():
        # Its own type hints, looked at by its own checks while it is imported.
        warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType")
        import mlflow

    mlflow.set_tracking_uri(address())
    module: ModuleType = mlflow
    return module


def _labels() -> dict[str, str]:
    """By what this pipeline run's MLflow run is known."""
    place = runs.here()
    return {"airflow.run_key": place.key, "airflow.settings": place.settings}


def _begun(labels: Mapping[str, str], experiment: str) -> "Run | None":
    """The oldest run of an experiment that carries these labels."""
    found = client().search_runs(
        [experiment],
        " and ".join(f"tags.`{tag}` = '{at}'" for tag, at in labels.items()),
        max_results=1,
        order_by=["attributes.start_time ASC"],
    )
    return next(iter(found), None)


@contextmanager
def _opened(name: str, labels: Mapping[str, str]) -> Iterator["Run"]:
    """Open the run that carries these labels, or a new one, and link it from the task."""
    mlflow = _mlflow()
    with _reachable():
        experiment = _experiment(runs.here().dag_id)
        begun = _begun(labels, experiment)
        opened = (
            mlflow.start_run(run_id=begun.info.run_id)
            if begun
            else mlflow.start_run(experiment_id=experiment, run_name=name, tags=dict(labels))
        )
        with opened as active:
            get_current_context()["ti"].xcom_push(RUN_LINK, page(active))
            yield active


def _experiment(name: str) -> str:
    """Make the experiment once; a store without a server keeps artifacts beside its database."""
    known = client().get_experiment_by_name(name)
    if known is None:
        where, beside = address(), None
        if where.startswith("sqlite:///"):
            beside = (Path(where.removeprefix("sqlite:///")).parent / "artifacts" / name).as_uri()
        with _unless_there():
            client().create_experiment(name, artifact_location=beside)
        known = client().get_experiment_by_name(name)
    return str(known.experiment_id)


def _registered(name: str) -> str:
    """Make the registered model once."""
    with _unless_there():
        client().create_registered_model(name)
    return name


@contextmanager
def _unless_there() -> Iterator[None]:
    """Two runs that come first together make a thing once: who is second finds it there."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version(found: "ModelVersion") -> Version:
    return Version(
        model=found.name,
        number=str(found.version),
        sha256=found.tags.get("sha256", ""),
        run_id=found.run_id,
        key=found.tags.get("airflow.run_key", ""),
        replaces=found.tags.get("replaces"),
        reference=found.tags.get("reference"),
    )
