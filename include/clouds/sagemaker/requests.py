"""What SageMaker is asked for, as its API wants it: much is the same in every request."""

from dataclasses import dataclass, field
from typing import Any

INSIDE = "/opt/ml/processing"
MACHINE = {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10}


@dataclass(frozen=True)
class Requests:
    """For the jobs and models of one pipeline; the fields may be templates."""

    bucket: str
    role: str
    image: str
    metric: dict[str, str]
    """A name, and the regular expression that finds the value in what a training prints."""
    channels: tuple[str, ...] = ("train", "validation")
    machine: dict[str, Any] = field(default_factory=lambda: MACHINE)
    limit: dict[str, int] = field(default_factory=lambda: {"MaxRuntimeInSeconds": 600})

    def artifact(self, job: str) -> str:
        """Where a training job puts its model; `job` is an expression for its description."""
        return f"s3://{self.bucket}/models/{{{{ {job}['TrainingJobName'] }}}}/output/model.tar.gz"

    def processing(
        self, script: str, inputs: dict[str, Any], to: str, **more: str
    ) -> dict[str, Any]:
        """Prefixes in the bucket become folders, and a script works between them."""
        places = {
            name: f"s3://{self.bucket}/{place}/" if isinstance(place, str) else place
            for name, place in {"code": "code", **inputs}.items()
        }
        upload = {"S3Uri": f"s3://{self.bucket}/{to}", "S3UploadMode": "EndOfJob"}
        output = {"LocalPath": f"{INSIDE}/output", **upload}
        return {
            **more,
            "RoleArn": self.role,
            "ProcessingResources": {"ClusterConfig": self.machine},
            "StoppingCondition": self.limit,
            "AppSpecification": {
                "ImageUri": self.image,
                "ContainerEntrypoint": ["python3", f"{INSIDE}/code/{script}"],
                "ContainerArguments": [f"{INSIDE}/{name}" for name in (*inputs, "output")],
            },
            "ProcessingInputs": [
                {
                    "InputName": name,
                    "S3Input": {
                        "S3Uri": uri,
                        "LocalPath": f"{INSIDE}/{name}",
                        "S3DataType": "S3Prefix",
                        "S3InputMode": "File",
                    },
                }
                for name, uri in places.items()
            ],
            "ProcessingOutputConfig": {"Outputs": [{"OutputName": "output", "S3Output": output}]},
        }

    def training(self, name: str, **settings: str) -> dict[str, Any]:
        """A script in AWS's image for its library, with settings as its arguments."""
        own = {"TrainingJobName": name, "HyperParameters": self._script() | settings}
        return own | self._training()

    def tuning(
        self, name: str, ranges: dict[str, tuple[float, float]], trials: str
    ) -> dict[str, Any]:
        """As many trainings, each with other settings, two at a time and repeatable."""
        kinds: dict[str, list[dict[str, str]]] = {}
        for setting, (low, high) in ranges.items():
            kind = "Integer" if isinstance(low, int) else "Continuous"
            limits = {"Name": setting, "MinValue": str(low), "MaxValue": str(high)}
            kinds.setdefault(f"{kind}ParameterRanges", []).append(limits)
        return {
            "HyperParameterTuningJobName": name,
            "HyperParameterTuningJobConfig": {
                "Strategy": "Random",
                "RandomSeed": 97,
                "HyperParameterTuningJobObjective": {
                    "Type": "Maximize",
                    "MetricName": self.metric["Name"],
                },
                "ResourceLimits": {
                    "MaxNumberOfTrainingJobs": trials,
                    "MaxParallelTrainingJobs": 2,
                },
                "ParameterRanges": kinds,
            },
            "TrainingJobDefinition": self._training() | {"StaticHyperParameters": self._script()},
        }

    def model(self, name: str, artifact: str) -> dict[str, Any]:
        """A trained model and the script that answers for it, from its own archive."""
        script = {"SAGEMAKER_PROGRAM": "inference.py"}
        env = script | {"SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"}
        container = {"Image": self.image, "ModelDataUrl": artifact, "Environment": env}
        return {
            "ModelName": name,
            "ExecutionRoleArn": self.role,
            "PrimaryContainer": container,
        }

    def endpoint(self, name: str, weights: dict[str, int]) -> dict[str, Any]:
        """Models behind one address, each with its part of the callers."""
        variants = [
            {
                "VariantName": variant,
                "ModelName": f"{name}-{variant}",
                "InstanceType": self.machine["InstanceType"],
                "InitialInstanceCount": 1,
                "InitialVariantWeight": weight,
            }
            for variant, weight in weights.items()
        ]
        return {
            "EndpointConfig": {"EndpointConfigName": name, "ProductionVariants": variants},
            "Endpoint": {"EndpointName": name, "EndpointConfigName": name},
        }

    def pipeline(self, steps: dict[str, dict[str, Any]], *parameters: str) -> dict[str, Any]:
        """Processing jobs that SageMaker starts itself, side by side where they can be."""
        return {
            "Version": "2020-12-01",
            "Parameters": [{"Name": name, "Type": "String"} for name in parameters],
            "Steps": [
                {"Name": name, "Type": "Processing", "Arguments": arguments}
                for name, arguments in steps.items()
            ],
        }

    def transform(self, name: str, model: str, source: str, to: str) -> dict[str, Any]:
        """A file through a model, line by line."""
        place = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{self.bucket}/{source}/"}
        return {
            "TransformJobName": name,
            "ModelName": model,
            "TransformInput": {
                "DataSource": {"S3DataSource": place},
                "ContentType": "text/csv",
                "SplitType": "Line",
            },
            "TransformOutput": {
                "S3OutputPath": f"s3://{self.bucket}/{to}",
                "AssembleWith": "Line",
                "Accept": "text/csv",
            },
            "TransformResources": {
                "InstanceType": self.machine["InstanceType"],
                "InstanceCount": 1,
            },
        }

    def _script(self) -> dict[str, str]:
        source = f"s3://{self.bucket}/source/source.tar.gz"
        return {"sagemaker_program": "train.py", "sagemaker_submit_directory": source}

    def _training(self) -> dict[str, Any]:
        return {
            "RoleArn": self.role,
            "AlgorithmSpecification": {
                "TrainingImage": self.image,
                "TrainingInputMode": "File",
                "MetricDefinitions": [self.metric],
            },
            "InputDataConfig": [
                {
                    "ChannelName": name,
                    "DataSource": {
                        "S3DataSource": {
                            "S3DataType": "S3Prefix",
                            "S3Uri": f"s3://{self.bucket}/data/{name}/",
                        }
                    },
                }
                for name in self.channels
            ],
            "OutputDataConfig": {"S3OutputPath": f"s3://{self.bucket}/models"},
            "ResourceConfig": self.machine,
            "StoppingCondition": self.limit,
        }
