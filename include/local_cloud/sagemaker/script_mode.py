"""What happens in the container of a processing and of a training job."""

import gzip
import io
import json
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

from include.local_cloud.sagemaker.account import Account, JobFailed, now
from include.local_cloud.sagemaker.protocol import Refused, invalid
from include.local_cloud.sagemaker.work import Kind, no_job, secondary

INSIDE = "/opt/ml/processing"
PROGRAM, SOURCE = "sagemaker_program", "sagemaker_submit_directory"
HOST = "algo-1"


class Processing(Kind):
    """A command with S3 prefixes as folders.

    Paths below /opt/ml/processing in the command and the environment lead into the job's folder;
    a script in which they are written won't find them.
    """

    def __init__(self, account: Account) -> None:
        """Take up what an earlier process left."""
        super().__init__(account, "ProcessingJob", "processing-job", "Processing", no_job, _process)


class Training(Kind):
    """A script of the user's, as AWS's framework containers run it: script mode."""

    def __init__(self, account: Account) -> None:
        """Take up what an earlier process left."""
        super().__init__(account, "TrainingJob", "training-job", "Training", _no_training, _train)

    def add(self, asked: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Write down a training that begins, and where its model will be."""
        algorithm = asked.get("AlgorithmSpecification")
        if not algorithm or not algorithm.get("TrainingImage"):
            raise invalid("Please provide a TrainingImage: algorithms by name are not here.")
        to = asked["OutputDataConfig"]["S3OutputPath"].rstrip("/")
        model = f"{to}/{asked[self.name]}/output/model.tar.gz"
        first = {"Status": "Starting", "StartTime": now(), "StatusMessage": "Starting"}
        return super().add(
            asked,
            ModelArtifacts={"S3ModelArtifacts": model},
            SecondaryStatus="Starting",
            SecondaryStatusTransitions=[first],
            **more,
        )

    def summary(self, job: dict[str, Any], tuned: dict[str, str], metric: str) -> dict[str, Any]:
        """A training as its tuning job lists it."""
        fields = ("TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingJobStatus")
        more = ("TrainingStartTime", "TrainingEndTime", "FailureReason")
        found = {field: job[field] for field in fields}
        found |= {field: job[field] for field in more if field in job}
        found |= {"TunedHyperParameters": tuned, "ObjectiveStatus": "Pending"}
        if job["TrainingJobStatus"] == "Completed":
            (value,) = [m["Value"] for m in job["FinalMetricDataList"] if m["MetricName"] == metric]
            found["ObjectiveStatus"] = "Succeeded"
            found["FinalHyperParameterTuningJobObjectiveMetric"] = {
                "MetricName": metric,
                "Value": value,
            }
        elif job["TrainingJobStatus"] in ("Failed", "Stopped"):
            found["ObjectiveStatus"] = "Failed"
        return found


def _no_training(name: str) -> Refused:
    return invalid("Requested resource not found.")


def _process(kind: Kind, name: str, folder: Path) -> dict[str, Any]:
    job, inside = kind.get(name), folder / "processing"
    inside.mkdir()

    def mapped(text: str) -> str:
        return text.replace(INSIDE, str(inside))

    for each in job.get("ProcessingInputs", []):
        source = each["S3Input"]
        kind.account.fetch(source["S3Uri"], Path(mapped(source["LocalPath"])))
    outputs = [
        each["S3Output"] for each in job.get("ProcessingOutputConfig", {}).get("Outputs", [])
    ]
    for each in outputs:
        Path(mapped(each["LocalPath"])).mkdir(parents=True, exist_ok=True)
    container = job["AppSpecification"]
    words = container.get("ContainerEntrypoint", []) + container.get("ContainerArguments", [])
    if not words:
        raise JobFailed("ClientError: images have no command of their own here: name one.")
    env = {key: mapped(value) for key, value in job.get("Environment", {}).items()}
    command = [_program(words[0]), *map(mapped, words[1:])]
    kind.run(name, command, env, folder, "ProcessingJobs")
    for each in outputs:
        kind.account.bring(Path(mapped(each["LocalPath"])), each["S3Uri"])
    return {}


def _train(kind: Kind, name: str, folder: Path) -> dict[str, Any]:
    job, account = kind.get(name), kind.account
    settings = {key: _plain(text) for key, text in job.get("HyperParameters", {}).items()}
    if PROGRAM not in settings or SOURCE not in settings:
        raise JobFailed(f"ClientError: only script mode is run here: give {PROGRAM} and {SOURCE}.")
    _reach(kind, name, "Downloading")
    channels = {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"]
        for channel in job.get("InputDataConfig", [])
    }
    for channel, uri in channels.items():
        account.fetch(uri, folder / "input" / channel)
    account.unpack(settings.pop(SOURCE), folder / "code")
    model, output = folder / "model", folder / "output"
    model.mkdir()
    output.mkdir()
    program = settings.pop(PROGRAM)
    own = {key: text for key, text in settings.items() if not key.startswith(("sagemaker_", "_"))}
    arguments = [word for key, text in own.items() for word in (f"--{key}", text)]
    env = {
        "SM_MODEL_DIR": str(model),
        "SM_OUTPUT_DATA_DIR": str(output),
        "SM_INPUT_DIR": str(folder / "input"),
        "SM_CHANNELS": json.dumps(sorted(channels)),
        "SM_HPS": json.dumps(own),
        "SM_HOSTS": json.dumps([HOST]),
        "SM_CURRENT_HOST": HOST,
        "SM_NUM_GPUS": "0",
        "SM_NUM_CPUS": "1",
        "OMP_NUM_THREADS": "1",
        "TRAINING_JOB_NAME": name,
        **{f"SM_CHANNEL_{each.upper()}": str(folder / "input" / each) for each in channels},
        **job.get("Environment", {}),
    }
    _reach(kind, name, "Training")
    script = str(folder / "code" / program)
    printed = kind.run(name, [sys.executable, script, *arguments], env, folder, "TrainingJobs")
    _reach(kind, name, "Uploading")
    to = job["ModelArtifacts"]["S3ModelArtifacts"]
    account.put(packed(model), to)
    if any(output.iterdir()):
        account.put(packed(output), to.replace("model.tar.gz", "output.tar.gz"))
    defined = job["AlgorithmSpecification"].get("MetricDefinitions", [])
    return {"FinalMetricDataList": _metrics(defined, printed)}


def _reach(kind: Kind, name: str, status: str) -> None:
    kind.go_on(name)
    kind.table.change(name, **secondary(kind.get(name), status))


def _metrics(defined: list[dict[str, str]], printed: str) -> list[dict[str, Any]]:
    """The last value of each metric that the script printed."""
    found = []
    for each in defined:
        values = re.findall(each["Regex"], printed)
        if values:
            value = float(values[-1])
            found.append({"MetricName": each["Name"], "Value": value, "Timestamp": now()})
    return found


def _plain(text: str) -> str:
    """The SDK writes hyperparameters as JSON, others as they are."""
    return str(json.loads(text)) if text.startswith('"') and text.endswith('"') else text


def _program(word: str) -> str:
    """Whatever Python an image has, here it is this one."""
    return sys.executable if re.fullmatch(r"(.*/)?python[0-9.]*", word) else word


def packed(folder: Path) -> bytes:
    """A folder as `tar.gz`, without the moment: the same files give the same bytes."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for file in sorted(folder.rglob("*")):
            entry = archive.gettarinfo(str(file), str(file.relative_to(folder)))
            entry.mtime = entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            if entry.isfile():
                with file.open("rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)
    return buffer.getvalue()
