"""What an account holds: how to look at it, and how to take away what one run has left."""

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from botocore import xform_name
from botocore.exceptions import ClientError

JOBS = ("HyperParameterTuningJob", "TrainingJob", "ProcessingJob", "TransformJob")
UNKNOWN = ("ValidationException", "ResourceNotFound", "NoSuchBucket", "404")
RUNNING = ("InProgress", "Stopping", "Creating", "Updating", "Deleting", "Executing")
LOOK_EVERY = 0.5
PATIENCE = 600.0


def described(api: Any, kind: str, name: str) -> dict[str, Any] | None:
    """What the vendor says of a thing; None where there is none."""
    try:
        found: dict[str, Any] = _call(api, "describe", kind, name)
    except ClientError as error:
        if code(error) in UNKNOWN:
            return None
        raise
    return found


def settled(api: Any, endpoint: str) -> dict[str, Any] | None:
    """An endpoint that nothing happens to at the moment, or None once it is gone."""
    return _until_over(lambda: described(api, "Endpoint", endpoint), "EndpointStatus")


def steps(api: Any, execution: str) -> list[dict[str, Any]]:
    """The steps of a pipeline's execution that have begun."""
    found = api.list_pipeline_execution_steps(PipelineExecutionArn=execution)
    return list(found["PipelineExecutionSteps"])


def packages(api: Any, group: str) -> list[str]:
    """The versions of a model, by their long names."""
    pages = api.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group)
    return [each["ModelPackageArn"] for page in pages for each in page["ModelPackageSummaryList"]]


def code(error: ClientError) -> str:
    """The vendor's word for what is wrong."""
    return str(error.response["Error"]["Code"])


def fill(s3: Any, bucket: str, files: dict[str, bytes]) -> None:
    """Put files into a bucket, which is made if it isn't there."""
    region = s3.meta.region_name
    where = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou):  # by an earlier try
        s3.create_bucket(Bucket=bucket, **({} if region == "us-east-1" else where))
    for key, content in files.items():
        s3.put_object(Bucket=bucket, Key=key, Body=content)


def keep_pipeline(api: Any, name: str, role: str, definition: dict[str, Any]) -> str:
    """Have SageMaker know a pipeline by this definition, whatever it knew before."""
    keep = api.update_pipeline if described(api, "Pipeline", name) else api.create_pipeline
    kept = keep(PipelineName=name, RoleArn=role, PipelineDefinition=json.dumps(definition))
    return str(kept["PipelineArn"])


def shift(api: Any, endpoint: str, weights: dict[str, int]) -> None:
    """Give the variants other parts of the callers, and wait until they have them."""
    settled(api, endpoint)
    api.update_endpoint_weights_and_capacities(
        EndpointName=endpoint,
        DesiredWeightsAndCapacities=[
            {"VariantName": variant, "DesiredWeight": weight} for variant, weight in weights.items()
        ],
    )
    settled(api, endpoint)


def ask(runtime: Any, endpoint: str, rows: list[bytes]) -> list[tuple[str, bytes]]:
    """For each row of a CSV the variant that answered, and its answer."""
    answers = []
    for row in rows:
        found = runtime.invoke_endpoint(
            EndpointName=endpoint, Body=row, ContentType="text/csv", Accept="text/csv"
        )
        answers.append((found["InvokedProductionVariant"], found["Body"].read().strip()))
    return answers


def take_away(api: Any, s3: Any, name: str, bucket: str) -> dict[str, int]:
    """Stop and delete whatever begins with this name, and the bucket; returns how many of each.

    What costs by the hour goes first. A record of a transform job can't be deleted at the vendor's;
    it costs nothing.
    """
    gone: Counter[str] = Counter()
    for endpoint in _names(api, "list_endpoints", "Endpoint", name):
        settled(api, endpoint)
        api.delete_endpoint(EndpointName=endpoint)
        settled(api, endpoint)
        gone["endpoints"] += 1
    jobs = [
        (kind, job) for kind in JOBS for job in _names(api, f"list_{xform_name(kind)}s", kind, name)
    ]
    for pipeline in api.list_pipelines(PipelineNamePrefix=name)["PipelineSummaries"]:
        jobs += _ended_executions(api, pipeline["PipelineName"])
        api.delete_pipeline(PipelineName=pipeline["PipelineName"])
        gone["pipelines"] += 1
    for kind, job in jobs:
        if (described(api, kind, job) or {}).get(f"{kind}Status") == "InProgress":
            _stop(api, kind, job)
    for kind, job in jobs:
        _until_over(partial(described, api, kind, job), f"{kind}Status")
        if kind != "TransformJob":
            _call(api, "delete", kind, job)
            gone["jobs"] += 1
    for config in _names(api, "list_endpoint_configs", "EndpointConfig", name):
        api.delete_endpoint_config(EndpointConfigName=config)
    for model in _names(api, "list_models", "Model", name):
        api.delete_model(ModelName=model)
        gone["models"] += 1
    for group in _names(api, "list_model_package_groups", "ModelPackageGroup", name):
        for arn in packages(api, group):
            api.delete_model_package(ModelPackageName=arn)
        api.delete_model_package_group(ModelPackageGroupName=group)
    gone["objects"] = _emptied(s3, bucket)
    return dict(gone)


def _emptied(s3: Any, bucket: str) -> int:
    """Delete a bucket with all that is in it."""
    removed = 0
    try:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            keys = [{"Key": each["Key"]} for each in page.get("Contents", [])]
            if keys:
                s3.delete_objects(Bucket=bucket, Delete={"Objects": keys})
            removed += len(keys)
        s3.delete_bucket(Bucket=bucket)
    except ClientError as error:
        if code(error) not in UNKNOWN:
            raise
    return removed


def _ended_executions(api: Any, pipeline: str) -> list[tuple[str, str]]:
    """Stop what executes; returns the jobs of all executions, by their kinds."""
    jobs = []
    listed = api.list_pipeline_executions(PipelineName=pipeline)["PipelineExecutionSummaries"]
    for arn in (each["PipelineExecutionArn"] for each in listed):
        look = partial(api.describe_pipeline_execution, PipelineExecutionArn=arn)
        if look()["PipelineExecutionStatus"] == "Executing":
            api.stop_pipeline_execution(PipelineExecutionArn=arn)
        _until_over(look, "PipelineExecutionStatus")
        for step in steps(api, arn):
            for kind, job in step.get("Metadata", {}).items():
                jobs.append((kind, job["Arn"].rpartition("/")[2]))
    return jobs


def _until_over(look: Callable[[], dict[str, Any] | None], field: str) -> dict[str, Any] | None:
    deadline = time.monotonic() + PATIENCE
    while (found := look()) and found[field] in RUNNING:
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {found[field]} after {PATIENCE:.0f} s: {found}")
        time.sleep(LOOK_EVERY)
    return found


def _names(api: Any, operation: str, kind: str, part: str) -> list[str]:
    found = []
    for page in api.get_paginator(operation).paginate(NameContains=part):
        (listed,) = (value for value in page.values() if isinstance(value, list))
        found += [each[f"{kind}Name"] for each in listed]
    return [name for name in found if name.startswith(part)]


def _stop(api: Any, kind: str, job: str) -> None:
    try:
        _call(api, "stop", kind, job)
    except ClientError as error:  # it may have ended by itself since
        if code(error) != "ValidationException":
            raise


def _call(api: Any, verb: str, kind: str, name: str) -> Any:
    return getattr(api, f"{verb}_{xform_name(kind)}")(**{f"{kind}Name": name})
