"""Azure ML from Airflow's side: what is retried, what a trigger tells, and what stays secret."""

import asyncio
import json
import os
import pkgutil
import subprocess
from dataclasses import astuple
from types import SimpleNamespace

import pytest
from airflow.sdk import Connection, RetryAction
from airflow.sdk.exceptions import AirflowException

from include import processes
from include.clouds import azure_ml, azure_tasks

EXTRA = {"tenantId": "t", "subscriptionId": "s", "resourceGroup": "g", "workspace": "w"}
CONNECTION = {"conn_type": "azure", "login": "id", "password": "hidden", "extra": EXTRA}
RAISING = """
from include.clouds import azure_ml
from azure.core.exceptions import HttpResponseError, ServiceRequestError

def http(status):
    error = HttpResponseError("Azure says no")
    error.status_code = status
    return error

with azure_ml.workspace():
    raise {raised}
"""


@pytest.fixture
def connection(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_ML_DEFAULT", json.dumps(CONNECTION))


def in_sdk(code, env):
    return subprocess.run(
        [os.environ["AIRFLOW_VAR_AZURE_ML_PYTHON"], "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        ("http(429)", os.EX_TEMPFAIL),
        ("ServiceRequestError('no route')", os.EX_TEMPFAIL),
        ("http(403)", 1),
    ],
)
def test_what_may_mend_itself_ends_the_process_with_a_status_of_its_own(raised, status):
    account = azure_ml.Account("t", "id", "hidden", "s", "g", "w")
    done = in_sdk(RAISING.format(raised=raised), account.as_env())
    assert done.returncode == status, done.stderr
    assert "hidden" not in done.stderr


def test_that_status_is_retried_and_what_was_raised_is_not():
    policy = azure_tasks.settings(azure_conn_id="azure_ml_default")["retry_policy"]
    tell = {
        "raised": AirflowException("Process returned non-zero exit status 1."),
        "busy": subprocess.CalledProcessError(os.EX_TEMPFAIL, "python"),
        "refused": ValueError("the job is Failed"),
    }
    decided = {name: policy.evaluate(error, 1, 3).action for name, error in tell.items()}
    assert decided == {
        "raised": RetryAction.FAIL,
        "busy": RetryAction.RETRY,
        "refused": RetryAction.FAIL,
    }


def test_a_cloud_whose_description_does_not_come_is_asked_again():
    away = {
        "ARM_CLOUD_METADATA_URL": f"http://127.0.0.1:{processes.free_port()}/metadata",
        "AZUREML_CURRENT_CLOUD": "LocalCloud",
    }
    done = in_sdk("import azure.ai.ml", away)
    assert azure_tasks.UNDESCRIBED in done.stderr
    policy = azure_tasks.settings(azure_conn_id="azure_ml_default")["retry_policy"]
    error = AirflowException(f"Process returned non-zero exit status 1.\n{done.stderr}")
    assert policy.evaluate(error, 1, 3).action == RetryAction.RETRY


def test_only_a_fault_of_the_service_may_mend_itself():
    resume = azure_tasks.AzureMLJob.resume
    event = {"job": "j-1", "status": "Failed", "code": "UserError", "reason": "no such column"}
    with pytest.raises(ValueError, match=r"job j-1 is Failed\. UserError: no such column"):
        resume(None, {}, event)
    with pytest.raises(RuntimeError, match="lost"):
        resume(None, {}, event | {"code": "ServiceError", "reason": "the node was lost"})
    assert resume(None, {}, event | {"status": "Completed"}) == "j-1"


def test_a_job_that_failed_is_followed_by_another_and_no_other_is():
    jobs = {"j-1": "Failed", "j-2": "Canceled"}

    class Missing(Exception):
        pass

    def get(name):
        if name not in jobs:
            raise Missing
        return SimpleNamespace(name=name, status=jobs[name])

    def create_or_update(job):
        jobs[job.name] = "Running"
        return job

    client = SimpleNamespace(jobs=SimpleNamespace(get=get, create_or_update=create_or_update))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("azure.core.exceptions.ResourceNotFoundError", Missing)
        assert azure_ml.submit(client, "j", SimpleNamespace(name=None)) == "j-3"
        assert azure_ml.submit(client, "j", SimpleNamespace(name=None)) == "j-3"
        assert list(jobs) == ["j-1", "j-2", "j-3"]


def test_a_file_that_was_changed_is_not_uploaded(tmp_path):
    (tmp_path / "a table.csv").write_text("rows")
    with pytest.raises(ValueError, match="changed after it was written"):
        azure_ml.verified(f"file://{tmp_path}/a%20table.csv#sha256=0")


def test_the_environment_of_a_task_says_who_it_is_and_where(connection, monkeypatch):
    account = azure_ml.Account.of(Connection.get("azure_ml_default"))
    assert account.manager == azure_ml.PUBLIC_CLOUD
    for name, value in account.as_env().items():
        monkeypatch.setenv(name, value)
    assert astuple(azure_ml.Account.here()) == astuple(account)


@pytest.fixture
def trigger(connection, monkeypatch):
    seen = iter([
        azure_ml.Seen("Queued"),
        azure_ml.Seen("Running"),
        azure_ml.Seen("Failed", "UserError", "no such column"),
    ])
    monkeypatch.setattr(azure_ml.Jobs, "look", lambda self, name: next(seen))
    return azure_tasks.AzureMLJobTrigger("azure_ml_default", "j-1", 0.01)


def test_the_trigger_wakes_its_task_when_the_job_has_ended(trigger):
    async def woken():
        return (await anext(trigger.run())).payload

    assert asyncio.run(woken()) == {
        "job": "j-1",
        "status": "Failed",
        "code": "UserError",
        "reason": "no such column",
    }


def test_it_can_be_rebuilt_in_another_triggerer_and_holds_no_secret(trigger):
    path, values = trigger.serialize()
    assert pkgutil.resolve_name(path)(**values).serialize() == (path, values)
    assert "hidden" not in json.dumps(values)


def test_a_job_ends_with_the_task_that_waits_for_it(trigger, monkeypatch):
    canceled = []
    monkeypatch.setattr(azure_ml.Jobs, "cancel", lambda self, name: canceled.append(name))
    asyncio.run(trigger.on_kill())
    assert canceled == ["j-1"]
