"""Airflow's operators for SageMaker, made to find again what they began.

The vendor keeps a job's name for itself once it was used, so Airflow's operators give a second job
a name with the time in it. Mixed into them, `OwnJob` looks first: a task that was killed after it
had submitted its job finds it, running or finished, and waits for that one. Only a job that ended
in vain, or whose results are gone, is followed by another, with the next number at its name.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, ClassVar

from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerBaseOperator,
    SageMakerEndpointOperator,
    SageMakerModelOperator,
    SageMakerProcessingOperator,
    SageMakerRegisterModelVersionOperator,
    SageMakerStartPipelineOperator,
    SageMakerTrainingOperator,
    SageMakerTransformOperator,
    SageMakerTuningOperator,
)
from airflow.providers.amazon.aws.triggers.sagemaker import (
    SageMakerPipelineTrigger,
    SageMakerTrigger,
)
from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import TriggerEvent
from botocore.exceptions import ClientError, WaiterError

from include import runs
from include.clouds.sagemaker.account import UNKNOWN, code, described, packages, settled, steps

# What may mend itself; the rest of what the vendor refuses is refused next time as well.
BUSY = ("ThrottlingException", "ServiceUnavailable", "InternalFailure", "ResourceLimitExceeded")
NOT_OURS = ("InternalServerError", "CapacityError")


class JobFailed(ValueError):
    """The vendor says that it was the job's own fault: another try would fail in the same way."""


class JobLost(RuntimeError):
    """The job ended, or isn't heard of, for a reason that may pass."""


def name() -> str:
    """What everything of this run is called: within the 32 characters that a tuning job may have.

    Other params are another experiment, and so another name.
    """
    place = runs.here()
    return f"ml-{runs.digest(f'{place.dag_id}/{place.key}/{place.settings}'.encode())}"


class Ours(SageMakerBaseOperator):
    """Mixed into SageMaker's operators: the request is in *Rendered Template*, not in the log."""

    def preprocess_config(self) -> None:
        """What Airflow's does, without writing it down."""
        self._create_integer_fields()
        self.hook.configure_s3_resources(self.config)
        self.parse_config_integers()
        self.expand_role()


class OwnJob(Ours):
    """Mixed into SageMaker's operators: a task that comes back finds the job that it began."""

    job: ClassVar[str]
    check_interval: int

    def execute(self, context: Any) -> Any:
        """Begin a job, take up the running one, or return what the finished one has made."""
        found, job = self.find(self.config[f"{self.job}Name"])
        self.config[f"{self.job}Name"] = found
        if job is None:
            with _told():
                return super().execute(context)
        self.log.info("%s %s was begun before, and is %s", self.job, found, self.status(job))
        if self.status(job) == "Completed":
            return self.execute_complete(context, {"status": "success", "job_name": found})
        self.defer(
            trigger=SageMakerTrigger(
                job_name=found,
                job_type=_trigger_type(self.job),
                waiter_delay=self.check_interval,
                aws_conn_id=self.aws_conn_id,
            ),
            method_name="execute_complete",
            timeout=self.execution_timeout,
        )

    def execute_complete(self, context: Any, event: dict[str, Any] | None = None) -> Any:
        """Return what the job has made, or say why it has made nothing."""
        event = event or {}
        if event.get("status") == "success":
            return super().execute_complete(context, event)  # type: ignore[misc]
        if event.get("status") == "timeout":  # the trigger's patience, and not the job's time
            return self.execute(context)
        reason = str(event.get("message"))
        own = event.get("status") == "failed" and not reason.startswith(NOT_OURS)
        raise (JobFailed if own else JobLost)(f"{event.get('job_name')}: {reason}")

    def find(self, base: str) -> tuple[str, dict[str, Any] | None]:
        """The job that this task began, or the first name that is free."""
        for number in count(1):
            found = base if number == 1 else f"{base}-{number}"
            job = described(self.hook.conn, self.job, found)
            if job is None or self.status(job) == "InProgress":
                break
            if self.status(job) == "Completed" and self._there(job):
                break
        return found, job

    def status(self, job: dict[str, Any]) -> str:
        """The job's state, as the vendor calls it."""
        return str(job[f"{self.job}Status"])

    def _there(self, job: dict[str, Any]) -> bool:
        bucket, _, prefix = self._result(job).removeprefix("s3://").partition("/")
        try:
            found = self.hook.s3_hook.conn.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        except ClientError as error:
            if code(error) in UNKNOWN:
                return False
            raise
        return bool(found["KeyCount"])

    @abstractmethod
    def _result(self, job: dict[str, Any]) -> str:
        """Where the results are, as the job's description has it."""


class Processing(OwnJob, SageMakerProcessingOperator):
    """SageMakerProcessingOperator, which finds its job again."""

    job = "ProcessingJob"

    def _result(self, job: dict[str, Any]) -> str:
        (output, *_) = job["ProcessingOutputConfig"]["Outputs"]
        return str(output["S3Output"]["S3Uri"])


class Training(OwnJob, SageMakerTrainingOperator):
    """SageMakerTrainingOperator, which finds its job again."""

    job = "TrainingJob"

    def _result(self, job: dict[str, Any]) -> str:
        return str(job["ModelArtifacts"]["S3ModelArtifacts"])


class Tuning(OwnJob, SageMakerTuningOperator):
    """SageMakerTuningOperator, which finds its job again."""

    job = "HyperParameterTuningJob"

    def _result(self, job: dict[str, Any]) -> str:
        folder = job["TrainingJobDefinition"]["OutputDataConfig"]["S3OutputPath"]
        return f"{folder}/{job['BestTrainingJob']['TrainingJobName']}"


class Transform(OwnJob, SageMakerTransformOperator):
    """SageMakerTransformOperator, which finds its job again."""

    job = "TransformJob"

    def _result(self, job: dict[str, Any]) -> str:
        return str(job["TransformOutput"]["S3OutputPath"])


class Model(Ours, SageMakerModelOperator):
    """SageMakerModelOperator, for which a model that is there already is no fault."""

    def execute(self, context: Any) -> Any:
        """Make the model, or find it."""
        if found := described(self.hook.conn, "Model", self.config["ModelName"]):
            return {"Model": {"ModelName": found["ModelName"], "ModelArn": found["ModelArn"]}}
        with _told():
            return super().execute(context)


class Register(SageMakerRegisterModelVersionOperator):
    """SageMakerRegisterModelVersionOperator, which gives a model one number and no second."""

    def execute(self, context: Any) -> Any:
        """Register the model, or find it in its group."""
        group = described(self.hook.conn, "ModelPackageGroup", self.package_group_name)
        for arn in packages(self.hook.conn, self.package_group_name) if group else []:
            package = self.hook.conn.describe_model_package(ModelPackageName=arn)
            if package["InferenceSpecification"]["Containers"][0]["ModelDataUrl"] == self.model_url:
                return arn
        with _told():
            return super().execute(context)


class Endpoint(Ours, SageMakerEndpointOperator):
    """SageMakerEndpointOperator with a configuration; either may be there already."""

    def execute(self, context: Any) -> Any:
        """Make what is missing and wait until the endpoint answers."""
        api, config = self.hook.conn, self.config
        place = config["Endpoint"]["EndpointName"]
        if described(api, "Endpoint", place):
            settled(api, place)
            return self.execute_complete(context, {"status": "success", "job_name": place})
        if described(api, "EndpointConfig", config["EndpointConfig"]["EndpointConfigName"]):
            del config["EndpointConfig"]
        with _told():
            return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any] | None = None) -> Any:
        """Return what answers, or say why nothing does."""
        event = event or {}
        endpoint = described(self.hook.conn, "Endpoint", event.get("job_name", "")) or {}
        if endpoint.get("EndpointStatus") != "InService":
            reason = endpoint.get("FailureReason") or event.get("message")
            raise JobFailed(f"{event.get('job_name')}: {reason}")
        return super().execute_complete(context, event)


class ExecutionTrigger(SageMakerPipelineTrigger):
    """Waits for a pipeline's execution, and tells the task also of one that failed."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until it is over."""
        try:
            async for event in super().run():
                yield event
        except WaiterError:
            failed = {"status": "failed", "value": self.pipeline_execution_arn}
            yield TriggerEvent(failed)  # type: ignore[no-untyped-call]


class Pipeline(SageMakerStartPipelineOperator):
    """SageMakerStartPipelineOperator, which finds the execution that it has started."""

    def execute(self, context: Any) -> Any:
        """Start an execution unless one runs or has succeeded, and wait without a worker."""
        listed = self.hook.conn.list_pipeline_executions(PipelineName=self.pipeline_name)
        known = {
            each["PipelineExecutionStatus"]: each["PipelineExecutionArn"]
            for each in listed["PipelineExecutionSummaries"]
        }
        if "Succeeded" in known:
            return known["Succeeded"]
        arn = known.get("Executing")
        if arn is None:
            self.deferrable = self.wait_for_completion = False  # the wait is ours
            with _told():
                arn = super().execute(context)
        self.defer(
            trigger=ExecutionTrigger(
                waiter_type=ExecutionTrigger.Type.COMPLETE,
                pipeline_execution_arn=arn,
                waiter_delay=self.check_interval,
                waiter_max_attempts=self.waiter_max_attempts,
                aws_conn_id=self.aws_conn_id,
            ),
            method_name="execute_complete",
            timeout=self.execution_timeout,
        )

    def execute_complete(self, context: Any, event: dict[str, Any] | None = None) -> Any:
        """Return the execution, or name the steps that failed, and why."""
        event = event or {}
        if event.get("status") == "success":
            return super().execute_complete(context, event)
        reasons = [
            f"{step['StepName']}: {step.get('FailureReason')}"
            for step in steps(self.hook.conn, event["value"])
            if step["StepStatus"] == "Failed"
        ]
        raise JobFailed(f"{event['value']}: {'; '.join(reasons) or 'it was stopped'}")


def _trigger_type(job: str) -> str:
    return "tuning" if job == "HyperParameterTuningJob" else job.removesuffix("Job")


@contextmanager
def _told() -> Iterator[None]:
    """Fail at once with what the vendor says, unless it says that it is busy."""
    try:
        yield
    except ClientError as error:
        if code(error) in BUSY:
            raise
        raise JobFailed(str(error)) from None
    except AirflowException as error:  # Airflow's own checks, and jobs that have failed by now
        lost = any(reason in str(error) for reason in NOT_OURS)
        raise (JobLost if lost else JobFailed)(str(error)) from None
