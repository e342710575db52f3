"""Run a pipeline in the test's own process and look at everything that it left behind."""

import copy
import fcntl
import gc
import os
import shutil
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from include.tools import environment
from tests.conftest import HOME, SHARED

SUCCESS = {"success", "skipped"}


@dataclass
class FinishedRun:
    """What one run did: taken down when it ended, since a second run for its date deletes it."""

    dag_id: str
    logical_date: datetime
    state: str
    states: dict[str, str]
    _tries: dict[str, int]
    _errors: dict[str, BaseException]
    _xcoms: dict[tuple[str, int, str], Any]
    _events: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name that everything of this run is stored under."""
        from include import runs

        return runs.key(self.logical_date, "")

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """What a task passed on."""
        return self._xcoms[task_id, map_index, key]

    def xcoms(self) -> dict[tuple[str, int, str], Any]:
        """Everything that was passed on, by task, map index and key."""
        return dict(self._xcoms)

    def reference(self, task_id: str, key: str = "return_value", map_index: int = -1) -> str:
        """The artifact that a task passed on; `key` may also name an entry of what it returned."""
        if (task_id, map_index, key) in self._xcoms:
            return str(self._xcoms[task_id, map_index, key])
        return str(self._xcoms[task_id, map_index, "return_value"][key])

    def frame(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """The table that a task wrote."""
        from include import storage

        return storage.read_frame(self.reference(task_id, key, map_index))

    def model(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """The model that a task wrote."""
        from include import storage

        return storage.read_model(self.reference(task_id, key, map_index))

    def digest(self, task_id: str, key: str = "return_value", map_index: int = -1) -> str:
        """The digest of the artifact that a task wrote."""
        return self.reference(task_id, key, map_index).partition("#sha256=")[2]

    def error(self, task_id: str) -> str:
        """The message that a failed task ended with."""
        return str(self._errors[task_id])

    def tries(self, task_id: str) -> int:
        """How often a task was started."""
        return self._tries[task_id]

    def events(self, asset: str) -> list[Any]:
        """The extras of the events that this run emitted for an asset, named without the dag_id."""
        return self._events.get(f"{self.dag_id}/{asset}", [])


@dataclass
class Warehouse:
    """The database behind the connection `warehouse`."""

    path: Path

    def column(self, table: str, name: str) -> list[Any]:
        """All values of a column."""
        with closing(sqlite3.connect(self.path)) as database:
            return [row[0] for row in database.execute(f"SELECT {name} FROM {table}")]  # noqa: S608

    def execute(self, statement: str) -> None:
        """Change something; it is undone after the test."""
        with closing(sqlite3.connect(self.path)) as database:
            database.execute(statement)
            database.commit()


@dataclass
class Registry:
    """What MLflow knows about a model version, read past the helpers under test."""

    client: Any

    def metrics(self, version: Any) -> dict[str, float]:
        """The metrics of the run that made it."""
        return dict(self.client.get_run(version.run_id).data.metrics)

    def params(self, version: Any) -> dict[str, str]:
        """The parameters of the run that made it."""
        return dict(self.client.get_run(version.run_id).data.params)

    def runs(self, dag_id: str, key: str) -> list[Any]:
        """The MLflow runs of one pipeline run."""
        experiment = self.client.get_experiment_by_name(dag_id)
        wanted = f"tags.`airflow.run_key` = '{key}'"
        return list(self.client.search_runs([experiment.experiment_id], wanted))

    def artifacts(self, version: Any) -> list[str]:
        """The files kept with the run that made it."""
        return sorted(each.path for each in self.client.list_artifacts(version.run_id))


@contextmanager
def once(name: str) -> Iterator[bool]:
    """Let one worker make what all share while the others wait; yields whether it must."""
    done = SHARED / f"{name}.done"
    with (SHARED / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done.exists()
        done.touch()


def clone(source: Path, target: Path) -> None:
    """Copy a SQLite database, with what is still in its write-ahead log."""
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


@pytest.fixture(scope="session")
def airflow_database() -> None:
    """A migrated metadata database of this worker's own, with the pools of `config/pools.json`."""
    template = SHARED / "airflow.db"
    with once("airflow-database") as missing:
        if missing:
            from airflow.cli import cli_parser
            from airflow.utils import db

            db.initdb()
            arguments = ["pools", "import", str(environment.PROJECT / "config" / "pools.json")]
            parsed = cli_parser.get_parser().parse_args(arguments)
            parsed.func(parsed)
            clone(HOME / "airflow.db", template)
    if not missing:  # Airflow has made an empty file by now
        clone(template, HOME / "airflow.db")


@pytest.fixture(scope="session")
def mlflow_store() -> str:
    """An MLflow store of this worker's own; returns its address."""
    template = SHARED / "mlflow.db"
    store = HOME / "mlflow" / "mlflow.db"
    store.parent.mkdir(exist_ok=True)
    with once("mlflow-store") as missing:
        if missing:
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            SqlAlchemyStore(f"sqlite:///{template}", (HOME / "mlflow" / "artifacts").as_uri())
    clone(template, store)
    return f"sqlite:///{store}"


@pytest.fixture(scope="session")
def training_python() -> Path:
    """The interpreter without Airflow, as `make install` makes it."""
    python = Path(os.environ["AIRFLOW_VAR_TRAINING_PYTHON"])
    assert python.is_file(), f"{python} is not there: make it with `make install`"
    return python


@pytest.fixture(scope="session")
def kubeflow_python() -> Path:
    """The interpreter that has Kubeflow's SDK, as `make install` makes it."""
    python = Path(os.environ["AIRFLOW_VAR_KUBEFLOW_PYTHON"])
    assert python.is_file(), f"{python} is not there: make it with `make install`"
    return python


@pytest.fixture(scope="session")
def registry(mlflow_store: str) -> Registry:
    """MLflow's own client on this worker's store."""
    from mlflow import MlflowClient

    return Registry(MlflowClient(mlflow_store))


@pytest.fixture(scope="session")
def warehouse_file() -> Path:
    """The seeded warehouse, made once for all workers."""
    from include.data import warehouse

    template = SHARED / "warehouse.db"
    with once("warehouse"):
        warehouse.create(template)
    return Path(shutil.copy(template, HOME / "warehouse.db"))


@pytest.fixture(scope="session")
def landing_zone() -> Path:
    """The folder with the files that other companies delivered, made once for all workers."""
    from include.data import landing

    template = SHARED / "landing"
    with once("landing"):
        landing.create(template)
    return Path(shutil.copytree(template, HOME / "landing"))


@pytest.fixture
def warehouse(warehouse_file: Path) -> Iterator[Warehouse]:
    """The warehouse, put back as it was when the test is over."""
    yield Warehouse(warehouse_file)
    shutil.copy(SHARED / "warehouse.db", warehouse_file)


class Dags(dict[str, Any]):
    """The DAGs by name: each parsed, and known to the database, once somebody asks for it."""

    def __missing__(self, dag_id: str) -> Any:
        """Parse the file of this name."""
        from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db

        bag = BundleDagBag(
            dag_folder=environment.DAGS / f"{dag_id}.py",
            bundle_path=environment.DAGS,
            bundle_name=environment.BUNDLE,
        )
        assert not bag.import_errors, bag.import_errors
        sync_bag_to_db(bag, environment.BUNDLE, None)
        for dag in bag.dags.values():
            dag.deadline = None
            for task in dag.tasks:
                _retry_at_once(task)
        self.update(bag.dags)
        gc.freeze()
        return bag.dags[dag_id]

    def all(self) -> list[Any]:
        """Every DAG of the catalogue."""
        return [self[path.stem] for path in sorted(environment.DAGS.glob("97_*.py"))]


def _retry_at_once(task: Any) -> None:
    from airflow.sdk import ExceptionRetryPolicy

    rules = [replace(rule, retry_delay=None) for rule in task.retry_policy.rules]
    policy = ExceptionRetryPolicy(rules=rules)
    if task.is_mapped:
        task.partial_kwargs |= {"retry_delay": timedelta(0), "retry_policy": policy}
    else:
        task.retry_delay, task.retry_policy = timedelta(0), policy


@pytest.fixture(scope="session")
def dags(airflow_database: None) -> Dags:
    """All DAGs, for all tests of this worker."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    DagBundlesManager().sync_bundles_to_db()
    return Dags()


@pytest.fixture(scope="session")
def run_dag(
    dags: Dags, mlflow_store: str, warehouse_file: Path, landing_zone: Path
) -> Callable[..., FinishedRun]:
    """Run a DAG to its end: `run_dag(dag_id, conf=…, logical_date=…, expect="failed")`.

    Fails unless the run ended as expected, and in a good run also where any task did not end as
    success or skipped, except for those that `may_fail` names. Every call gets the DAG's next date
    unless it names one: the same dates, whichever tests ran before.
    """
    days: defaultdict[str, Iterator[int]] = defaultdict(count)

    def run(
        dag_id: str,
        conf: dict[str, Any] | None = None,
        logical_date: datetime | None = None,
        expect: str = "success",
        may_fail: Collection[str] = (),
    ) -> FinishedRun:
        when = logical_date or datetime(2026, 1, 4, tzinfo=UTC) + timedelta(days=next(days[dag_id]))
        finished = _run(dags[dag_id], conf, when)
        told = {task: str(error) for task, error in finished._errors.items()}
        assert finished.state == expect, f"{finished.state}: {finished.states}\n{told}"
        if expect == "success":
            wrong = {
                task: state
                for task, state in finished.states.items()
                if state not in SUCCESS and task.partition("[")[0] not in may_fail
            }
            assert not wrong, f"green run with tasks that are not: {wrong}\n{told}"
        return finished

    return run


@contextmanager
def hastened() -> Iterator[None]:
    """Without the second that dag.test() waits when no task is ready: nobody else works on it."""
    sleep = time.sleep

    def nap(seconds: float) -> None:
        asked_by = sys._getframe(1).f_globals["__name__"]
        sleep(0.01 if asked_by == "airflow.sdk.definitions.dag" else seconds)

    with patch.object(time, "sleep", nap):
        yield


def _run(dag: Any, conf: dict[str, Any] | None, when: datetime) -> FinishedRun:
    from airflow.sdk.definitions import dag as dag_module

    results: dict[str, BaseException] = {}
    run_task = dag_module._run_task

    def recording(*, ti: Any, task: Any, **rest: Any) -> Any:
        result = run_task(ti=ti, task=task, **rest)
        name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
        results.pop(name, None)
        if result is not None and result.error is not None:
            results[name] = result.error
        return result

    # A run in this process writes its conf into the DAG's own params: the next must not find it.
    params = {each: copy.deepcopy(each.params) for each in [dag, *dag.tasks]}
    try:
        with patch.object(dag_module, "_run_task", recording), hastened():
            dag_run = dag.test(logical_date=when, run_after=when, run_conf=conf)
    finally:
        for each, untouched in params.items():
            each.params = untouched
    return _taken_down(dag.dag_id, when, dag_run, results)


def _taken_down(
    dag_id: str, when: datetime, dag_run: Any, errors: dict[str, BaseException]
) -> FinishedRun:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.models.xcom import XComModel
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        instances = dag_run.get_task_instances(session=session)
        named = {
            i.task_id if i.map_index < 0 else f"{i.task_id}[{i.map_index}]": i for i in instances
        }
        xcoms = session.scalars(
            select(XComModel).where(XComModel.dag_id == dag_id, XComModel.run_id == dag_run.run_id)
        )
        emitted: dict[str, list[Any]] = {}
        for name, extra in session.execute(
            select(AssetModel.name, AssetEvent.extra)
            .join(AssetEvent, AssetEvent.asset_id == AssetModel.id)
            .where(AssetEvent.source_dag_id == dag_id, AssetEvent.source_run_id == dag_run.run_id)
            .order_by(AssetEvent.id)
        ):
            emitted.setdefault(name, []).append(extra)
        return FinishedRun(
            dag_id=dag_id,
            logical_date=when,
            state=str(dag_run.state),
            states={name: str(each.state) for name, each in named.items()},
            _tries={name: each.try_number for name, each in named.items()},
            _errors=errors,
            _xcoms={
                (each.task_id, each.map_index, each.key): BaseXCom.deserialize_value(each)
                for each in xcoms
            },
            _events=emitted,
        )
