"""The local SageMaker, asked by the vendor's own client, and read by nothing else."""

import io
import itertools
import json
import os
import signal
import tarfile
import time

import boto3
import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from include import processes
from include.local_cloud import platforms, server
from tests.conftest import HOME

TRAIN = """
import argparse, json, os, pathlib, shutil, time
asked = argparse.ArgumentParser()
asked.add_argument("--factor", type=float, default=1.0)
asked.add_argument("--seconds", type=float, default=0.0)
asked.add_argument("--fails", default="")
asked = asked.parse_args()
rows = (pathlib.Path(os.environ["SM_CHANNEL_TRAIN"]) / "rows.csv").read_text().split()
print("begun")
time.sleep(asked.seconds)
if asked.fails:
    raise ValueError(asked.fails)
print(f"score={sum(map(float, rows)) * asked.factor};")
model = pathlib.Path(os.environ["SM_MODEL_DIR"])
(model / "factor.json").write_text(json.dumps(asked.factor))
(model / "code").mkdir()
shutil.copy(pathlib.Path(__file__).with_name("inference.py"), model / "code")
"""
INFERENCE = """
import json, pathlib
def model_fn(folder):
    return json.loads((pathlib.Path(folder) / "factor.json").read_text())
def input_fn(body, content_type):
    return [float(each) for each in body.split()]
def predict_fn(data, model):
    return [each * model for each in data]
def output_fn(prediction, accept):
    return "\\n".join(map(str, prediction)) + "\\n"
"""
PROCESS = """
import os, pathlib, sys
source, target = map(pathlib.Path, sys.argv[1:])
rows = (source / "rows.csv").read_text().split()
(target / "doubled.csv").write_text("\\n".join(str(2 * float(each)) for each in rows))
print("doubled", len(rows), "for", os.environ["WHO"], sorted(os.environ))
"""
ROLE = "arn:aws:iam::123456789012:role/SageMakerExecution"
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/any:1"
BUCKET = "conformance"
CLUSTER = {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 5}
SCORE = [{"Name": "score", "Regex": "score=([0-9.]+);"}]
ENDED = ("Completed", "Failed", "Stopped", "Succeeded")
NUMBERS = itertools.count(1)


class Clients:
    """The vendor's clients on one platform, and what the tests ask of all of them."""

    def __init__(self, redirect):
        """Where it is, and no second tries."""
        fields = redirect.connections["aws_default"]
        known = {
            "endpoint_url": fields["extra"]["endpoint_url"],
            "region_name": fields["extra"]["region_name"],
            "aws_access_key_id": fields["login"],
            "aws_secret_access_key": fields["password"],
            "config": Config(retries={"total_max_attempts": 1}),
        }
        self.api = boto3.client("sagemaker", **known)
        self.runtime = boto3.client("sagemaker-runtime", **known)
        self.s3, self.logs = boto3.client("s3", **known), boto3.client("logs", **known)

    def fill(self):
        """A bucket with rows and scripts."""
        where = {"LocationConstraint": "eu-west-1"}
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=where)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name, text in (("train.py", TRAIN), ("inference.py", INFERENCE)):
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
        put = {"source.tar.gz": packed.getvalue(), "code/process.py": PROCESS.encode()}
        for key, content in (put | {"in/rows.csv": b"1\n2\n3\n"}).items():
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=content)

    def get(self, key):
        """An object's bytes."""
        return self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def train(self, name, limit=60, **settings):
        """Begin a training."""
        made = training(**settings) | {"TrainingJobName": name}
        made["StoppingCondition"] = {"MaxRuntimeInSeconds": limit}
        return self.api.create_training_job(**made)

    def described(self, kind, name):
        """What the API says of a thing."""
        return getattr(self.api, f"describe_{kind}")(**{field(kind, "Name"): name})

    def ended(self, kind, name):
        """What it says of a job that is over."""
        return until(
            lambda: self.described(kind, name), lambda it: it[field(kind, "Status")] in ENDED
        )

    def trained(self, **settings):
        """A training that has ended well."""
        name = f"training-{next(NUMBERS)}"
        self.train(name, **settings)
        assert self.ended("training_job", name)["TrainingJobStatus"] == "Completed"
        return name

    def model(self, factor):
        """A trained model that can be deployed."""
        job, name = self.trained(factor=factor), f"model-{next(NUMBERS)}"
        where = self.described("training_job", job)["ModelArtifacts"]["S3ModelArtifacts"]
        container = {"Image": IMAGE, "ModelDataUrl": where}
        self.api.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)
        return name

    def endpoint(self, **weights):
        """An endpoint in service whose variants are called after what they multiply by."""
        name = f"endpoint-{next(NUMBERS)}"
        self.configure(name, **weights)
        self.api.create_endpoint(EndpointName=name, EndpointConfigName=name)
        self.in_service(name)
        return name

    def configure(self, name, **weights):
        """An endpoint configuration with a model for each variant."""
        variants = [
            {
                "VariantName": variant,
                "ModelName": self.model(float(variant.removeprefix("x"))),
                "InitialInstanceCount": 1,
                "InstanceType": "ml.m5.large",
                "InitialVariantWeight": weight,
            }
            for variant, weight in weights.items()
        ]
        self.api.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants)

    def in_service(self, name):
        """Wait as the vendor's client waits."""
        waiter = self.api.get_waiter("endpoint_in_service")
        waiter.wait(EndpointName=name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 200})

    def ask(self, name, body=b"1\n2\n", **more):
        """Who answered, and what."""
        kind = {"ContentType": "text/csv", "Accept": "text/csv"}
        answer = self.runtime.invoke_endpoint(EndpointName=name, Body=body, **kind, **more)
        return answer["InvokedProductionVariant"], answer["Body"].read().decode().split()


def field(kind, suffix):
    words = {"Hyper": "Hyper", "hyper": "Hyper"}
    return "".join(words.get(each, each.title()) for each in kind.split("_")) + suffix


def until(look, good, seconds=30.0):
    latest = time.monotonic() + seconds
    while not good(found := look()):
        assert time.monotonic() < latest, found
        time.sleep(0.05)
    return found


def training(**settings):
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/in/"}}
    script = {
        "sagemaker_program": "train.py",
        "sagemaker_submit_directory": f"s3://{BUCKET}/source.tar.gz",
    }
    return {
        "RoleArn": ROLE,
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "MetricDefinitions": SCORE,
        },
        "HyperParameters": script | {name: str(value) for name, value in settings.items()},
        "InputDataConfig": [{"ChannelName": "train", "DataSource": source}],
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        "ResourceConfig": CLUSTER,
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }


def processing(to="out/doubled", **more):
    def channel(name):
        place = {"S3Uri": f"s3://{BUCKET}/{name}/", "LocalPath": f"/opt/ml/processing/{name}"}
        return {"InputName": name, "S3Input": place | {"S3DataType": "S3Prefix"}}

    output = {
        "S3Uri": f"s3://{BUCKET}/{to}",
        "LocalPath": "/opt/ml/processing/to",
        "S3UploadMode": "EndOfJob",
    }
    return {
        "RoleArn": ROLE,
        "ProcessingResources": {"ClusterConfig": CLUSTER},
        "AppSpecification": {
            "ImageUri": IMAGE,
            "ContainerEntrypoint": ["python3", "/opt/ml/processing/code/process.py"],
            "ContainerArguments": ["/opt/ml/processing/in", "/opt/ml/processing/to"],
        },
        "Environment": {"WHO": "a test"},
        "ProcessingInputs": [channel("code"), channel("in")],
        "ProcessingOutputConfig": {"Outputs": [{"OutputName": "to", "S3Output": output}]},
    } | more


@pytest.fixture(scope="module")
def clients(sagemaker):
    made = Clients(sagemaker.redirect)
    made.fill()
    yield made
    clear(made)
    until(sagemaker.left, lambda left: left == {})
    assert not any((HOME / "platforms" / "local-cloud" / "sagemaker" / "work").rglob("log"))


def clear(clients):
    """Take everything away again, by the vendor's calls."""
    api = clients.api
    for each in api.list_endpoints()["Endpoints"]:
        clients.in_service(each["EndpointName"])
        api.delete_endpoint(EndpointName=each["EndpointName"])
    for each in api.list_endpoint_configs()["EndpointConfigs"]:
        api.delete_endpoint_config(EndpointConfigName=each["EndpointConfigName"])
    for each in api.list_models()["Models"]:
        api.delete_model(ModelName=each["ModelName"])
    for each in api.list_pipelines()["PipelineSummaries"]:
        api.delete_pipeline(PipelineName=each["PipelineName"])
    for each in api.list_training_jobs()["TrainingJobSummaries"]:
        api.delete_training_job(TrainingJobName=each["TrainingJobName"])
    for each in api.list_processing_jobs()["ProcessingJobSummaries"]:
        api.delete_processing_job(ProcessingJobName=each["ProcessingJobName"])
    for each in api.list_hyper_parameter_tuning_jobs()["HyperParameterTuningJobSummaries"]:
        name = each["HyperParameterTuningJobName"]
        api.delete_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    for each in clients.s3.list_objects_v2(Bucket=BUCKET)["Contents"]:
        clients.s3.delete_object(Bucket=BUCKET, Key=each["Key"])
    clients.s3.delete_bucket(Bucket=BUCKET)


def test_a_processing_job_runs_its_script_on_what_is_in_s3(clients):
    clients.api.create_processing_job(ProcessingJobName="doubling", **processing())
    job = clients.ended("processing_job", "doubling")
    assert job["ProcessingJobStatus"] == "Completed"
    assert clients.get("out/doubled/doubled.csv") == b"2.0\n4.0\n6.0"
    group = {"logGroupName": "/aws/sagemaker/ProcessingJobs"}
    stream = clients.logs.describe_log_streams(**group)["logStreams"][0]["logStreamName"]
    (event,) = clients.logs.get_log_events(**group, logStreamName=stream)["events"]
    assert event["message"].startswith("doubled 3 for a test")
    assert "AIRFLOW" not in event["message"], "a job knows nothing of who started the platform"


def test_a_training_job_leaves_a_model_metrics_and_its_history(clients):
    job = clients.described("training_job", clients.trained(factor=2))
    (metric,) = job["FinalMetricDataList"]
    assert (metric["MetricName"], metric["Value"]) == ("score", 12.0)
    history = [each["Status"] for each in job["SecondaryStatusTransitions"]]
    assert history == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert job["TrainingStartTime"] <= job["TrainingEndTime"]
    key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix(f"s3://{BUCKET}/")
    model = clients.get(key)
    with tarfile.open(fileobj=io.BytesIO(model)) as archive:
        assert sorted(archive.getnames()) == ["code", "code/inference.py", "factor.json"]
        assert json.load(archive.extractfile("factor.json")) == 2.0
    again = clients.described("training_job", clients.trained(factor=2))["ModelArtifacts"]
    assert clients.get(again["S3ModelArtifacts"].removeprefix(f"s3://{BUCKET}/")) == model


def test_a_script_that_raises_fails_its_job_with_what_it_said(clients):
    clients.train("raising", fails="no such column")
    job = clients.ended("training_job", "raising")
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Failed"
    assert "AlgorithmError: ExecuteUserScriptError" in job["FailureReason"]
    assert "ValueError: no such column" in job["FailureReason"]


def test_a_job_without_data_is_told_where_it_looked(clients):
    job = training()
    job["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = f"s3://{BUCKET}/none/"
    clients.api.create_training_job(TrainingJobName="hungry", **job)
    told = clients.ended("training_job", "hungry")["FailureReason"]
    assert f'No S3 objects found under S3 URL "s3://{BUCKET}/none/"' in told


def test_a_job_can_be_stopped_and_is_stopped_when_its_time_is_over(clients):
    clients.train("slow", seconds=60)
    until(
        lambda: clients.described("training_job", "slow"),
        lambda job: job["SecondaryStatus"] == "Training",
    )
    clients.api.stop_training_job(TrainingJobName="slow")
    clients.train("late", limit=1, seconds=60)
    assert clients.ended("training_job", "slow")["TrainingJobStatus"] == "Stopped"
    assert clients.ended("training_job", "late")["TrainingJobStatus"] == "Stopped"


def test_a_tuning_job_tries_its_configurations_and_names_the_best(clients):
    def search(name):
        definition = training()
        settings = definition.pop("HyperParameters")
        ranges = [{"Name": "factor", "MinValue": "0.5", "MaxValue": "8", "ScalingType": "Linear"}]
        config = {
            "Strategy": "Random",
            "RandomSeed": 97,
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "score"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 3, "MaxParallelTrainingJobs": 2},
            "ParameterRanges": {"ContinuousParameterRanges": ranges},
        }
        clients.api.create_hyper_parameter_tuning_job(
            HyperParameterTuningJobName=name,
            HyperParameterTuningJobConfig=config,
            TrainingJobDefinition=definition | {"StaticHyperParameters": settings},
        )
        job = clients.ended("hyper_parameter_tuning_job", name)
        listed = clients.api.list_training_jobs_for_hyper_parameter_tuning_job(
            HyperParameterTuningJobName=name
        )["TrainingJobSummaries"]
        return job, {
            float(each["TunedHyperParameters"]["factor"]): each[
                "FinalHyperParameterTuningJobObjectiveMetric"
            ]["Value"]
            for each in listed
        }

    job, tried = search("search")
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert job["TrainingJobStatusCounters"]["Completed"] == len(tried) == 3
    assert all(score == pytest.approx(6 * factor) for factor, score in tried.items())
    best = job["BestTrainingJob"]
    assert float(best["TunedHyperParameters"]["factor"]) == max(tried)
    own = clients.described("training_job", best["TrainingJobName"])
    assert own["TuningJobArn"] == job["HyperParameterTuningJobArn"]
    assert search("search-again")[1] == tried, "the same seed tries the same"


def test_an_endpoint_gives_each_variant_its_part_of_the_callers(clients):
    name = clients.endpoint(x2=0.9, x3=0.1)
    seen = [clients.ask(name) for _ in range(20)]
    assert {variant: [v for v, _ in seen].count(variant) for variant in ("x2", "x3")} == {
        "x2": 18,
        "x3": 2,
    }
    assert ("x2", ["2.0", "4.0"]) in seen
    assert ("x3", ["3.0", "6.0"]) in seen
    assert clients.ask(name, TargetVariant="x3")[0] == "x3"

    wished = [{"VariantName": "x2", "DesiredWeight": 0}, {"VariantName": "x3", "DesiredWeight": 1}]
    clients.api.update_endpoint_weights_and_capacities(
        EndpointName=name, DesiredWeightsAndCapacities=wished
    )
    clients.in_service(name)
    variants = clients.described("endpoint", name)["ProductionVariants"]
    assert {each["VariantName"]: each["CurrentWeight"] for each in variants} == {"x2": 0, "x3": 1}
    assert {clients.ask(name)[0] for _ in range(10)} == {"x3"}

    clients.configure(f"{name}-next", x5=1)
    clients.api.update_endpoint(EndpointName=name, EndpointConfigName=f"{name}-next")
    assert clients.ask(name)[0] in ("x3", "x5"), "somebody answers all the time"
    clients.in_service(name)
    assert clients.ask(name) == ("x5", ["5.0", "10.0"])


def test_a_request_that_the_model_can_not_answer_is_the_models_error(clients):
    name = clients.endpoint(x2=1)
    with pytest.raises(ClientError, match="could not convert string to float") as raised:
        clients.ask(name, b"no number")
    assert raised.value.response["Error"]["Code"] == "ModelError"
    assert clients.ask(name)[1] == ["2.0", "4.0"]


def test_a_model_that_does_not_start_fails_its_endpoint(clients):
    clients.s3.put_object(Bucket=BUCKET, Key="empty.tar.gz", Body=_empty_archive())
    container = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/empty.tar.gz"}
    clients.api.create_model(ModelName="empty", ExecutionRoleArn=ROLE, PrimaryContainer=container)
    variant = {"VariantName": "v", "ModelName": "empty", "InitialInstanceCount": 1}
    variant["InstanceType"] = "ml.m5.large"
    clients.api.create_endpoint_config(EndpointConfigName="empty", ProductionVariants=[variant])
    clients.api.create_endpoint(EndpointName="empty", EndpointConfigName="empty")
    found = until(
        lambda: clients.described("endpoint", "empty"),
        lambda endpoint: endpoint["EndpointStatus"] != "Creating",
    )
    assert found["EndpointStatus"] == "Failed"
    assert "variant v did not pass the ping health check" in found["FailureReason"]
    clients.api.delete_endpoint(EndpointName="empty")
    with pytest.raises(ClientError, match="not found"):
        until(lambda: clients.ask("empty"), lambda _: False)


def _empty_archive():
    packed = io.BytesIO()
    tarfile.open(fileobj=packed, mode="w:gz").close()
    return packed.getvalue()


def test_a_transform_job_scores_a_file_with_a_model(clients):
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/in/"}}
    clients.api.create_transform_job(
        TransformJobName="scoring",
        ModelName=clients.model(4),
        TransformInput={"DataSource": source, "ContentType": "text/csv", "SplitType": "Line"},
        TransformOutput={"S3OutputPath": f"s3://{BUCKET}/scored", "AssembleWith": "Line"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )
    assert clients.ended("transform_job", "scoring")["TransformJobStatus"] == "Completed"
    assert clients.get("scored/rows.csv.out") == b"4.0\n8.0\n12.0\n"


def test_packages_are_numbered_in_their_group_and_approved(clients):
    api = clients.api
    api.create_model_package_group(ModelPackageGroupName="churn")
    inference = {
        "Containers": [{"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/source.tar.gz"}],
        "SupportedContentTypes": ["text/csv"],
        "SupportedResponseMIMETypes": ["text/csv"],
    }
    made = [
        api.create_model_package(ModelPackageGroupName="churn", InferenceSpecification=inference)
        for _ in range(2)
    ]
    arns = [each["ModelPackageArn"] for each in made]
    assert [arn.rpartition("/")[2] for arn in arns] == ["1", "2"]
    api.update_model_package(ModelPackageArn=arns[1], ModelApprovalStatus="Approved")
    approved = api.list_model_packages(
        ModelPackageGroupName="churn", ModelApprovalStatus="Approved"
    )["ModelPackageSummaryList"]
    assert [each["ModelPackageVersion"] for each in approved] == [2]
    first = api.describe_model_package(ModelPackageName=arns[0])
    assert first["ModelApprovalStatus"] == "PendingManualApproval"
    with pytest.raises(ClientError, match="Model Package Group already exists"):
        api.create_model_package_group(ModelPackageGroupName="churn")
    with pytest.raises(ClientError, match="it is not empty"):
        api.delete_model_package_group(ModelPackageGroupName="churn")
    for arn in arns:
        api.delete_model_package(ModelPackageName=arn)
    api.delete_model_package_group(ModelPackageGroupName="churn")


def test_a_pipeline_runs_its_steps_in_their_order_with_what_they_refer_to(clients):
    train = training(factor=0)
    train["HyperParameters"]["factor"] = {"Get": "Parameters.Factor"}
    step = {"Name": "Double", "Type": "Processing", "Arguments": processing(to="piped")}
    where = {"Get": "Steps.Double.ProcessingOutputConfig.Outputs['to'].S3Output.S3Uri"}
    train["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = where
    source = train["HyperParameters"]["sagemaker_submit_directory"].rpartition("/")
    train["HyperParameters"]["sagemaker_submit_directory"] = {
        "Std:Join": {"On": "/", "Values": [source[0], source[2]]}
    }
    definition = {
        "Version": "2020-12-01",
        "Parameters": [{"Name": "Factor", "Type": "String", "DefaultValue": "1"}],
        "Steps": [{"Name": "Train", "Type": "Training", "Arguments": train}, step],
    }
    api = clients.api
    api.create_pipeline(
        PipelineName="doubled", PipelineDefinition=json.dumps(definition), RoleArn=ROLE
    )
    # The script reads rows.csv, and the step before writes doubled.csv: so it fails at first.
    asked = {"PipelineName": "doubled", "ClientRequestToken": "a" * 32}
    execution = api.start_pipeline_execution(**asked)["PipelineExecutionArn"]
    assert api.start_pipeline_execution(**asked)["PipelineExecutionArn"] == execution
    assert ended_execution(api, execution)["PipelineExecutionStatus"] == "Failed"
    steps = steps_of(api, execution)
    assert {name: each["StepStatus"] for name, each in steps.items()} == {
        "Double": "Succeeded",
        "Train": "Failed",
    }
    assert "FileNotFoundError" in steps["Train"]["FailureReason"]

    definition["Steps"][1]["Arguments"]["AppSpecification"]["ContainerEntrypoint"] = [
        *("sh", "-c", 'cp "$0/rows.csv" "$1/rows.csv"')
    ]
    api.update_pipeline(PipelineName="doubled", PipelineDefinition=json.dumps(definition))
    values = [{"Name": "Factor", "Value": "5"}]
    second = api.start_pipeline_execution(PipelineName="doubled", PipelineParameters=values)
    execution = second["PipelineExecutionArn"]
    assert ended_execution(api, execution)["PipelineExecutionStatus"] == "Succeeded"
    steps = steps_of(api, execution)
    assert steps["Double"]["EndTime"] <= steps["Train"]["StartTime"]
    name = steps["Train"]["Metadata"]["TrainingJob"]["Arn"].rpartition("/")[2]
    (metric,) = clients.described("training_job", name)["FinalMetricDataList"]
    assert metric["Value"] == 30.0
    listed = api.list_pipeline_executions(PipelineName="doubled")["PipelineExecutionSummaries"]
    assert [each["PipelineExecutionStatus"] for each in listed] == ["Succeeded", "Failed"]


def ended_execution(api, execution):
    return until(
        lambda: api.describe_pipeline_execution(PipelineExecutionArn=execution),
        lambda found: found["PipelineExecutionStatus"] in ENDED,
    )


def steps_of(api, execution):
    found = api.list_pipeline_execution_steps(PipelineExecutionArn=execution)
    return {each["StepName"]: each for each in found["PipelineExecutionSteps"]}


def test_a_pipeline_that_can_not_be_run_here_is_refused_at_once(clients):
    def create(*steps):
        text = json.dumps({"Version": "2020-12-01", "Steps": steps})
        clients.api.create_pipeline(PipelineName="odd", PipelineDefinition=text, RoleArn=ROLE)

    with pytest.raises(ClientError, match="step Ask: Lambda is not implemented here"):
        create({"Name": "Ask", "Type": "Lambda", "Arguments": {}})
    one = {"Name": "A", "Type": "Training", "Arguments": {}, "DependsOn": ["B"]}
    with pytest.raises(ClientError, match=r"unknown steps: \['B'\]"):
        create(one)
    with pytest.raises(ClientError, match="in a circle"):
        create(one, {**one, "Name": "B", "DependsOn": ["A"]})


def automl(name, where="automl/", target="left", **more):
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/{where}"}}
    table = {"TargetAttributeName": target, "ProblemType": "BinaryClassification"}
    return {
        "AutoMLJobName": name,
        "AutoMLJobInputDataConfig": [{"ChannelType": "training", "DataSource": source}],
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        "AutoMLProblemTypeConfig": {"TabularJobConfig": table},
        "AutoMLJobObjective": {"MetricName": "AUC"},
        "RoleArn": ROLE,
    } | more


@pytest.fixture(scope="module")
def customers(clients):
    """Six hundred of them, of whom those with few hours and the small plan mostly leave."""
    random = np.random.default_rng(97)
    hours, small = random.uniform(0, 40, 600), random.integers(0, 2, 600)
    leave = random.uniform(size=600) < 1 / (1 + np.exp(0.3 * hours - 4 - 2 * small))
    plans = np.where(small, "small", "big")
    rows = [f"{h:.3f},{p},{int(y)}" for h, p, y in zip(hours, plans, leave, strict=True)]
    text = "\n".join(["hours,plan,left", *rows])
    clients.s3.put_object(Bucket=BUCKET, Key="automl/customers.csv", Body=text.encode())
    return [row.rpartition(",")[::2] for row in rows]


def searched(clients, name):
    return until(
        lambda: clients.api.describe_auto_ml_job_v2(AutoMLJobName=name),
        lambda job: job["AutoMLJobStatus"] in ENDED,
        60,
    )


def test_automl_tries_three_models_and_the_best_one_answers(clients, customers):
    made = clients.api.create_auto_ml_job_v2(**automl("search"))
    job = searched(clients, "search")
    assert job["AutoMLJobStatus"] == "Completed", job["FailureReason"]
    assert job["AutoMLJobArn"] == made["AutoMLJobArn"]
    best = job["BestCandidate"]
    assert job["AutoMLJobSecondaryStatus"] == "Completed"
    assert job["EndTime"] > job["CreationTime"]
    tried = clients.api.list_candidates_for_auto_ml_job(AutoMLJobName="search")["Candidates"]
    reached = [each["FinalAutoMLJobObjectiveMetric"]["Value"] for each in tried]
    assert len(reached) == 3
    assert reached == sorted(reached, reverse=True)
    assert tried[0]["CandidateName"] == best["CandidateName"]
    assert best["FinalAutoMLJobObjectiveMetric"]["Value"] == reached[0] > 0.85
    measured = best["CandidateProperties"]["CandidateMetrics"]
    of_parts = {each["Set"]: each["Value"] for each in measured}
    assert of_parts["Validation"] == reached[0]
    assert 0.75 < of_parts["Test"] < 1
    (listed,) = clients.api.list_auto_ml_jobs()["AutoMLJobSummaries"]
    assert listed["AutoMLJobName"] == "search"

    (container,) = best["InferenceContainers"]
    container["Environment"]["SAGEMAKER_INFERENCE_OUTPUT"] = "predicted_label,probability"
    clients.api.create_model(
        ModelName="searched", ExecutionRoleArn=ROLE, PrimaryContainer=container
    )
    variant = {"VariantName": "only", "ModelName": "searched", "InitialInstanceCount": 1}
    variants = [variant | {"InstanceType": "ml.m5.large"}]
    clients.api.create_endpoint_config(EndpointConfigName="searched", ProductionVariants=variants)
    clients.api.create_endpoint(EndpointName="searched", EndpointConfigName="searched")
    clients.in_service("searched")
    _, lines = clients.ask("searched", "\n".join(row for row, _ in customers).encode())
    told = [line.split(",") for line in lines]
    right = [label == left for (label, _), (_, left) in zip(told, customers, strict=True)]
    assert np.mean(right) > 0.8
    assert all(float(score) >= 0.5 for _, score in told)


def test_automl_that_can_not_find_its_target_fails_and_says_so(clients, customers):
    clients.api.create_auto_ml_job_v2(**automl("astray", target="stayed"))
    job = searched(clients, "astray")
    assert (job["AutoMLJobStatus"], job["AutoMLJobSecondaryStatus"]) == ("Failed", "Failed")
    assert "the data set has no column stayed" in job["FailureReason"]
    assert "BestCandidate" not in job


@pytest.mark.parametrize(
    "other",
    [
        {"AutoMLJobObjective": {"MetricName": "F1"}},
        {"AutoMLProblemTypeConfig": {"ImageClassificationJobConfig": {}}},
    ],
)
def test_automl_for_anything_else_is_refused_by_name(clients, other):
    with pytest.raises(ClientError, match="is not implemented here: only TabularJobConfig"):
        clients.api.create_auto_ml_job_v2(**automl("other", **other))
    with pytest.raises(ClientError, match="Could not find requested job"):
        clients.api.describe_auto_ml_job_v2(AutoMLJobName="other")


@pytest.mark.parametrize(
    ("call", "asked", "code", "message"),
    [
        ("describe_training_job", {"TrainingJobName": "x"}, "ValidationException", "not found"),
        ("describe_processing_job", {"ProcessingJobName": "x"}, "ValidationException", "Could not"),
        ("describe_transform_job", {"TransformJobName": "x"}, "ValidationException", "Could not"),
        ("describe_model", {"ModelName": "x"}, "ValidationException", "Could not find model"),
        ("delete_model", {"ModelName": "x"}, "ValidationException", "Could not find model"),
        ("describe_endpoint", {"EndpointName": "x"}, "ValidationException", "Could not find endp"),
        ("describe_pipeline", {"PipelineName": "x"}, "ResourceNotFound", "does not exist"),
        (
            "describe_hyper_parameter_tuning_job",
            {"HyperParameterTuningJobName": "x"},
            "ResourceNotFound",
            "can't find a tuning job",
        ),
        (
            "create_processing_job",
            {"ProcessingJobName": "under_score", **processing()},
            "ValidationException",
            "'processingJobName' failed to satisfy constraint: Member must satisfy regular",
        ),
        (
            "describe_hyper_parameter_tuning_job",
            {"HyperParameterTuningJobName": "x" * 33},
            "ValidationException",
            "Member must have length less than or equal to 32",
        ),
        ("list_models", {"MaxResults": 101}, "ValidationException", "less than or equal to 100"),
        ("list_domains", {}, "NotImplemented", "ListDomains is not implemented here"),
    ],
)
def test_what_can_not_be_done_is_refused_in_the_vendors_words(clients, call, asked, code, message):
    with pytest.raises(ClientError) as raised:
        getattr(clients.api, call)(**asked)
    error = raised.value.response["Error"]
    assert (error["Code"], message in error["Message"]) == (code, True), error


def test_a_name_that_is_taken_is_refused(clients):
    name = clients.trained()
    with pytest.raises(clients.api.exceptions.ResourceInUse, match="must be unique"):
        clients.train(name)
    endpoint = clients.endpoint(x2=1)
    with pytest.raises(ClientError, match="Cannot create already existing endpoint"):
        clients.api.create_endpoint(EndpointName=endpoint, EndpointConfigName=endpoint)


def test_lists_come_in_pages(clients):
    for number in range(3):
        clients.train(f"page-{number}")
    pages = clients.api.get_paginator("list_training_jobs").paginate(
        NameContains="page-", SortOrder="Ascending", PaginationConfig={"PageSize": 2}
    )
    names = [[each["TrainingJobName"] for each in one["TrainingJobSummaries"]] for one in pages]
    assert names == [["page-0", "page-1"], ["page-2"]]
    for number in range(3):
        clients.ended("training_job", f"page-{number}")


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        ("throttled", "ThrottlingException", 400),
        ("unavailable", "ServiceUnavailable", 503),
        ("quota", "ResourceLimitExceeded", 400),
    ],
)
def test_trouble_looks_as_it_does_at_the_vendors(clients, sagemaker, kind, code, status):
    with sagemaker.trouble(kind, "List*"), pytest.raises(ClientError) as raised:
        clients.api.list_models()
    answer = raised.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
    clients.api.list_models()


def test_a_job_can_be_made_to_fail(clients, sagemaker):
    with sagemaker.trouble("job_fails", "CreateTrainingJob", reason="CapacityError: none left"):
        clients.train("doomed")
        job = clients.ended("training_job", "doomed")
    assert (job["TrainingJobStatus"], job["FailureReason"]) == (
        "Failed",
        "CapacityError: none left",
    )


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_made_is_there_after_a_restart_and_what_ran_has_failed(tmp_path, sign):
    (entry,) = (each for each in platforms.PLATFORMS if each.name == "sagemaker")
    records = tmp_path / "records"
    process = platforms.start(entry, tmp_path, records, {})
    try:
        before = Clients(server.redirect(entry.folder(tmp_path)))
        before.fill()
        name = before.endpoint(x2=1)
        before.train("running", seconds=60)
        until(
            lambda: before.described("training_job", "running"),
            lambda job: job["SecondaryStatus"] == "Training",
        )
        os.kill(process.pid, sign)
        until(lambda: process.alive(), lambda alive: not alive)
        if sign == signal.SIGTERM:
            assert not process.family(), "what it had started ends with it"
        processes.stop(records, [process])

        process = platforms.start(entry, tmp_path, records, {})
        after = Clients(server.redirect(entry.folder(tmp_path)))
        job = after.described("training_job", "running")
        assert job["TrainingJobStatus"] == "Failed"
        assert job["FailureReason"].startswith("InternalServerError")
        after.in_service(name)
        assert after.ask(name) == ("x2", ["2.0", "4.0"])
        assert after.get("in/rows.csv") == b"1\n2\n3\n"
        clear(after)
    finally:
        processes.stop(records, [process])
    assert not process.family()
