"""AutoML V2 for tables with two classes: three kinds of models are tried, the best one is kept."""

import json
import sys
from pathlib import Path
from typing import Any

from include.local_cloud import automl
from include.local_cloud.jobs import WITH_PROJECT
from include.local_cloud.sagemaker.account import IMAGE, Account, now, page, shown
from include.local_cloud.sagemaker.protocol import Operation, Refused
from include.local_cloud.sagemaker.script_mode import packed
from include.local_cloud.sagemaker.work import Kind, no_job

OBJECTIVE, PROBLEM, TABLE = "AUC", "BinaryClassification", "TabularJobConfig"
VALIDATION_SHARE, TEST_SHARE = 0.2, 0.1
INFERENCE = Path(__file__).with_name("automl_inference.py")
ENVIRONMENT = {
    "SAGEMAKER_PROGRAM": INFERENCE.name,
    "SAGEMAKER_INFERENCE_OUTPUT": "predicted_label",
    "SAGEMAKER_INFERENCE_SUPPORTED": "predicted_label,probability,probabilities,labels",
}
ALSO_LISTED = ("AutoMLJobSecondaryStatus", "LastModifiedTime", "EndTime", "FailureReason")


class AutoML(Kind):
    """Searches for a model by itself."""

    def __init__(self, account: Account) -> None:
        """Take up what an earlier process left."""
        super().__init__(
            account, "AutoMLJob", "automl-job", "", no_job, self.search, can_be_deleted=False
        )

    @property
    def creation(self) -> str:
        """The call that begins one; the first version of this API is another."""
        return "CreateAutoMLJobV2"

    def operations(self) -> dict[str, Operation]:
        """What callers can ask."""
        return {
            self.creation: self.create,
            "DescribeAutoMLJobV2": lambda asked: shown(self.get(asked[self.name])),
            "StopAutoMLJob": self.stop,
            "ListAutoMLJobs": self.summaries,
            "ListCandidatesForAutoMLJob": self.candidates,
        }

    def add(self, asked: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Write down a search that begins, if it is one that is done here."""
        config, inputs = asked["AutoMLProblemTypeConfig"], asked["AutoMLJobInputDataConfig"]
        problem = config.get(TABLE, {}).get("ProblemType")
        objective = asked.get("AutoMLJobObjective", {}).get("MetricName")
        channels = [each.get("ChannelType", "training") for each in inputs]
        if (problem, objective, channels) != (PROBLEM, OBJECTIVE, ["training"]):
            raise Refused(
                "NotImplemented",
                f"{', '.join(config)} for {problem} by {objective} with {', '.join(channels)} data "
                f"is not implemented here: only {TABLE} for {PROBLEM} by {OBJECTIVE}, with one "
                "channel of training data",
                501,
            )
        return super().add(
            asked,
            AutoMLProblemTypeConfigName="Tabular",
            AutoMLJobSecondaryStatus="Starting",
            _candidates=[],
            **more,
        )

    def summaries(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Summaries, with what this kind of job has more to say."""
        found = super().summaries(asked)
        for each in found[f"{self.prefix}Summaries"]:
            job = self.get(each[self.name])
            each |= {field: job[field] for field in ALSO_LISTED if field in job}
        return found

    def candidates(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The models that were tried, a page at a time, the best one first."""
        found = self.get(asked[self.name])["_candidates"]
        wanted = asked.get("CandidateNameEquals")
        kept = [each for each in found if wanted in (None, each["CandidateName"])]
        return page(kept, asked, "Candidates")

    def search(self, kind: Kind, name: str, folder: Path) -> dict[str, Any]:
        """Have models tried in a process of their own, and give the best one a container."""
        job, began = self.get(name), now()
        (channel,) = job["AutoMLJobInputDataConfig"]
        uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
        for number, file in enumerate(self.account.fetch(uri, folder / "input")):
            file.rename(folder / f"data-{number}.csv")
        judged = job.get("DataSplitConfig", {}).get("ValidationFraction", VALIDATION_SHARE)
        order = {
            "target": job["AutoMLProblemTypeConfig"][TABLE]["TargetAttributeName"],
            "columns": {},  # by their types
            "split": "",
            "fractions": [judged, TEST_SHARE],
        }
        (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
        command = [sys.executable, "-m", automl.__name__, str(folder)]
        self.run(name, command, dict(WITH_PROJECT), folder, "AutoMLJobs")
        reached = json.loads((folder / automl.CANDIDATES).read_text(encoding="utf-8"))
        found = [
            _candidate(f"{name}-{number}", auc, began)
            for number, auc in enumerate(sorted(reached.values(), reverse=True), start=1)
        ]
        self._keep(
            found[0], f"{job['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{name}", folder
        )
        return {"BestCandidate": found[0], "_candidates": found}

    def _keep(self, best: dict[str, Any], to: str, folder: Path) -> None:
        """The best one's model, as script mode has it, and how good it is on rows of its own."""
        unseen = json.loads((folder / automl.METRICS).read_text(encoding="utf-8"))["auRoc"]
        best["CandidateProperties"]["CandidateMetrics"].append(_metric(unseen, "Test"))
        laid_out, url = folder / "packed", f"{to}/{best['CandidateName']}/output/model.tar.gz"
        (laid_out / "code").mkdir(parents=True)
        (folder / automl.MODEL).rename(laid_out / automl.MODEL)
        (laid_out / "code" / INFERENCE.name).write_bytes(INFERENCE.read_bytes())
        self.account.put(packed(laid_out), url)
        container = {"Image": IMAGE, "ModelDataUrl": url, "Environment": ENVIRONMENT}
        best["InferenceContainers"] = [container]

    def _end(self, name: str, status: str, **more: Any) -> dict[str, Any]:
        return super()._end(name, status, AutoMLJobSecondaryStatus=status, **more)


def _candidate(name: str, auc: float, began: float) -> dict[str, Any]:
    moment = now()
    return {
        "CandidateName": name,
        "CandidateStatus": "Completed",
        "CandidateSteps": [],
        "CandidateProperties": {"CandidateMetrics": [_metric(auc, "Validation")]},
        "FinalAutoMLJobObjectiveMetric": {
            "Type": "Maximize",
            "MetricName": OBJECTIVE,
            "StandardMetricName": OBJECTIVE,
            "Value": auc,
        },
        "ObjectiveStatus": "Succeeded",
        "CreationTime": began,
        "EndTime": moment,
        "LastModifiedTime": moment,
    }


def _metric(value: float, part: str) -> dict[str, Any]:
    return {
        "MetricName": OBJECTIVE,
        "StandardMetricName": OBJECTIVE,
        "Value": value,
        "Set": part,
    }
