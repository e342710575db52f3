"""Tuning jobs: each configuration that is tried is a training job of its own."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.local_cloud.sagemaker.account import Account, JobFailed, now, page, shown
from include.local_cloud.sagemaker.protocol import Operation, Refused, invalid
from include.local_cloud.sagemaker.script_mode import Training
from include.local_cloud.sagemaker.work import UNFINISHED, Kind

if TYPE_CHECKING:
    import optuna

OBJECTIVE = "_tuning_objective_metric"
KINDS = tuple(f"{each}ParameterRanges" for each in ("Continuous", "Integer", "Categorical"))
STRATEGIES = ("Bayesian", "Random", "Grid")
MOST_TRIALS, MOST_AT_ONCE = 750, 10
NO_TRIAL_WORKED = (
    "All training jobs failed. Please look at training job failures to get more details."
)


class Tuning(Kind):
    """Searches for the values with which a metric is best."""

    def __init__(self, account: Account, training: Training) -> None:
        """Take up what an earlier process left."""
        self.training = training
        super().__init__(
            account,
            "HyperParameterTuningJob",
            "hyper-parameter-tuning-job",
            "HyperParameterTuning",
            _no_tuning,
            self.search,
        )

    def operations(self) -> dict[str, Operation]:
        """What callers can ask."""
        found = super().operations()
        found["DescribeHyperParameterTuningJob"] = self.describe
        found["ListTrainingJobsForHyperParameterTuningJob"] = self.trials
        return found

    def add(self, asked: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Write down a search that begins, if it is one that is done here."""
        config = asked["HyperParameterTuningJobConfig"]
        if config["Strategy"] not in STRATEGIES:
            raise Refused("NotImplemented", f"{config['Strategy']} is not implemented here", 501)
        definition = asked.get("TrainingJobDefinition")
        if definition is None or "HyperParameterTuningJobObjective" not in config:
            raise invalid("Give one TrainingJobDefinition, and a HyperParameterTuningJobObjective.")
        metric = config["HyperParameterTuningJobObjective"]["MetricName"]
        defined = definition["AlgorithmSpecification"].get("MetricDefinitions", [])
        if metric not in {each["Name"] for each in defined}:
            raise invalid(f"The objective metric {metric} is not among the MetricDefinitions.")
        if not _ranges(config):
            raise invalid("You must specify at least one hyperparameter range.")
        return super().add(asked, _trials=[], **more)

    def describe(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A search, with what has come of its trainings by now."""
        job = self.get(asked[self.name])
        trials = self._summaries(job)
        states = [trial["TrainingJobStatus"] for trial in trials]
        objectives = [trial["ObjectiveStatus"] for trial in trials]
        found = shown(job) | {
            "TrainingJobStatusCounters": {
                "Completed": states.count("Completed"),
                "InProgress": sum(state in UNFINISHED for state in states),
                "NonRetryableError": states.count("Failed"),
                "RetryableError": 0,
                "Stopped": states.count("Stopped"),
            },
            "ObjectiveStatusCounters": {
                each: objectives.count(each) for each in ("Succeeded", "Pending", "Failed")
            },
        }
        if best := self._best(job, trials):
            found["BestTrainingJob"] = best
        return found

    def trials(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The trainings of a search, a page at a time."""
        trials = self._summaries(self.get(asked[self.name]))
        wanted = asked.get("StatusEquals")
        found = [trial for trial in trials if wanted in (None, trial["TrainingJobStatus"])]
        return page(found, asked, "TrainingJobSummaries")

    def stop(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Ask for the end of a search and of its trainings."""
        answer = super().stop(asked)
        for trial in self._summaries(self.get(asked[self.name])):
            if trial["TrainingJobStatus"] == "InProgress":
                self.training.stop({"TrainingJobName": trial["TrainingJobName"]})
        return answer

    def search(self, kind: Kind, name: str, folder: Path) -> dict[str, Any]:
        """Try one configuration after the other, some at a time."""
        job = self.get(name)
        config = job["HyperParameterTuningJobConfig"]
        objective, limits = config["HyperParameterTuningJobObjective"], config["ResourceLimits"]
        study, lock = _study(config), threading.Lock()

        def attempt(number: int) -> None:
            with lock:
                self.go_on(name)
                trial = study.ask()
                values = _suggested(trial, config)
                training = self._begin(job, f"{name}-{number:03d}", values, objective)
            done = self.training.do(training)
            (trial_of,) = self._summaries({"_trials": [[training, values]]} | job_config(config))
            with lock:
                metric = trial_of.get("FinalHyperParameterTuningJobObjectiveMetric")
                if done.get("TrainingJobStatus") == "Completed" and metric:
                    study.tell(trial, metric["Value"])
                else:
                    study.tell(trial, state=_failed())

        total = min(limits.get("MaxNumberOfTrainingJobs", 1), MOST_TRIALS)
        at_once = min(limits["MaxParallelTrainingJobs"], MOST_AT_ONCE, total)
        with ThreadPoolExecutor(at_once) as workers:
            for ended in [workers.submit(attempt, number) for number in range(1, total + 1)]:
                ended.result()
        self.go_on(name)
        if not self._best(self.get(name), self._summaries(self.get(name))):
            raise JobFailed(NO_TRIAL_WORKED)
        return {}

    def _begin(
        self, job: dict[str, Any], name: str, values: dict[str, str], objective: dict[str, str]
    ) -> str:
        definition = job["TrainingJobDefinition"]
        fixed = definition.get("StaticHyperParameters", {})
        asked = {
            key: value for key, value in definition.items() if key != "StaticHyperParameters"
        } | {
            "TrainingJobName": name,
            "HyperParameters": fixed | values | {OBJECTIVE: objective["MetricName"]},
        }
        self.training.add(asked, TuningJobArn=job["HyperParameterTuningJobArn"])
        known = self.get(job[self.name])["_trials"]
        self.table.change(job[self.name], _trials=[*known, [name, values]], LastModifiedTime=now())
        return name

    def _summaries(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        metric = job["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
        return [
            self.training.summary(training, values, metric["MetricName"])
            for name, values in job["_trials"]
            if (training := self.training.table.get(name))
        ]

    def _best(self, job: dict[str, Any], trials: list[dict[str, Any]]) -> dict[str, Any] | None:
        good = [trial for trial in trials if trial["ObjectiveStatus"] == "Succeeded"]
        objective = job["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
        sign = 1 if objective["Type"] == "Maximize" else -1

        def value(trial: dict[str, Any]) -> float:
            return float(trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]) * sign

        return max(good, key=value, default=None)


def job_config(config: dict[str, Any]) -> dict[str, Any]:
    """As much of a search as a summary of one of its trainings needs."""
    return {"HyperParameterTuningJobConfig": config}


def _no_tuning(name: str) -> Refused:
    return Refused(
        "ResourceNotFound", f"Amazon SageMaker can't find a tuning job with the name {name}."
    )


def _ranges(config: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    kinds = config.get("ParameterRanges", {})
    return [
        (kind.removesuffix("ParameterRanges"), each)
        for kind in KINDS
        for each in kinds.get(kind, [])
    ]


def _study(config: dict[str, Any]) -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = config.get("RandomSeed")
    choices = {each["Name"]: each["Values"] for kind, each in _ranges(config) if "Values" in each}
    sampler: dict[str, Any] = {
        "Bayesian": lambda: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        "Random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "Grid": lambda: optuna.samplers.GridSampler(choices, seed=seed),
    }
    kind = config["HyperParameterTuningJobObjective"]["Type"]
    return optuna.create_study(direction=kind.lower(), sampler=sampler[config["Strategy"]]())


def _suggested(trial: "optuna.Trial", config: dict[str, Any]) -> dict[str, str]:
    """Values as the API has them: strings."""
    values: dict[str, str] = {}
    for kind, each in _ranges(config):
        name = each["Name"]
        log = each.get("ScalingType") == "Logarithmic"
        if kind == "Categorical":
            values[name] = str(trial.suggest_categorical(name, each["Values"]))
        elif kind == "Integer":
            low, high = int(each["MinValue"]), int(each["MaxValue"])
            values[name] = str(trial.suggest_int(name, low, high, log=log))
        else:
            low_, high_ = float(each["MinValue"]), float(each["MaxValue"])
            values[name] = json.dumps(trial.suggest_float(name, low_, high_, log=log))
    return values


def _failed() -> "optuna.trial.TrialState":
    from optuna.trial import TrialState

    return TrialState.FAIL
