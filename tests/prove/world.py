"""A whole Airflow that knows nothing but copies, each pipeline in an empty project of its own."""

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from include import processes, runs
from include.data import landing, warehouse
from include.local_cloud import platforms
from include.tools import copy, environment, needs, rest, services, up
from tests import alone
from tests.prove.cases import Case
from tests.scheduler.api import FINAL, Api

CALM, ROUGH = (datetime(2026, 3, day, tzinfo=UTC) for day in (7, 14))
"""The two dates: at the second one a task is killed."""
INSTRUMENTS = Path(__file__).parent / "instruments"
# What lets LocalExecutor start tasks fast and SQLite bear several writers; a deployment's own.
PLUGINS = ("one_writer.py", "warm_workers.py")
MISTAKEN = (
    r"<TaskInstance: {}\.(\S+) [^>]*> finished with state success, but the task instance's state"
)
AT_ONCE = 6  # pipelines; a waiting run costs little, but its servers take memory


@dataclass(frozen=True)
class Pipeline:
    """A pipeline as the world knows it."""

    dag_id: str
    case: Case
    write: Callable[[Path], None]
    """Puts it into an empty project."""
    connections: frozenset[str] = frozenset()


def copied(source: str, case: Case) -> Pipeline:
    """A pipeline of the catalogue, as `make copy` gives it away."""
    dag_id = f"copy_of_{source[:8]}"

    def write(project: Path) -> None:
        copy.write(copy.plan(source, project, dag_id), project)

    wanted = needs.needs(environment.DAGS / f"{source}.py").connections
    return Pipeline(dag_id, case, write, wanted)


@dataclass(frozen=True)
class Ended:
    """A run that has ended, as the metadata database knows it."""

    key: str
    states: dict[str, str]
    tries: dict[str, int]
    xcoms: dict[str, str]


class World:
    """The running Airflow, and what it did with the pipelines."""

    def __init__(self, home: Path, pipelines: list[Pipeline], env: dict[str, str]) -> None:
        """Know where everything is; `opened` starts it."""
        self.home = home
        self.pipelines = {each.dag_id: each for each in pipelines}
        self.env = env
        self.api = Api(env["AIRFLOW__API__BASE_URL"], rest.password(env))
        self.asked = home / "asked-hosts.txt"
        self._waiting = list(pipelines)
        self._started: dict[str, dict[datetime, str]] = {}
        self._ended: dict[str, dict[datetime, Ended]] = {}

    def ended(self, dag_id: str) -> dict[datetime, Ended]:
        """Both runs of a pipeline, once they have ended; the next ones start meanwhile."""
        if dag_id not in self._ended:
            while dag_id not in self._started or (len(self._open()) < AT_ONCE and self._waiting):
                self._start(self._waiting.pop(0).dag_id)
            for run_id in self._started[dag_id].values():
                self.api.finished(dag_id, run_id)
            self._ended[dag_id] = {
                when: self._taken_down(dag_id, when, run_id)
                for when, run_id in self._started[dag_id].items()
            }
        return self._ended[dag_id]

    def files(self, dag_id: str, when: datetime) -> list[str]:
        """What a run wrote, up to its release: only one of two models can be the better one."""
        folder = self.home / "artifacts" / dag_id / runs.key(when, "")
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if not path.parts[0].startswith("release."))

    def versions(self, dag_id: str, when: datetime) -> list[str]:
        """The digests of the models that a run registered."""
        found = self._registry.search_model_versions(f"name = '{dag_id}'")
        key = runs.key(when, "")
        return sorted(
            each.tags.get("sha256", "") for each in found if each.tags["airflow.run_key"] == key
        )

    def was_killed(self, dag_id: str) -> bool:
        """Whether the task that is to be killed came so far, and was."""
        return (self.home / "killed" / dag_id).exists()

    def mistaken(self, dag_id: str) -> set[str]:
        """Deferred tasks that Airflow took for crashed, and tried again.

        3.3.2 does so where a trigger wakes a task before the scheduler has heard that the process
        which deferred it is over. A busy machine is slow to hear.
        """
        log = (self.home / "services" / "scheduler.log").read_text(encoding="utf-8")
        return set(re.findall(MISTAKEN.format(re.escape(dag_id)), log))

    def last_words(self, dag_id: str) -> str:
        """The end of the log of each try that did not end well."""
        folder = self.home / "airflow" / "logs"
        told = []
        for log in sorted(folder.glob(f"dag_id={dag_id}/**/attempt=*.log")):
            lines = [json.loads(line) for line in log.read_text().splitlines() if line]
            errors = [line for line in lines if line.get("level") in ("error", "critical")]
            told += [
                f"{log.relative_to(folder)}: {json.dumps(line)[:2500]}" for line in errors[-2:]
            ]
        return "\n".join(told)

    def _start(self, dag_id: str) -> None:
        conf = self.pipelines[dag_id].case.conf
        self._started[dag_id] = {
            when: self.api.trigger(dag_id, conf, when) for when in (CALM, ROUGH)
        }

    def _open(self) -> list[str]:
        return [
            dag_id
            for dag_id, started in self._started.items()
            if dag_id not in self._ended
            and any(self.api.state(dag_id, run_id) not in FINAL for run_id in started.values())
        ]

    def _taken_down(self, dag_id: str, when: datetime, run_id: str) -> Ended:
        of_this = "WHERE dag_id = ? AND run_id = ?", (dag_id, run_id)
        database = f"file:{self.home / 'airflow' / 'airflow.db'}?mode=ro"
        with closing(sqlite3.connect(database, uri=True, timeout=60)) as opened:

            def rows(columns: str, table: str) -> Iterator[tuple[Any, ...]]:
                where, values = of_this
                found = opened.execute(f"SELECT {columns} FROM {table} {where}", values)  # noqa: S608
                for task_id, map_index, *rest in found.fetchall():
                    yield task_id if map_index < 0 else f"{task_id}[{map_index}]", *rest

            tasks = list(rows("task_id, map_index, state, try_number", "task_instance"))
            xcoms = list(rows("task_id, map_index, key, value", "xcom"))
        return Ended(
            key=runs.key(when, ""),
            states={name: state for name, state, _ in tasks},
            tries={name: tried for name, _, tried in tasks},
            xcoms={f"{name} {key}": str(value) for name, key, value in xcoms},
        )

    @cached_property
    def _registry(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(f"http://{environment.HOST}:{self.env['MLFLOW_PORT']}")


@contextmanager
def opened(home: Path, pipelines: list[Pipeline]) -> Iterator[World]:
    """Start all that these pipelines need, and end it."""
    ports = {name: str(processes.free_port()) for name in ("AIRFLOW_PORT", "MLFLOW_PORT")}
    records = home / "services"
    wanted = frozenset().union(*(each.connections for each in pipelines))
    with ExitStack() as at_the_end:
        at_the_end.callback(lambda: processes.stop(records, processes.recorded(records)))
        env = _settings(home, pipelines, ports)
        _servers(home, records, env, wanted)
        env |= _connections(home, env, records)
        pools = str(environment.PROJECT / "config" / "pools.json")
        up.airflow(env, ["db", "migrate"], ["pools", "import", pools])
        up.start_airflow(records, env, already={"triggerer"})
        everything = os.pathsep.join([env["PYTHONPATH"], str(home / "all")])
        others = set(up.COMPONENTS) - {"triggerer"}
        up.start_airflow(records, env | {"PYTHONPATH": everything}, already=others)
        up.wait_for_dags(env, {each.dag_id for each in pipelines})
        yield World(home, pipelines, env)


def _settings(home: Path, pipelines: list[Pipeline], ports: Mapping[str, str]) -> dict[str, str]:
    """Write the projects, and say what Airflow must know of them."""
    (home / "plugins").mkdir(parents=True)
    (home / "killed").mkdir()
    for name in PLUGINS:
        shutil.copy(environment.PROJECT / "plugins" / name, home / "plugins")
    bundles = []
    for each in pipelines:
        project = home / "projects" / each.dag_id
        # A triggerer serves all of them, and its modules have to be in one place.
        for folder in (project, home / "all"):
            folder.mkdir(parents=True, exist_ok=True)
            each.write(folder)
        (project / ".airflowignore").write_text("include/\n")
        bundles.append({
            "name": each.dag_id,
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(project)},
        })
    plan = {
        each.dag_id: {
            "kill": each.case.kill,
            "rough": ROUGH.isoformat(),
            "in_turn": each.case.in_turn,
        }
        for each in pipelines
    }
    address = f"http://{environment.HOST}:{ports['AIRFLOW_PORT']}"
    warehouse.create(home / "warehouse.db")
    landing.create(home / "landing")
    settings = (
        environment.airflow(home / "airflow", store=home)
        | ports
        | {
            "AIRFLOW__API__BASE_URL": address,
            "AIRFLOW__API__PORT": ports["AIRFLOW_PORT"],
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "projects"),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
            "ASKED_HOSTS": str(home / "asked-hosts.txt"),
            "GUARD": str(alone.GUARD),
            "PROOF_KILLED": str(home / "killed"),
            "PROOF_PLAN": json.dumps(plan),
            "PYTHONPATH": os.pathsep.join([str(alone.GUARD), str(INSTRUMENTS)]),
        }
    )
    return settings


def _servers(home: Path, records: Path, env: dict[str, str], connections: frozenset[str]) -> None:
    """MLflow's server, and the platforms of the local cloud that are asked for."""
    catalogue = env | {"PYTHONPATH": os.pathsep.join([env["PYTHONPATH"], str(environment.PROJECT)])}
    (mlflow,) = (each for each in services.SERVICES if each.name == "mlflow")
    services.start(mlflow, home, records, catalogue)
    for entry in platforms.PLATFORMS:
        if entry.connections & connections:
            platforms.start(entry, home, records, catalogue)


def _connections(home: Path, env: dict[str, str], records: Path) -> dict[str, str]:
    """Where the servers are. No gateway: each run that wants one opens its own."""
    running = [process.name for process in processes.running(records)]
    redirect = platforms.redirects(home, running)
    ours = environment.connections(env | {"GATEWAY_PORT": "1", "CATALOGUE_HOME": str(home)})
    ours.pop("model_gateway")
    return environment.as_variables(ours | redirect.connections) | redirect.env
