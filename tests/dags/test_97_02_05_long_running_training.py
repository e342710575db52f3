"""97.2.5 Long-Running Training: stopped, killed or left alone, it comes to the same weights."""

import json
import math
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from airflow.sdk.definitions import dag as dag_module
from airflow.sdk.exceptions import ParamValidationError, TaskDeferralTimeout
from sklearn.metrics import roc_auc_score

from include import storage, triggers
from include.training import checkpointed, neural
from include.training.job import Job
from tests.conftest import HOME

DAG = "97_02_05_long_running_training"
EPOCHS = 30
SHORT = {"epochs": EPOCHS, "checkpoint_every": 3}
SIXTY_PERCENT = 18
# The same training, on a machine that takes a tenth of a second for an epoch.
SLOWLY = """
import sys, time
from pathlib import Path
from include.training import checkpointed, neural

epoch = neural.Training.epoch
neural.Training.epoch = lambda self: (time.sleep(0.1), epoch(self))[1]
checkpointed.main(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def often():
    """The trigger looks often: these jobs are over within seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triggers, "POLL_SECONDS", 0.05)
        yield


@pytest.fixture(scope="module")
def deferred(often):
    """Every trigger that a task was handed over to, as Airflow stores it."""
    handed_over = []
    wait = dag_module._run_inline_trigger

    def recording(trigger, task):
        handed_over.append((task.task_id, *trigger.serialize()))
        return wait(trigger, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dag_module, "_run_inline_trigger", recording)
        yield handed_over


@pytest.fixture(scope="module")
def run(run_dag, deferred):
    return run_dag(DAG, conf=SHORT)


@pytest.fixture(autouse=True)
def nothing_left():
    """Whatever a test does, no job of its own outlives it."""
    yield
    latest = time.monotonic() + 5
    while (left := jobs()) and time.monotonic() < latest:
        time.sleep(0.05)
    for process in left:
        process.kill()
    assert not left


def jobs():
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            line = " ".join(process.cmdline())
            if checkpointed.__name__ in line and str(HOME) in line:
                found.append(process)
    return found


def job_of(when):
    key = when.strftime("%Y%m%dT%H%M%S")
    return Job(HOME / "artifacts" / DAG / key / "training.train" / "job")


def weights_digest(run):
    return run.digest("training.train", "weights")


def pid(job):
    with suppress(FileNotFoundError):
        return json.loads((job.folder / "process.json").read_text())["pid"]
    return None


@pytest.fixture
def time_is_over(monkeypatch):
    """Let the time of each try be over once its job, a slow one, has trained so many epochs."""

    def after(job, *epochs):
        began = {}

        def now():
            first = began.setdefault(pid(job), job.reached())
            gained = job.reached() - first
            return math.inf if gained >= epochs[len(began) - 1] else time.time()

        monkeypatch.setattr(triggers, "now", now)
        slowly = [sys.executable, "-c", SLOWLY, str(job.folder)]
        monkeypatch.setattr(checkpointed, "command", lambda job: slowly)

    return after


@pytest.mark.shows("97.2.5", "Deferrable training tasks")
def test_the_task_waits_without_a_worker_for_a_job_that_trains(run, deferred, registry):
    task_id, trigger, values = deferred[0]
    assert (task_id, trigger) == ("training.train", "include.triggers.JobTrigger")
    assert values["folder"] == str(job_of(run.logical_date).folder)
    holdout = run.frame("data.prepare", "holdout")
    weights = neural.loads(storage.read_bytes(run.reference("training.train", "weights")))
    scored = neural.scores(weights, holdout.drop(columns="churned").to_numpy())
    assert roc_auc_score(holdout.churned, scored) > 0.5 + 0.15
    assert run.xcom("training.train")["began"] == {"1": 0}
    assert Path(run.xcom("training.train", "job")) == job_of(run.logical_date).folder
    kept = registry.client.get_run(run.xcom("outcome.keep_model")["run"])
    assert kept.data.metrics["auc"] == pytest.approx(
        roc_auc_score(holdout.churned, scored), abs=1e-4
    )


@pytest.mark.shows("97.2.5", "Deferrable training tasks")
def test_a_job_that_was_killed_is_taken_up_and_only_the_rest_is_trained(run, run_dag):
    when = datetime(2026, 7, 1, tzinfo=UTC)
    job = job_of(when)
    killed = threading.Event()

    def kill():
        while job.reached() < SIXTY_PERCENT:
            time.sleep(0.005)
        os.killpg(pid(job), signal.SIGKILL)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    second = run_dag(DAG, conf=SHORT, logical_date=when)
    assert killed.is_set()
    assert second.tries("training.train") == 2
    began = second.xcom("training.train")["began"]
    assert began["1"] == 0
    assert SIXTY_PERCENT <= began["2"] < EPOCHS
    assert weights_digest(second) == weights_digest(run)
    assert second.digest("training.train", "losses") == run.digest("training.train", "losses")


@pytest.mark.shows("97.2.5", "Checkpoint monitoring")
def test_each_checkpoint_that_is_kept_can_be_gone_on_from(run):
    table = run.xcom("review.checkpoints")
    assert [row["epoch"] for row in table] == [24, 27, 30]
    losses = storage.read_json(run.reference("training.train", "losses"))
    for row, checkpoint in zip(table, job_of(run.logical_date).checkpoints(), strict=True):
        assert row["loss"] == pytest.approx(losses[row["epoch"] - 1], abs=1e-6)
        assert checkpointed.loads(checkpoint)["losses"] == losses[: row["epoch"]]


@pytest.mark.shows("97.2.5", "Progress tracking")
def test_the_loss_of_every_epoch_is_in_mlflow_and_falls(run, registry):
    run_id = run.xcom("outcome.keep_model")["run"]
    history = registry.client.get_metric_history(run_id, "loss")
    losses = storage.read_json(run.reference("training.train", "losses"))
    assert [(point.step, point.value) for point in history] == list(enumerate(losses, start=1))
    assert losses[-1] < losses[0] - 0.05
    assert run.xcom("review.progress") == {"epochs": EPOCHS, "first": losses[0], "last": losses[-1]}
    files = {each.path for each in registry.client.list_artifacts(run_id)}
    assert files == {"loss.png", "weights.npz"}


@pytest.mark.shows("97.2.5", "Timeout handling")
def test_a_timeout_keeps_the_last_checkpoint_and_the_same_date_again_goes_on_from_it(
    run, run_dag, time_is_over, monkeypatch
):
    when = datetime(2026, 7, 2, tzinfo=UTC)
    job = job_of(when)
    time_is_over(job, 6, 0)
    failed = run_dag(DAG, conf=SHORT, logical_date=when, expect="failed")
    assert failed.tries("training.train") == 2, "a try that gained nothing is the last"
    assert f"not enough to get from epoch {job.reached()}" in failed.error("training.train")
    assert "raise seconds_per_try" in failed.error("training.train")
    assert (job.alive(), job.progress().state) == (False, "stopped")
    kept = failed.xcom("outcome.keep_checkpoint")
    assert 6 <= kept["epoch"] == job.reached() < kept["of"] == EPOCHS
    assert storage.read_bytes(kept["checkpoint"]) == job.checkpoints()[-1].read()
    assert failed.states["outcome.keep_model"] == "upstream_failed"

    monkeypatch.undo()
    again = run_dag(DAG, conf=SHORT, logical_date=when)
    assert again.xcom("training.train")["began"] == {"1": kept["epoch"]}
    assert weights_digest(again) == weights_digest(run)
    assert again.states["outcome.keep_checkpoint"] == "skipped"


@pytest.mark.shows("97.2.5", "Timeout handling")
def test_where_no_triggerer_woke_the_task_the_job_ends_too(run, dags, monkeypatch):
    stopped = []
    monkeypatch.setattr(Job, "stop", lambda self: stopped.append(self.folder))
    task = dags[DAG].get_task("training.train")
    monkeypatch.setattr(task, "rows", run.reference("data.prepare", "train"))
    with pytest.raises(TaskDeferralTimeout):
        task.resume_execution("__fail__", {"error": "Trigger timeout"}, {})
    assert stopped == [job_of(run.logical_date).folder]


def test_the_job_ends_with_a_task_that_is_killed_on_its_worker(run, dags, monkeypatch):
    stopped = []
    monkeypatch.setattr(Job, "stop", lambda self: stopped.append(self.folder))
    task = dags[DAG].get_task("training.train")
    monkeypatch.setattr(task, "job", None)
    task.on_kill()
    assert stopped == [], "there is no job before the task has looked for it"
    monkeypatch.setattr(task, "rows", run.reference("data.prepare", "train"))
    monkeypatch.setattr(task, "job", task.find())
    task.on_kill()
    assert stopped == [job_of(run.logical_date).folder]


def test_the_same_date_again_finds_the_finished_job_and_trains_nothing(
    run, run_dag, dags, monkeypatch
):
    monkeypatch.setattr(dags[DAG].get_task("training.train"), "defer", None)  # no need to wait
    before = pid(job_of(run.logical_date))
    again = run_dag(DAG, conf=SHORT, logical_date=run.logical_date)
    assert pid(job_of(run.logical_date)) == before
    assert weights_digest(again) == weights_digest(run)
    assert again.xcom("outcome.keep_model") == run.xcom("outcome.keep_model")


def test_a_customer_without_a_fee_fails_at_once_and_the_feature_is_named(run_dag, often, warehouse):
    warehouse.execute("UPDATE customers SET monthly_fee = NULL WHERE customer_id <= 40")
    failed = run_dag(DAG, conf=SHORT, expect="failed")
    assert "scaled__monthly_fee in" in failed.error("training.train")
    assert "Mend the source" in failed.error("training.train")
    assert failed.tries("training.train") == 1
    assert failed.states["review.progress"] == "upstream_failed"
    assert failed.states["outcome.keep_checkpoint"] == "skipped", "there is none"


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 0), ("checkpoint_every", "all"), ("seconds_per_try", 0)]
)
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, name, value):
    with pytest.raises(ParamValidationError, match=str(value)):
        run_dag(DAG, conf={name: value})


def test_xcom_carries_references_and_less_than_a_kilobyte(run):
    for (task_id, _, _), value in run.xcoms().items():
        assert len(json.dumps(value)) < 1024, task_id
