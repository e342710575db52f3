"""What only a real scheduler, triggerer and API server can show; started once for all tests."""

import json
import shutil
from datetime import datetime

import psutil
import pytest

from include.data import warehouse
from include.tools import environment, processes, services, up
from tests.conftest import SHARED
from tests.scheduler.api import Api

pytestmark = pytest.mark.slow

TRAINING = "97_02_01_local_training"
GATES = "97_04_02_validation_gates"
STRUCTURE = "97_01_01_ml_pipeline_structure"
DAGS = sorted(path.stem for path in environment.DAGS.glob("97_*.py"))


class Cluster:
    """A whole Airflow on free loopback ports."""

    def __init__(self, home):
        """Start all of it, and wait until every DAG is listed."""
        self.home = home
        self.folder = home / "services"
        ports = {
            "AIRFLOW_PORT": str(processes.free_port()),
            "MLFLOW_PORT": str(processes.free_port()),
        }
        address = f"http://{environment.HOST}:{ports['AIRFLOW_PORT']}"
        bundles = [
            {
                "name": name,
                "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                "kwargs": {"path": str(path)},
            }
            for name, path in (
                ("catalogue", environment.DAGS),
                ("stand-ins", environment.PROJECT / "tests" / "scheduler" / "dags"),
            )
        ]
        self.env = (
            environment.airflow(home / "airflow", store=home)
            | ports
            | {
                "AIRFLOW__API__BASE_URL": address,
                "AIRFLOW__API__PORT": ports["AIRFLOW_PORT"],
                "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
                "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
                # A dead triggerer's work is taken over after this many seconds.
                "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
                "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            }
        )
        self.api = Api(address)
        warehouse.create(home / "warehouse.db")
        up.prepare(home, self.env)
        for service in services.SERVICES:
            services.start(service, home, self.folder, self.env)
        up.start_airflow(self.folder, self.env)
        up.wait_for_dags(self.env)

    def process(self, name):
        """One of its processes."""
        return next(each for each in processes.running(self.folder) if each.name == name)

    def stop(self):
        """End all of it."""
        processes.stop(self.folder, processes.running(self.folder))
        shutil.rmtree(self.home)

    def slots(self, number):
        """Resize the pool that trainings share."""
        self.api.call(
            "PATCH", "/pools/gpu_pool?update_mask=slots", {"name": "gpu_pool", "slots": number}
        )


@pytest.fixture(scope="module")
def cluster(training_python):
    # The environment of the test processes must not reach Airflow's: it names other databases.
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "AIRFLOW_CONN_MLFLOW_DEFAULT",
            "AIRFLOW_CONN_WAREHOUSE",
            "MLFLOW_TRACKING_URI",
        ):
            patch.delenv(name, raising=False)
        started = Cluster(SHARED / "scheduler")
        yield started
        started.stop()


@pytest.fixture(scope="module")
def first_runs(cluster):
    """One run of every DAG, all at once."""
    return {dag_id: cluster.api.trigger(dag_id) for dag_id in DAGS}


def span(task):
    return datetime.fromisoformat(task["start_date"]), datetime.fromisoformat(task["end_date"])


def overlap(one, other):
    return span(one)[0] < span(other)[1] and span(other)[0] < span(one)[1]


@pytest.mark.parametrize("dag_id", DAGS)
def test_every_dag_is_green_in_the_scheduler(cluster, first_runs, dag_id):
    tasks = cluster.api.finished(dag_id, first_runs[dag_id])
    assert {task["state"] for task in tasks.values()} <= {"success", "skipped"}


def test_a_released_model_starts_the_dag_that_listens_for_it(cluster, first_runs):
    listener = "listens_for_a_model"
    cluster.api.call("PATCH", f"/dags/{listener}", {"is_paused": False})
    run_id = cluster.api.trigger(STRUCTURE, day=18)
    cluster.api.finished(STRUCTURE, run_id)
    cluster.api.until(
        lambda: cluster.api.runs(listener), 600, "the listener to start", STRUCTURE, run_id
    )
    (started, *_) = cluster.api.runs(listener)
    cluster.api.finished(listener, started["dag_run_id"])
    heard = cluster.api.xcom(listener, started["dag_run_id"], "which_version")
    assert heard == cluster.api.xcom(STRUCTURE, run_id, "release.register")


def test_one_slot_makes_trainings_follow_one_another_and_two_let_them_run_at_once(
    cluster, first_runs
):
    api = cluster.api
    api.finished(TRAINING, first_runs[TRAINING])

    cluster.slots(1)
    run_id = api.trigger(TRAINING, day=20)

    def trained(*names):
        states = {name: task["state"] for name, task in api.tasks(TRAINING, run_id).items()}
        return all(states[f"train.{name}"] == "success" for name in names)

    api.until(
        lambda: trained("python_operator", "taskflow"), 600, "two trainings", TRAINING, run_id
    )
    tasks = api.tasks(TRAINING, run_id)
    assert not overlap(tasks["train.python_operator"], tasks["train.taskflow"])
    assert tasks["train.isolated"]["state"] == "scheduled"  # it asks for a slot that there isn't

    cluster.slots(2)
    api.finished(TRAINING, run_id)
    assert api.tasks(TRAINING, run_id)["train.isolated"]["state"] == "success"

    run_id = api.trigger(TRAINING, day=21)
    tasks = api.finished(TRAINING, run_id)
    singles = [tasks["train.python_operator"], tasks["train.taskflow"]]
    assert overlap(*singles)
    assert not any(overlap(tasks["train.isolated"], single) for single in singles)


@pytest.mark.shows("97.4.2", "Approval workflows")
@pytest.mark.parametrize(("option", "taken"), [("Approve", "promote"), ("Reject", "reject")])
def test_an_answer_over_rest_lets_the_run_go_on(cluster, first_runs, option, taken):
    api = cluster.api
    api.finished(GATES, first_runs[GATES])
    run_id = api.trigger(GATES, {"grey_zone": 1.0}, day=22 if option == "Approve" else 23)
    api.until(
        lambda: api.tasks(GATES, run_id)["release.ask"]["state"] == "awaiting_input",
        600,
        "the question",
        GATES,
        run_id,
    )
    question = f"/dags/{GATES}/dagRuns/{run_id}/taskInstances/release.ask/-1/hitlDetails"
    asked = api.call("GET", question)
    assert "| roc_auc |" in asked["body"]
    api.call("PATCH", question, {"chosen_options": [option], "params_input": {}})
    tasks = api.finished(GATES, run_id)
    assert tasks[f"release.{taken}"]["state"] == "success"
    assert {tasks[f"release.{name}"]["state"] for name in ("promote", "reject")} == {
        "success",
        "skipped",
    }


def test_a_deferred_task_survives_a_killed_triggerer(cluster):
    api = cluster.api
    waiting = "waits_without_a_worker"
    run_id = api.trigger(waiting)
    api.until(
        lambda: api.tasks(waiting, run_id)["wait"]["state"] == "deferred",
        600,
        "the task to defer",
        waiting,
        run_id,
    )
    killed = psutil.Process(cluster.process("triggerer").pid)
    family = [killed, *killed.children(recursive=True)]
    for each in family:
        each.kill()
    psutil.wait_procs(family, timeout=10)
    assert api.tasks(waiting, run_id)["wait"]["state"] == "deferred"

    up.start_airflow(cluster.folder, cluster.env, already=set(up.COMPONENTS) - {"triggerer"})
    tasks = api.finished(waiting, run_id)
    assert tasks["wait"]["state"] == "success"
    assert tasks["wait"]["try_number"] == 1


def test_nothing_listens_beyond_loopback(cluster):
    for process in processes.running(cluster.folder):
        member = psutil.Process(process.pid)
        for each in [member, *member.children(recursive=True)]:
            for connection in each.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    assert connection.laddr.ip == environment.HOST, (process.name, connection)
