"""The workspace's MLflow address: experiments and runs, for who logs and for who reads."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from include.local_cloud.azure_ml.kinds import (
    ANY_TEXT,
    MEASURE,
    TEXT,
    WHOLE,
    check,
    checked_list,
)
from include.local_cloud.azure_ml.protocol import SCOPE, Refused, Reply, Request, Route
from include.local_cloud.state import Table

Run = dict[str, Any]
BAD = "INVALID_PARAMETER_VALUE"
LABEL = {"key": TEXT, "value": ANY_TEXT}  # a parameter or a tag
POINT = {"key": TEXT, "value": MEASURE}
OF_POINT = {"timestamp": WHOLE, "step": WHOLE}


@dataclass(frozen=True)
class Tracking:
    """Runs by their ids; the run of a job has the job's name."""

    base: str
    experiments: Table
    runs: Table
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def routes(self) -> list[Route]:
        """MLflow's REST API, below the address that the workspace names."""
        calls = {
            ("GET", "experiments/get-by-name"): self._experiment,
            ("GET", "experiments/get"): self._experiment,
            ("POST", "experiments/create"): self._create_experiment,
            ("POST", "experiments/search"): self._search_experiments,
            ("POST", "runs/create"): self._create_run,
            ("GET", "runs/get"): self._run,
            ("POST", "runs/update"): self._update_run,
            ("POST", "runs/search"): self._search_runs,
            ("POST", "runs/log-batch"): self._log_batch,
            ("POST", "runs/log-metric"): self._log_metric,
            ("POST", "runs/log-parameter"): self._log_parameter,
            ("POST", "runs/set-tag"): self._set_tag,
            ("GET", "metrics/get-history"): self._history,
        }
        return [
            Route(
                method, f"/mlflow/v[12].0{SCOPE}/api/2.0/mlflow/{call}", f"Mlflow_{call}", handler
            )
            for (method, call), handler in calls.items()
        ]

    def uri(self) -> str:
        """The address as clients are given it: its scheme makes them load azureml-mlflow."""
        return f"{self.base.replace('https', 'azureml')}/mlflow/v1.0{SCOPE}"

    def experiment(self, name: str) -> str:
        """The id of the experiment of that name, which is made if it must."""
        with self._lock:
            for known in self.experiments.all():
                if known["name"] == name:
                    return str(known["experiment_id"])
            identifier = str(uuid4())
            made = {
                "experiment_id": identifier,
                "name": name,
                "artifact_location": "",
                "lifecycle_stage": "active",
            }
            self.experiments.put(identifier, made)
            return identifier

    def begin(self, run_id: str, experiment: str, name: str, tags: Mapping[str, str]) -> Run:
        """A run that starts now."""
        info = {
            "run_id": run_id,
            "run_uuid": run_id,
            "run_name": name,
            "experiment_id": self.experiment(experiment),
            "status": "RUNNING",
            "start_time": _now(),
            "lifecycle_stage": "active",
            "artifact_uri": f"{self.uri()}/experiments/{experiment}/runs/{run_id}/artifacts",
        }
        return self.runs.put(
            run_id, {"info": info, "metrics": [], "params": {}, "tags": dict(tags)}
        )

    def end(self, run_id: str, status: str) -> None:
        """A run whose job has ended."""
        with self._lock:
            run = self._found(run_id)
            run["info"] |= {"status": status, "end_time": _now()}
            self.runs.put(run_id, run)

    def _found(self, run_id: str) -> Run:
        run = self.runs.get(run_id)
        if run is None:
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"Run '{run_id}' not found")
        return run

    def _experiment(self, request: Request) -> Reply:
        name, wanted = request.query.get("experiment_name"), request.query.get("experiment_id")
        for known in self.experiments.all():
            if name == known["name"] or wanted == known["experiment_id"]:
                return Reply({"experiment": known})
        told = f"Could not find experiment '{name or wanted}'"
        raise Refused(404, "RESOURCE_DOES_NOT_EXIST", told)

    def _create_experiment(self, request: Request) -> Reply:
        return Reply({"experiment_id": self.experiment(_wanted(request.json(), "name"))})

    def _search_experiments(self, request: Request) -> Reply:
        _no_filter(request.json())
        return Reply({"experiments": self.experiments.all()})

    def _create_run(self, request: Request) -> Reply:
        body = request.json()
        experiment = self.experiments.get(_wanted(body, "experiment_id"))
        if experiment is None:
            told = f"No experiment with id {body['experiment_id']} exists"
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST", told)
        check(BAD, body, {}, {"run_name": ANY_TEXT})
        given = checked_list(BAD, body.get("tags"), LABEL, {})
        run_id, tags = str(uuid4()), {tag["key"]: tag["value"] for tag in given}
        made = self.begin(run_id, experiment["name"], body.get("run_name") or run_id, tags)
        return Reply({"run": _shown(made)})

    def _run(self, request: Request) -> Reply:
        return Reply({"run": _shown(self._found(request.query.get("run_id", "")))})

    def _update_run(self, request: Request) -> Reply:
        body = request.json()
        check(BAD, body, {}, {"status": TEXT, "end_time": WHOLE, "run_name": ANY_TEXT})
        with self._lock:
            run = self._found(_wanted(body, "run_id"))
            changes = {key: body[key] for key in ("status", "end_time", "run_name") if key in body}
            run["info"] |= changes
            self.runs.put(body["run_id"], run)
        return Reply({"run_info": run["info"]})

    def _search_runs(self, request: Request) -> Reply:
        body = request.json()
        _no_filter(body)
        experiments = body.get("experiment_ids") or []
        if not isinstance(experiments, list):
            raise Refused(400, BAD, "'experiment_ids' must be a list")
        found = [run for run in self.runs.all() if run["info"]["experiment_id"] in experiments]
        return Reply({"runs": [_shown(run) for run in found]})

    def _log_batch(self, request: Request) -> Reply:
        body = request.json()
        return self._log(body, body.get("metrics"), body.get("params"), body.get("tags"))

    def _log_metric(self, request: Request) -> Reply:
        body = request.json()
        point: dict[str, Any] = {
            key: body[key] for key in ("key", "value", "timestamp", "step") if key in body
        }
        return self._log(body, [point], [], [])

    def _log_parameter(self, request: Request) -> Reply:
        return self._log(request.json(), [], [request.json()], [])

    def _set_tag(self, request: Request) -> Reply:
        return self._log(request.json(), [], [], [request.json()])

    def _log(
        self,
        body: dict[str, Any],
        metrics: Any,
        params: Any,
        tags: Any,
    ) -> Reply:
        """Keep them all, or nothing of it where one is not what MLflow takes."""
        metrics = checked_list(BAD, metrics, POINT, OF_POINT)
        params, tags = (checked_list(BAD, each, LABEL, {}) for each in (params, tags))
        with self._lock:
            run = self._found(_wanted(body, "run_id"))
            for param in params:
                known = run["params"].setdefault(param["key"], param["value"])
                if known != param["value"]:
                    told = f"Param '{param['key']}' was already logged with value '{known}'"
                    raise Refused(400, BAD, told)
            run["metrics"] += [point for point in metrics if point not in run["metrics"]]
            run["tags"] |= {tag["key"]: tag["value"] for tag in tags}
            self.runs.put(body["run_id"], run)
        return Reply({})

    def _history(self, request: Request) -> Reply:
        run, wanted = self._found(request.query.get("run_id", "")), request.query.get("metric_key")
        return Reply({"metrics": [point for point in run["metrics"] if point["key"] == wanted]})


def _now() -> int:
    return int(time.time() * 1000)


def _wanted(body: dict[str, Any], name: str) -> str:
    if not isinstance(body.get(name), str):
        raise Refused(400, BAD, f"Missing value for required '{name}'")
    return str(body[name])


def _no_filter(body: dict[str, Any]) -> None:
    if body.get("filter"):
        raise Refused(501, "NOT_IMPLEMENTED", "The local MLflow does not implement filters.")


def _shown(run: Run) -> dict[str, Any]:
    """A run as MLflow gives it: of each metric the last point."""
    last = {point["key"]: point for point in run["metrics"]}
    return {
        "info": run["info"],
        "data": {
            "metrics": list(last.values()),
            "params": [{"key": key, "value": value} for key, value in run["params"].items()],
            "tags": [{"key": key, "value": value} for key, value in run["tags"].items()],
        },
    }
