"""Azure ML as Airflow tasks: what runs in the SDK's environment, and a job that is waited for.

    IN_SDK = azure_tasks.settings(azure_conn_id="azure_ml_default")

    @task.external_python(**IN_SDK)
    def compute(name): ...

    AzureMLJob(task_id="train", python_callable=submit, **IN_SDK)

Such a function sees nothing of its file, only its arguments. It is signed in by its environment:
the secret goes from the connection into that one process, and into no XCom, log or file.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.python import ExternalPythonOperator
from airflow.sdk import Connection, ExceptionRetryPolicy, RetryAction, RetryDecision, RetryRule
from airflow.triggers.base import BaseTrigger, TriggerEvent

from include import interpreters, retries
from include.clouds import azure_ml

LONGEST = timedelta(hours=12)
UNDESCRIBED = "Unknown cloud environment"
# Whatever is raised in another interpreter arrives as a plain AirflowException, and would be raised
# again. What may mend itself ends that process with a status of its own.
RULES = [
    RetryRule(subprocess.CalledProcessError, RetryAction.RETRY, reason="Azure was busy, or killed"),
    RetryRule(
        "airflow.sdk.exceptions.AirflowException",
        RetryAction.FAIL,
        reason="raised in the SDK's environment, and would be again",
        match_subclasses=False,
    ),
]


def settings(azure_conn_id: str) -> dict[str, Any]:
    """For a task whose function runs where the SDK is, signed in by this connection."""

    def sign_in(context: Any) -> None:
        running = context["task"]
        running.python = interpreters.interpreter("azure_ml")
        running.env_vars = azure_ml.Account.of(Connection.get(azure_conn_id)).as_env()

    return {
        "python": "envs/azure_ml.txt",  # `sign_in` puts the interpreter that has these here
        "expect_airflow": False,
        "pre_execute": sign_in,
        "retry_policy": Policy(rules=[*retries.POLICY.rules, *RULES]),
    }


class Policy(ExceptionRetryPolicy):
    """Tries again also where the description of the cloud did not come.

    The SDK asks ARM_CLOUD_METADATA_URL for it while it is imported. Of an address that is away it
    says what it says of a cloud that does not exist.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Any = None,
    ) -> RetryDecision:
        """Look at what was said, since all errors of that interpreter arrive as one kind."""
        if UNDESCRIBED in str(exception):
            reason = "the description of the cloud did not come"
            return RetryDecision(RetryAction.RETRY, retries.RESTART, reason)
        return super().evaluate(exception, try_number, max_tries, context)


class AzureMLJobTrigger(BaseTrigger):
    """Wakes its task when a job of Azure ML has ended, with the reason where it failed.

    It asks the REST API: the SDK can't live beside Airflow. The event has no secret in it, and
    neither has what is serialized, which Airflow stores.
    """

    def __init__(self, connection: str, job: str, poll_seconds: float):
        """Watch a job of the workspace behind this Airflow connection."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.connection = connection
        self.job = job
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """All that another triggerer needs to go on."""
        return f"{__name__}.{type(self).__name__}", {
            "connection": self.connection,
            "job": self.job,
            "poll_seconds": self.poll_seconds,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, tell of each new status, and sleep; fire once."""
        jobs, told = await self._jobs(), ""
        while True:
            seen = await asyncio.to_thread(jobs.look, self.job)
            if seen.status != told:
                self.log.info("%s is %s", self.job, seen.status)
                told = seen.status
            if seen.status in azure_ml.ENDED:
                break
            await asyncio.sleep(self.poll_seconds)
        yield TriggerEvent({"job": self.job, **asdict(seen)})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Somebody cleared the waiting task or marked it: nobody wants the job any more."""
        jobs = await self._jobs()
        await asyncio.to_thread(jobs.cancel, self.job)

    async def _jobs(self) -> azure_ml.Jobs:
        account = azure_ml.Account.of(await Connection.async_get(self.connection))
        return await asyncio.to_thread(azure_ml.Jobs, account)  # its imports take their time


class AzureMLJob(ExternalPythonOperator):
    """Submit a job in the SDK's environment, and wait for it without a worker.

    The callable returns the job's name. It finds a job that an earlier try has submitted, so
    whatever happens to this task, the job goes on and is taken up again.
    """

    def __init__(self, *, azure_conn_id: str, poll_seconds: float, **kwargs: Any):
        """Ask for the job's status every so many seconds."""
        super().__init__(**kwargs)
        self.azure_conn_id = azure_conn_id
        self.poll_seconds = poll_seconds

    def execute(self, context: Any) -> str:
        """Submit it, or find it, and leave the worker unless it has ended."""
        job = super().execute(context)
        seen = azure_ml.Jobs(azure_ml.Account.of(Connection.get(self.azure_conn_id))).look(job)
        if seen.status in azure_ml.ENDED:
            return self.resume(context, {"job": job, **asdict(seen)})
        self.defer(
            trigger=AzureMLJobTrigger(self.azure_conn_id, job, self.poll_seconds),
            method_name="resume",
            timeout=LONGEST,
        )

    def resume(self, context: Any, event: dict[str, str]) -> str:
        """Fail with Azure's own reason; only what is a fault of the service may mend itself."""
        if event["status"] == "Completed":
            return event["job"]
        told = f"job {event['job']} is {event['status']}. {event['code']}: {event['reason']}"
        raise RuntimeError(told) if event["code"] == "ServiceError" else ValueError(told)
