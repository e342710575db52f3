"""What only a real scheduler, triggerer and API server can show; started once for all tests."""

import json
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from include import processes
from include.data import warehouse
from include.tools import environment, rest, services, up
from tests.conftest import SHARED
from tests.scheduler.api import Api
from tests.services import beyond_loopback

pytestmark = pytest.mark.slow

TRAINING = "97_02_01_local_training"
LONG = "97_02_05_long_running_training"
DISTRIBUTED = "97_02_02_distributed_training"
GATES = "97_04_02_validation_gates"
ROLLBACK = "97_05_04_model_rollback"
STRUCTURE = "97_01_01_ml_pipeline_structure"
DAGS = (STRUCTURE, TRAINING, DISTRIBUTED, LONG, GATES, ROLLBACK)
LISTENER = "listens_for_a_model"


class Cluster:
    """A whole Airflow on free loopback ports, with the pipelines that these tests run."""

    def __init__(self, home):
        """Start all of it, and wait until every DAG is listed."""
        self.home = home
        self.folder = home / "services"
        dags = home / "dags"
        dags.mkdir(parents=True)
        for dag_id in DAGS:
            shutil.copy(environment.DAGS / f"{dag_id}.py", dags)
        ports = {
            "AIRFLOW_PORT": str(processes.free_port()),
            "GATEWAY_PORT": str(processes.free_port()),
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
                ("catalogue", dags),
                ("stand-ins", environment.PROJECT / "tests" / "scheduler" / "dags"),
            )
        ]
        self.env = (
            environment.airflow(home / "airflow", store=home)
            | ports
            | {
                "AIRFLOW__API__BASE_URL": address,
                "AIRFLOW__API__PORT": ports["AIRFLOW_PORT"],
                "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
                "AIRFLOW__CORE__PARALLELISM": "16",  # only pools and DAGs make tasks wait
                "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
                "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",  # a test reads what the scheduler says
                # A dead triggerer's work is taken over after this many seconds.
                "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
                "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            }
        )
        self.api = Api(address, rest.password(self.env))
        warehouse.create(home / "warehouse.db")
        with ThreadPoolExecutor() as pool:
            begun = [
                pool.submit(services.start, service, home, self.folder, self.env)
                for service in services.SERVICES
            ]
            up.prepare(home, self.env)
            for each in begun:
                each.result()
        up.start_airflow(self.folder, self.env)
        up.wait_for_dags(self.env, set(DAGS))

    def process(self, name):
        """One of its processes."""
        return next(each for each in processes.running(self.folder) if each.name == name)

    def stop(self):
        """End all of it."""
        processes.stop(self.folder, processes.recorded(self.folder))
        shutil.rmtree(self.home)

    def slots(self, number):
        """Resize the pool that trainings share."""
        pool = {"pool": "gpu_pool", "slots": number, "include_deferred": False}
        self.api.call("PATCH", "/pools/gpu_pool", pool)


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


@pytest.fixture(autouse=True)
def whole(cluster):
    """All of Airflow runs: who waits for one that has ended waits in vain."""
    left = {process.name: process for process in processes.recorded(cluster.folder)}
    running = {process.name for process in processes.running(cluster.folder)}
    for name in up.COMPONENTS:
        assert name in running, f"{name} has ended. Its log:\n{left[name].last_words()}"


def january(day):
    return datetime(2026, 1, day, tzinfo=UTC)


@pytest.fixture(scope="module")
def begun(cluster):
    """Start at once all runs that do not disturb each other; each test waits for its own."""
    api = cluster.api
    cluster.slots(1)
    api.call("PATCH", f"/dags/{LISTENER}", {"is_paused": False})

    def start(dag_id, *days, **conf):
        return [api.trigger(dag_id, conf, january(day)) for day in days]

    return {
        DISTRIBUTED: start(DISTRIBUTED, 26, 27, epochs=1),
        STRUCTURE: start(STRUCTURE, 18),
        GATES: start(GATES, 22, 23, 28, grey_zone=1.0),
        TRAINING: start(TRAINING, 20, 21),
        ROLLBACK: start(ROLLBACK, 22, 23),
    }


def span(task):
    return datetime.fromisoformat(task["start_date"]), datetime.fromisoformat(task["end_date"])


def overlap(one, other):
    return span(one)[0] < span(other)[1] and span(other)[0] < span(one)[1]


def test_people_who_change_things_at_once_do_not_stop_airflow(cluster, begun):
    """Each answer comes before SQLite would give up waiting for another writer."""
    api = cluster.api
    (run_id, _) = begun[DISTRIBUTED]
    api.until(lambda: api.running() > 1, 300, "tasks that write, too", DISTRIBUTED, run_id)

    def pauses():
        for number in range(40):
            api.call("PATCH", f"/dags/{LONG}", {"is_paused": number % 2 == 0})

    def notes():
        for number in range(40):
            api.call("POST", "/variables", {"key": f"noted_{number}", "value": "at once"})
            api.call("DELETE", f"/variables/noted_{number}")

    with ThreadPoolExecutor() as people:
        for person in [people.submit(what) for what in (pauses, notes)]:
            person.result()
    assert not api.call("GET", f"/dags/{LONG}")["is_paused"]


@pytest.mark.shows("97.2.5", "Deferrable training tasks")
def test_a_deferred_training_survives_a_killed_triggerer(cluster, begun):
    api = cluster.api
    run_id = api.trigger(LONG, {"epochs": 400}, january(24))

    def train():
        return api.tasks(LONG, run_id)["training.train"]

    api.until(lambda: train()["state"] == "deferred", 300, "the training", LONG, run_id)
    killed = psutil.Process(cluster.process("triggerer").pid)
    family = [killed, *killed.children(recursive=True)]
    for each in family:
        each.kill()
    processes.wait(family, 10)
    assert train()["state"] == "deferred"

    up.start_airflow(cluster.folder, cluster.env, already=set(up.COMPONENTS) - {"triggerer"})
    api.finished(LONG, run_id)
    assert (train()["state"], train()["try_number"]) == ("success", 1)
    assert api.xcom(LONG, run_id, "review.progress")["epochs"] == 400


def test_a_released_model_starts_the_dag_that_listens_for_it(cluster, begun):
    api, (run_id,) = cluster.api, begun[STRUCTURE]
    api.finished(STRUCTURE, run_id)
    api.until(lambda: api.runs(LISTENER), 300, "the listener to start", STRUCTURE, run_id)
    (started, *_) = api.runs(LISTENER)
    api.finished(LISTENER, started["dag_run_id"])
    heard = api.xcom(LISTENER, started["dag_run_id"], "which_version")
    assert heard == api.xcom(STRUCTURE, run_id, "release.register")


def test_one_slot_makes_trainings_follow_one_another(cluster, begun):
    api, (run_id, _) = cluster.api, begun[TRAINING]

    def trained(*names):
        states = {name: task["state"] for name, task in api.tasks(TRAINING, run_id).items()}
        return all(states[f"train.{name}"] == "success" for name in names)

    api.until(
        lambda: trained("python_operator", "taskflow"), 300, "two trainings", TRAINING, run_id
    )
    tasks = api.tasks(TRAINING, run_id)
    assert not overlap(tasks["train.python_operator"], tasks["train.taskflow"])
    assert tasks["train.isolated"]["state"] == "scheduled"  # it asks for two slots
    cluster.slots(2)


@pytest.fixture
def asked(cluster, begun):
    """Wait until a run asks a person about its model; returns the run and where its question is.

    3.3.2 takes an answer for a crash when it comes before the scheduler has heard that the process
    which asked is over. No person is as fast; the tests wait until it has.
    """
    api, log = cluster.api, cluster.folder / "scheduler.log"

    def heard(run_id):
        told = [line for line in log.read_text().splitlines() if "Received executor event" in line]
        return any("success" in line and "release.ask" in line and run_id in line for line in told)

    def question(place):
        run_id = begun[GATES][place]
        api.until(lambda: heard(run_id), 300, "the question", GATES, run_id)
        assert api.tasks(GATES, run_id)["release.ask"]["state"] == "awaiting_input"
        return run_id, f"/dags/{GATES}/dagRuns/{run_id}/taskInstances/release.ask/-1/hitlDetails"

    return question


def released(tasks):
    return {name: tasks[f"release.{name}"]["state"] for name in ("promote", "reject")}


@pytest.mark.shows("97.4.2", "Approval workflows")
@pytest.mark.parametrize(("option", "taken"), [("Approve", "promote"), ("Reject", "reject")])
def test_an_answer_over_rest_lets_the_run_go_on(cluster, asked, option, taken):
    api = cluster.api
    run_id, question = asked(0 if option == "Approve" else 1)
    assert "| roc_auc |" in api.call("GET", question)["body"]
    api.call("PATCH", question, {"chosen_options": [option], "params_input": {}})
    left_out = {"promote", "reject"} - {taken}
    assert released(api.finished(GATES, run_id)) == {
        taken: "success",
        **dict.fromkeys(left_out, "skipped"),
    }


def test_two_slots_let_trainings_run_at_once(cluster, begun):
    api, (before, run_id) = cluster.api, begun[TRAINING]
    cluster.slots(2)
    assert api.finished(TRAINING, before)["train.isolated"]["state"] == "success"
    tasks = api.finished(TRAINING, run_id)
    singles = [tasks["train.python_operator"], tasks["train.taskflow"]]
    assert overlap(*singles)
    assert not any(overlap(tasks["train.isolated"], single) for single in singles)


@pytest.mark.shows("97.4.2", "Approval workflows")
def test_a_question_that_nobody_answers_in_time_is_a_no(cluster, asked):
    api = cluster.api
    run_id, question = asked(2)
    deadline = "UPDATE task_instance SET trigger_timeout = ? WHERE run_id = ? AND task_id = ?"
    yesterday = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=1)
    with closing(sqlite3.connect(cluster.home / "airflow" / "airflow.db", timeout=60)) as database:
        database.execute(deadline, (yesterday.isoformat(" "), run_id, "release.ask"))
        database.commit()
    assert released(api.finished(GATES, run_id)) == {"promote": "skipped", "reject": "success"}
    answer = api.call("GET", question)
    assert answer["chosen_options"] == ["Reject"]
    assert answer["responded_by_user"] is None


def test_two_rollbacks_asked_for_at_once_follow_one_another(cluster, begun):
    one, other = (cluster.api.finished(ROLLBACK, run_id).values() for run_id in begun[ROLLBACK])
    assert {task["state"] for task in [*one, *other]} == {"success"}
    assert max(span(task)[1] for task in one) < min(span(task)[0] for task in other)


@pytest.mark.shows("97.2.2", "Resource coordination")
def test_two_distributed_trainings_at_once_on_a_pool_that_fits_one_both_end(cluster, begun):
    api = cluster.api
    slots = api.call("GET", "/pools/training_cluster")["slots"]
    one, other = (api.finished(DISTRIBUTED, run_id) for run_id in begun[DISTRIBUTED])

    tasks = [*one.values(), *other.values()]
    assert {(task["state"], task["try_number"]) for task in tasks} == {("success", 1)}
    first = [min(span(task)[0] for task in run.values()) for run in (one, other)]
    last = [max(span(task)[1] for task in run.values()) for run in (one, other)]
    assert max(first) < min(last)  # they were under way at once

    launchers = [task for task in tasks if task["pool"] == "training_cluster"]
    assert max(task["pool_slots"] for task in launchers) == slots
    for launcher in launchers:
        began, _ = span(launcher)
        beside = [task for task in launchers if span(task)[0] <= began < span(task)[1]]
        assert sum(task["pool_slots"] for task in beside) <= slots


def test_nothing_listens_beyond_loopback(cluster):
    for process in processes.running(cluster.folder):
        assert beyond_loopback(process) == [], process.name


def test_nothing_is_left_when_airflow_is_stopped_after_a_crash(cluster):
    """A killed scheduler leaves workers and trainings without a parent; they are ended too."""
    api = cluster.api
    run_id = api.trigger(TRAINING, when=january(25))
    api.until(
        lambda: api.tasks(TRAINING, run_id)["train.taskflow"]["state"] == "running",
        300,
        "a training to run",
        TRAINING,
        run_id,
    )
    scheduler = cluster.process("scheduler")
    workers = psutil.Process(scheduler.pid).children(recursive=True)
    psutil.Process(scheduler.pid).kill()
    processes.wait([psutil.Process(scheduler.pid)], 10)
    assert any(map(processes.is_running, workers))
    assert "scheduler" not in [each.name for each in processes.running(cluster.folder)]

    # The workers do not end when they are asked to: they left that to the scheduler.
    processes.stop(cluster.folder, processes.recorded(cluster.folder), grace=5)
    assert processes.recorded(cluster.folder) == []
    assert [worker for worker in workers if processes.is_running(worker)] == []
