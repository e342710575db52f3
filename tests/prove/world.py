"""A whole Airflow that knows nothing but copies, each pipeline in an empty project of its own."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from include import processes, runs
from include.data import landing, warehouse
from include.local_cloud import platforms
from include.tools import copy, environment, needs, rest, services, tracking_server, up
from tests import alone, outcomes
from tests.outcomes import Ended
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
                when: outcomes.ended(self.home, dag_id, run_id, when)
                for when, run_id in self._started[dag_id].items()
            }
        return self._ended[dag_id]

    def files(self, dag_id: str, when: datetime) -> list[str]:
        """What a run wrote, but for what only one of two runs has to write."""
        once = self.pipelines[dag_id].case.once
        return outcomes.files(self.home, dag_id, runs.key(when, ""), once)

    def versions(self, dag_id: str, when: datetime) -> list[str]:
        """The digests of the models that a run registered."""
        return outcomes.versions(self._registry, dag_id, runs.key(when, ""))

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
        return outcomes.last_words(self.home, dag_id)

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

    @cached_property
    def _registry(self) -> Any:
        from mlflow import MlflowClient

        login = f"{tracking_server.USER}:{self.env[tracking_server.PASSWORD]}"
        return MlflowClient(f"http://{login}@{environment.HOST}:{self.env['MLFLOW_PORT']}")


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
