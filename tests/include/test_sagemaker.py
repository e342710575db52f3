"""A task that comes back finds its own job, in whatever state that is by now."""

import pytest
from airflow.sdk.exceptions import TaskDeferred

from include.clouds.sagemaker import account, operators
from tests.local_cloud import test_sagemaker as conformance

BUSY = {"status": "failed", "job_name": "mine", "message": "CapacityError: none left"}
OWN = BUSY | {"message": "AlgorithmError: no such column"}


@pytest.fixture
def clients(sagemaker, monkeypatch):
    sagemaker.lead(monkeypatch)
    monkeypatch.setattr(account, "LOOK_EVERY", 0.05)
    made = conformance.Clients(sagemaker.redirect)
    made.fill()
    yield made
    account.take_away(made.api, made.s3, "mine", conformance.BUCKET)
    conformance.until(sagemaker.left, lambda left: left == {})


def task(name="mine"):
    config = conformance.training() | {"TrainingJobName": name}
    return operators.Training(
        task_id="train", config=config, aws_conn_id="aws_default", deferrable=True, check_interval=1
    )


def waits_for(operator, method, *arguments):
    with pytest.raises(TaskDeferred) as deferred:
        getattr(operator, method)({}, *arguments)
    return deferred.value.trigger.job_name


def test_a_running_job_is_waited_for_and_no_second_one_is_begun(clients):
    clients.train("mine", seconds=60)
    assert waits_for(task(), "execute") == "mine"
    assert waits_for(task(), "execute_complete", {"status": "timeout"}) == "mine"
    (only,) = clients.api.list_training_jobs(NameContains="mine")["TrainingJobSummaries"]
    assert only["TrainingJobStatus"] == "InProgress"


def test_a_finished_job_is_taken_as_it_is_until_its_model_is_gone(clients):
    clients.train("mine")
    clients.ended("training_job", "mine")
    found = task().execute({})["Training"]
    assert found["TrainingJobName"] == "mine"
    clients.s3.delete_object(Bucket=conformance.BUCKET, Key="out/mine/output/model.tar.gz")
    assert task().find("mine") == ("mine-2", None)


def test_a_job_that_failed_is_followed_by_one_with_the_next_number(clients):
    clients.train("mine", fails="no such column")
    clients.ended("training_job", "mine")
    assert task().find("mine") == ("mine-2", None)


@pytest.mark.parametrize(
    ("event", "error"), [(BUSY, operators.JobLost), (OWN, operators.JobFailed)], ids=["lost", "own"]
)
def test_only_what_was_not_the_jobs_own_fault_is_worth_another(event, error):
    with pytest.raises(error, match=f"mine: {event['message']}"):
        task().execute_complete({}, event)


def test_what_still_runs_is_stopped_and_taken_away(clients):
    clients.train("mine", seconds=60)
    gone = account.take_away(clients.api, clients.s3, "mine", conformance.BUCKET)
    assert gone == {"jobs": 1, "objects": 3}
    assert account.described(clients.api, "TrainingJob", "mine") is None
