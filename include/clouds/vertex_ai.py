"""Vertex AI's operators for tasks that may come back, and the way to remove what they made.

Vertex AI gives its things numbers, and takes any number of things with one name. So a task that is
tried again after its worker died would start a second training beside the first. These operators
look for a thing of their name first, and take it if it has not failed; what they return is its full
name. A training or a batch that fails is not tried again, and the task says why it failed.

The name must be the run's own, and is a template. `remove` finds everything by it again.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from airflow.providers.google.cloud.hooks.gcs import GCSHook
from airflow.providers.google.cloud.hooks.vertex_ai.prediction_service import PredictionServiceHook
from airflow.providers.google.cloud.links.vertex_ai import VertexAITrainingLink
from airflow.providers.google.cloud.operators.cloud_base import GoogleCloudBaseOperator
from airflow.providers.google.cloud.operators.vertex_ai.auto_ml import (
    CreateAutoMLTabularTrainingJobOperator,
)
from airflow.providers.google.cloud.operators.vertex_ai.batch_prediction_job import (
    CreateBatchPredictionJobOperator,
)
from airflow.providers.google.cloud.operators.vertex_ai.custom_job import (
    CreateCustomTrainingJobOperator,
)
from airflow.providers.google.cloud.operators.vertex_ai.dataset import CreateDatasetOperator
from airflow.providers.google.cloud.operators.vertex_ai.endpoint_service import (
    CreateEndpointOperator,
    DeployModelOperator,
)
from airflow.providers.google.cloud.operators.vertex_ai.model_service import UploadModelOperator
from airflow.providers.google.cloud.triggers.vertex_ai import (
    CreateBatchPredictionJobTrigger,
    CustomTrainingJobTrigger,
)
from airflow.providers.google.common.hooks.base_google import GoogleBaseHook
from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from google.api_core.exceptions import ClientError, TooManyRequests
from google.cloud import aiplatform
from google.protobuf import json_format, struct_pb2

from include import retries

ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
POLL_SECONDS = 0.5
POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(TooManyRequests, RetryAction.RETRY, reason="asked too often"),
        RetryRule(ClientError, RetryAction.FAIL, reason="the request is refused"),
        *retries.POLICY.rules,
    ]
)


class Once(GoogleCloudBaseOperator):
    """For things that are there at once: the one of this name, made if there is none."""

    kind: type[Any]
    field: str
    """Where the operator keeps what is to be made: a dict with its display_name."""
    project_id: str
    region: str
    gcp_conn_id: str

    def execute(self, context: Context) -> str:
        """Look, and make it if need be."""
        name = getattr(self, self.field)["display_name"]
        for found in known(self.kind, name, self.project_id, self.region, self.gcp_conn_id):
            context["ti"].xcom_push(key=f"{self.field}_id", value=found.name)
            return str(found.resource_name)
        with _plainly():
            made = super().execute(context)
        return str(made.get("name") or made["model"])


class Dataset(Once, CreateDatasetOperator):
    """A table for AutoML, wherever its files are."""

    template_fields = (*CreateDatasetOperator.template_fields, "dataset")
    kind, field = aiplatform.TabularDataset, "dataset"


class Model(Once, UploadModelOperator):
    """A model that somebody trained, in the registry."""

    kind, field = aiplatform.Model, "model"


class Endpoint(Once, CreateEndpointOperator):
    """An address for predictions."""

    template_fields = (*CreateEndpointOperator.template_fields, "endpoint")
    kind, field = aiplatform.Endpoint, "endpoint"


class Deployment(DeployModelOperator):
    """A model behind an endpoint; its id, of digits, is chosen here and not by Vertex AI."""

    template_fields = (*DeployModelOperator.template_fields, "traffic_split")

    def execute(self, context: Context) -> str:
        """Deploy it unless it is there."""
        chosen = str(self.deployed_model["id"])
        where = _settled(self.project_id, self.region, self.gcp_conn_id)
        endpoint = aiplatform.Endpoint(self.endpoint_id, **where)
        if chosen not in [deployed.id for deployed in endpoint.list_models()]:
            with _plainly():
                super().execute(context)
        return chosen


class CustomTraining(CreateCustomTrainingJobOperator):
    """A script of one's own, which Vertex AI runs; it leaves its model below `base_output_dir`."""

    template_fields = (  # type: ignore[assignment]
        *CreateCustomTrainingJobOperator.template_fields,
        *("project_id", "args", "base_output_dir", "staging_bucket"),
    )
    # There is no model to link to.
    operator_extra_links = (VertexAITrainingLink(),)  # type: ignore[assignment]

    def execute(self, context: Context) -> str:
        """Take the result of the job of this name; wait for it first unless it has succeeded."""
        kind, name = aiplatform.CustomTrainingJob, self.display_name
        found = good(known(kind, name, self.project_id, self.region, self.gcp_conn_id))
        if found and succeeded(found[0]):
            context["ti"].xcom_push(key="training_id", value=found[0].name)
            return str(found[0].resource_name)
        return str(super().execute(context))

    def invoke_defer(self, context: Context) -> None:
        """Wait for the job of this name, which is submitted if there is none."""
        kind, name = aiplatform.CustomTrainingJob, self.display_name
        found = good(known(kind, name, self.project_id, self.region, self.gcp_conn_id))
        if not found:
            # Vertex AI's library misses a model; another task puts it into the registry.
            logging.getLogger("google.cloud.aiplatform.training_jobs").setLevel(logging.ERROR)
            try:
                super().invoke_defer(context)
            except RuntimeError as error:  # it has failed by the time that it is looked at
                found = known(kind, name, self.project_id, self.region, self.gcp_conn_id)
                raise AirflowFailException(f"{error} {found[0].error.message}") from None
        context["ti"].xcom_push(key="training_id", value=found[0].name)
        trigger = CustomTrainingJobTrigger(
            conn_id=self.gcp_conn_id,
            project_id=self.project_id,
            location=self.region,
            job_id=found[0].name,
            poll_interval=self.poll_interval,
        )
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(  # type: ignore[override]
        self, context: Context, event: dict[str, Any]
    ) -> str:
        """Take note of how it ended."""
        return str(_succeeded(event)["name"])


class AutoMLTraining(CreateAutoMLTabularTrainingJobOperator):
    """A model that Vertex AI chooses; the operator can't be deferred, and waits in its worker."""

    template_fields = (  # type: ignore[assignment]
        *CreateAutoMLTabularTrainingJobOperator.template_fields,
        *("project_id", "display_name", "model_display_name"),
    )

    def execute(self, context: Context) -> str:
        """Wait for the job of this name, which is submitted if there is none."""
        kind, name = aiplatform.AutoMLTabularTrainingJob, self.display_name
        found = good(known(kind, name, self.project_id, self.region, self.gcp_conn_id))
        try:
            if not found:
                return str(super().execute(context)["name"])
            model = found[0].get_model()
        except RuntimeError as error:
            raise AirflowFailException(str(error)) from None
        context["ti"].xcom_push(key="model_id", value=model.name)
        return str(model.resource_name)


class BatchPrediction(CreateBatchPredictionJobOperator):
    """Predictions for files of rows, without an endpoint; returns the folder with the answers."""

    def execute(self, context: Context) -> str:
        """Take the result of the job of this name; wait for it first unless it has succeeded."""
        kind, name = aiplatform.BatchPredictionJob, self.job_display_name
        found = good(known(kind, name, self.project_id, self.region, self.gcp_conn_id))
        if found and succeeded(found[0]):
            return str(found[0].output_info.gcs_output_directory)
        if not found:
            super().execute(context)
        trigger = CreateBatchPredictionJobTrigger(
            conn_id=self.gcp_conn_id,
            project_id=self.project_id,
            location=self.region,
            job_id=found[0].name,
            poll_interval=self.poll_interval,
        )
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(  # type: ignore[override]
        self, context: Context, event: dict[str, Any]
    ) -> str:
        """Take note of how it ended."""
        return str(_succeeded(event)["output_info"]["gcs_output_directory"])


def known(kind: type[Any], name: str, project: str, region: str, conn_id: str) -> list[Any]:
    """What there is of this kind and name, the newest first."""
    found = kind.list(filter=f'display_name="{name}"', **_settled(project, region, conn_id))
    return sorted(found, key=lambda each: each.create_time, reverse=True)


def good(jobs: Iterable[Any]) -> list[Any]:
    """Those that succeeded or still may."""
    return [each for each in jobs if not each.state.name.endswith(ENDED[1:])]


def succeeded(job: Any) -> bool:
    """Whether a job has ended well, so that nobody needs to wait for it."""
    return bool(job.state.name.endswith(ENDED[0]))


def remove(names: Sequence[str], project: str, region: str, conn_id: str) -> int:
    """Take away all that has one of these names; jobs that still run are cancelled first."""
    removed = 0
    for kind, more in (
        (aiplatform.Endpoint, {"force": True}),
        (aiplatform.BatchPredictionJob, {}),
        (aiplatform.CustomTrainingJob, {}),
        (aiplatform.AutoMLTabularTrainingJob, {}),
        (aiplatform.Model, {}),
        (aiplatform.TabularDataset, {}),
    ):
        for name in names:
            for found in known(kind, name, project, region, conn_id):
                if hasattr(found, "cancel"):
                    _end(found)
                if kind is aiplatform.CustomTrainingJob:
                    _remove_behind(found)
                found.delete(**more)
                removed += 1
    return removed


def measured(model: str, conn_id: str) -> dict[str, Any]:
    """How good AutoML's model was on the test rows."""
    _, project, _, region, *_ = model.split("/")
    found = aiplatform.Model(model, **_settled(project, region, conn_id)).list_model_evaluations()
    return dict(found[0].metrics)


def ask(
    endpoint: str, rows: Iterable[dict[str, Any]], region: str, conn_id: str
) -> tuple[str, list[dict[str, Any]]]:
    """Which of the models behind an endpoint answered, and what."""
    values = []
    for row in rows:
        values.append(struct_pb2.Value())
        json_format.ParseDict(row, values[-1])
    client = PredictionServiceHook(gcp_conn_id=conn_id).get_prediction_service_client(region)
    told = client.predict(endpoint=endpoint, instances=values)
    answers = json_format.MessageToDict(type(told).pb(told))["predictions"]
    return told.deployed_model_id, answers


def lines(address: str, conn_id: str) -> list[Any]:
    """What the files hold whose addresses begin so, a JSON document in each line."""
    hook = GCSHook(gcp_conn_id=conn_id)
    bucket, _, prefix = address.removeprefix("gs://").partition("/")
    found = [hook.download(bucket, name) for name in hook.list(bucket, prefix=prefix)]
    return [json.loads(line) for content in found for line in content.splitlines()]


def _end(job: Any) -> None:
    if job.state.name.endswith(ENDED):
        return
    job.cancel()
    while not job.state.name.endswith(ENDED):
        time.sleep(POLL_SECONDS)


def _remove_behind(training: Any) -> None:
    """A custom training has a job behind it, which stays when the training is deleted."""
    behind = training.to_dict().get("trainingTaskMetadata", {}).get("backingCustomJob")
    if behind:
        aiplatform.CustomJob.get(behind).delete()


def _succeeded(event: dict[str, Any]) -> dict[str, Any]:
    """What came of a job, or the reason why nothing did."""
    if event["status"] == "success":
        job: dict[str, Any] = event["job"]
        return job
    if "job" not in event:  # not the job failed, but somebody who asked for it
        raise ConnectionError(event["message"])
    raise AirflowFailException(f"{event['message']}: {event['job']['error']['message']}")


@contextmanager
def _plainly() -> Iterator[None]:
    """Let what Google says of an operation through; the hooks keep the reason to themselves."""
    try:
        yield
    except AirflowException as error:
        raise error.__cause__ or error from None


def _settled(project: str, region: str, conn_id: str) -> dict[str, Any]:
    """Where to ask, and as whom; Google's library also asks by itself, and then by its settings."""
    credentials = GoogleBaseHook(gcp_conn_id=conn_id).get_credentials()
    where = {"project": project, "location": region, "credentials": credentials}
    aiplatform.init(**where)
    return where
