"""Runs: accepted, executed by a process of the environment that has kfp, and remembered."""

import json
import os
import shutil
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from include.local_cloud.jobs import WITH_PROJECT, Jobs
from include.local_cloud.kubeflow import specification, steps
from include.local_cloud.kubeflow.errors import INTERNAL, Refused, invalid, missing, texts
from include.local_cloud.kubeflow.listing import page
from include.local_cloud.server import Faults
from include.local_cloud.state import Table

PYTHON = "AIRFLOW_VAR_KUBEFLOW_PYTHON"
EXECUTE = Path(__file__).with_name("execute.py")
ACTIVE = ("PENDING", "RUNNING", "CANCELING", "PAUSED")
LONGEST_NAME = 128
KILLED = "the process that executed this run was ended from outside"
NEVER = "1970-01-01T00:00:00Z"
CLIENTS = ("experiment_id", "display_name", "description", "service_account", "plugins_input")


def now() -> str:
    """The time as the API writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Runs:
    """All runs of a server."""

    folder: Path
    faults: Faults
    versions: Table
    jobs: Jobs = field(default_factory=Jobs)
    closing: bool = False

    def __post_init__(self) -> None:
        """What a server that ended had left running, runs no more."""
        self.table = Table(self.folder / "runs")
        self.logs = self.folder / "logs"
        self.logs.mkdir(exist_ok=True)
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        for run in self.table.all():
            if run["state"] in ACTIVE:
                self._end(run["run_id"], "FAILED", KILLED)

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Accept a run, and have it executed."""
        if "plugins_output" in asked:
            raise invalid("plugins_output is server-owned")
        texts(asked, "display_name", "description", "service_account")
        if not 0 < len(asked.get("display_name") or "") <= LONGEST_NAME:
            raise invalid("The run name is empty or too long. Please specify a valid name")
        spec, source = self._specification(asked)
        config = asked.get("runtime_config") or {}
        texts(config, "pipeline_root")
        specification.check_arguments(spec, config.get("parameters") or {})
        if config.get("pipeline_root"):
            specification.check_root(config["pipeline_root"])
        run = {key: asked[key] for key in CLIENTS if asked.get(key)} | {
            **source,
            "run_id": str(uuid.uuid4()),
            "runtime_config": config,
            "storage_state": "AVAILABLE",
            "state": "PENDING",
            "state_history": [{"update_time": now(), "state": "PENDING"}],
            "created_at": now(),
            "scheduled_at": now(),
            "finished_at": NEVER,
        }
        doom = self.faults.of_job("CreateRun")
        self.table.put(run["run_id"], run)
        self.jobs.start(
            run["run_id"], lambda: self._execute(run, spec, doom.reason if doom else None)
        )
        return run

    def get(self, run_id: str) -> dict[str, Any]:
        """One of them, with what its tasks are at."""
        run = self.table.get(run_id)
        if run is None:
            raise missing("Run", run_id)
        return run | self._details(run)

    def listed(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Those that are asked for, all of them or those of one experiment."""
        wanted = asked.get("experiment_id")
        found = [run for run in self.table.all() if not wanted or run["experiment_id"] == wanted]
        found = [run | self._details(run) for run in found]
        return page(found, "runs", asked, default_sort="created_at")

    def store(self, run_id: str, storage_state: str) -> None:
        """Archive a run, or bring it back."""
        self.get(run_id)
        self.table.change(run_id, storage_state=storage_state)

    def terminate(self, run_id: str) -> None:
        """Stop a run that has not ended."""
        if self.get(run_id)["state"] not in ACTIVE:
            raise invalid(f"Failed to terminate a run {run_id}. Row not found")
        self.table.change(run_id, state="CANCELING")
        self.jobs.stop(run_id)

    def delete(self, run_id: str) -> None:
        """Forget a run; one that is being executed is stopped."""
        self.get(run_id)
        self.table.drop(run_id)
        self.jobs.stop(run_id)
        self._log(run_id).unlink(missing_ok=True)

    def log(self, run_id: str, node: str) -> str:
        """What a task printed; an error is told in the text, as its status has gone out before."""
        for step in self._steps(self.get(run_id)):
            if _pod(run_id, step) == node:
                return step.log
        return json.dumps({"error_message": f"Failed to read logs for run {run_id}"})

    def close(self) -> None:
        """End those that are executed; the next server finds them failed."""
        self.closing = True
        self.jobs.close()

    def _specification(self, asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is to be executed, and how the run says where that came from."""
        if asked.get("pipeline_spec"):
            given = asked["pipeline_spec"]
            return specification.check(given), {"pipeline_spec": given}
        named = asked.get("pipeline_version_reference") or {}
        version = self.versions.get(named.get("pipeline_version_id", ""))
        if version is None:
            raise invalid("Failed to parse the pipeline source: no specification and no version")
        return version["pipeline_spec"], {"pipeline_version_reference": named}

    def _execute(self, run: dict[str, Any], spec: dict[str, Any], doom: str | None) -> None:
        run_id, work = run["run_id"], self.folder / "work" / run["run_id"]
        if (self.table.get(run_id) or {}).get("state") != "PENDING":
            self._end(run_id, "CANCELED")
            return
        self._turn(run_id, "RUNNING")
        temporary = work / "tmp"
        temporary.mkdir(parents=True)
        (work / "pipeline.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
        config = run["runtime_config"]
        arguments = json.dumps(config.get("parameters") or {})
        (work / "arguments.json").write_text(arguments, encoding="utf-8")
        top = Path(config.get("pipeline_root") or self.folder / "artifacts")
        root = top / spec["pipelineInfo"]["name"] / run_id
        if doom is not None:
            self._log(run_id).write_text(_failed_at_once(spec, doom), encoding="utf-8")
            code = 1
        else:
            python = os.environ.get(PYTHON, sys.executable)
            inputs = [work / "pipeline.yaml", work / "arguments.json", root]
            command = [python, str(EXECUTE), *map(str, inputs)]
            env = {
                **WITH_PROJECT,
                "HOME": str(temporary),
                "PATH": os.pathsep.join([str(Path(python).parent), os.defpath]),
                "PIP_NO_INDEX": "1",  # what an image would have installed is installed
                "TMPDIR": str(temporary),
            }
            code = self.jobs.run(run_id, command, env, work, self._log(run_id))
        shutil.rmtree(work, ignore_errors=True)
        kept = self.table.get(run_id)
        if kept is None or self.closing:
            return
        if kept["state"] == "CANCELING":
            self._end(run_id, "CANCELED")
        elif code:
            self._end(run_id, "FAILED", KILLED if code < 0 else None)
        else:
            self._end(run_id, "SUCCEEDED")

    def _details(self, run: dict[str, Any]) -> dict[str, Any]:
        details = [
            {
                "run_id": run["run_id"],
                "task_id": str(uuid.uuid5(uuid.UUID(run["run_id"]), step.name)),
                "display_name": step.name,
                "create_time": run["created_at"],
                "start_time": _written(step.began),
                "end_time": _written(step.ended),
                "state": self._state(run, step),
                "child_tasks": [{"pod_name": _pod(run["run_id"], step)}],
            }
            for step in self._steps(run)
        ]
        return {"run_details": {"task_details": details}} if details else {}

    @staticmethod
    def _state(run: dict[str, Any], step: steps.Step) -> str:
        """A task that had no time to end, ended with its run."""
        over = run["state"] not in ACTIVE
        return str(run["state"]) if over and step.state == "RUNNING" else step.state

    def _steps(self, run: dict[str, Any]) -> list[steps.Step]:
        try:
            text = self._log(run["run_id"]).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return steps.read(text, datetime.fromisoformat(run["created_at"]))

    def _log(self, run_id: str) -> Path:
        return self.logs / f"{run_id}.log"

    def _turn(self, run_id: str, state: str, **more: Any) -> None:
        with suppress(Refused):  # it was deleted meanwhile
            history = self.get(run_id)["state_history"]
            entry = {"update_time": now(), "state": state}
            if "error" in more:
                entry["error"] = more.pop("error")
            self.table.change(run_id, state=state, state_history=[*history, entry], **more)

    def _end(self, run_id: str, state: str, why: str | None = None) -> None:
        error = {"error": {"code": INTERNAL, "message": why}} if why else {}
        self._turn(run_id, state, finished_at=now(), **error)


def _pod(run_id: str, step: steps.Step) -> str:
    return f"{step.name}-{run_id[:8]}"


def _written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _failed_at_once(spec: dict[str, Any], reason: str) -> str:
    """What is printed by a run whose first task ends with this reason."""
    tasks = spec["root"]["dag"]["tasks"]
    first = next(name for name, task in tasks.items() if not task.get("dependentTasks"))
    clock = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
    begun = f"{clock} - INFO - Executing task '{first}'"
    ended = f"{clock} - ERROR - Task '{first}' finished with status FAILURE"
    return f"{begun}\n    RuntimeError: {reason}\n{ended}\n"
