"""Pipelines: a definition in JSON, and executions that run its steps, side by side where they can.

Steps of type Processing and Training; parameters; references to parameters, to the execution and to
what earlier steps describe (`Get`), joined (`Std:Join`). Other kinds of steps are refused by name.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from include.local_cloud.sagemaker.account import Account, arn, now, page, shown
from include.local_cloud.sagemaker.protocol import Operation, Refused, invalid
from include.local_cloud.sagemaker.work import INTERNAL, Kind

RUNNING = ("Executing", "Stopping")
STEPS_AT_ONCE = 50
PART = re.compile(r"([^.\[\]]+)|\[['\"]?([^'\"\]]+)['\"]?\]")


class Pipelines:
    """What is defined, and what has been started of it."""

    def __init__(self, account: Account, kinds: Mapping[str, Kind]) -> None:
        """What was executing when the last process ended is over."""
        self.account, self.kinds = account, kinds
        self.table, self.executions = account.table("pipeline"), account.table("execution")
        self._lock = threading.Lock()
        for each in self.executions.all():
            if each["PipelineExecutionStatus"] in RUNNING:
                self._end(each["PipelineExecutionArn"], "Failed", INTERNAL)

    def operations(self) -> dict[str, Operation]:
        """What callers can ask."""
        return {
            "CreatePipeline": self.create,
            "DescribePipeline": lambda asked: shown(self.get(asked["PipelineName"])),
            "UpdatePipeline": self.update,
            "DeletePipeline": self.delete,
            "ListPipelines": self.summaries,
            "StartPipelineExecution": self.start,
            "DescribePipelineExecution": lambda asked: shown(self._execution(asked)),
            "StopPipelineExecution": self.stop,
            "ListPipelineExecutions": self.execution_summaries,
            "ListPipelineExecutionSteps": self.steps,
        }

    def get(self, name: str) -> dict[str, Any]:
        """A pipeline by its name or ARN."""
        found = self.table.get(name.rpartition("/")[2])
        if found is None:
            raise Refused("ResourceNotFound", f"Pipeline '{arn('pipeline', name)}' does not exist.")
        return found

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Keep a definition that can be executed."""
        name = asked["PipelineName"]
        self._checked(asked)
        moment = now()
        made = {
            "PipelineArn": arn("pipeline", name),
            "PipelineStatus": "Active",
            "CreationTime": moment,
            "LastModifiedTime": moment,
        }
        if not self.table.add(name, asked | made):
            raise invalid(
                "Pipeline names must be unique within an AWS account and region. Pipeline with "
                f"name ({name}) already exists."
            )
        return {"PipelineArn": made["PipelineArn"]}

    def update(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Replace a definition; what executes goes on by the old one."""
        found = self.get(asked["PipelineName"])
        if "PipelineDefinition" in asked:
            self._checked(asked)
        self.table.change(found["PipelineName"], **asked, LastModifiedTime=now())
        return {"PipelineArn": found["PipelineArn"]}

    def delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Take a pipeline away, and the record of its executions."""
        found = self.get(asked["PipelineName"])
        executions = self._of(found["PipelineName"])
        if any(each["PipelineExecutionStatus"] in RUNNING for each in executions):
            raise Refused("ConflictException", "Pipeline has executions that are not finished.")
        for each in executions:
            self.executions.drop(each["PipelineExecutionArn"])
        self.table.drop(found["PipelineName"])
        return {"PipelineArn": found["PipelineArn"]}

    def summaries(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Summaries, a page at a time."""
        fields = ("PipelineArn", "PipelineName", "RoleArn", "CreationTime", "LastModifiedTime")
        prefix = asked.get("PipelineNamePrefix", "")
        found = [
            {field: each[field] for field in fields}
            for each in self.table.all()
            if each["PipelineName"].startswith(prefix)
        ]
        return page(found, asked, "PipelineSummaries")

    def start(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Execute a pipeline; the same request again is the same execution."""
        pipeline = self.get(asked["PipelineName"])
        definition = json.loads(pipeline["PipelineDefinition"])
        given = {each["Name"]: each["Value"] for each in asked.get("PipelineParameters", [])}
        known = {each["Name"]: each for each in definition.get("Parameters", [])}
        if unknown := sorted(given.keys() - known.keys()):
            raise invalid(f"Unknown parameters: {unknown}")
        values = {name: each.get("DefaultValue") for name, each in known.items()} | given
        if missing := sorted(name for name, value in values.items() if value is None):
            raise invalid(f"Parameters {missing} have no value.")
        name, token = pipeline["PipelineName"], asked["ClientRequestToken"]
        number = hashlib.sha256(f"{pipeline['CreationTime']}{name}{token}".encode()).hexdigest()
        long = f"{pipeline['PipelineArn']}/execution/{number[:12]}"
        moment = now()
        begun = self.executions.add(
            long,
            {
                "PipelineArn": pipeline["PipelineArn"],
                "PipelineExecutionArn": long,
                "PipelineExecutionDisplayName": asked.get("PipelineExecutionDisplayName", name),
                "PipelineExecutionStatus": "Executing",
                "CreationTime": moment,
                "LastModifiedTime": moment,
                "_name": name,
                "_steps": [],
            },
        )
        if begun:
            self.table.change(name, LastRunTime=moment)
            steps = definition["Steps"]
            self.account.jobs.start(long, lambda: self._execute(long, steps, values))
        return {"PipelineExecutionArn": long}

    def stop(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Ask for the end of an execution and of its jobs."""
        found = self._execution(asked)
        if found["PipelineExecutionStatus"] != "Executing":
            raise invalid("Only pipelines with 'Executing' status can be stopped.")
        long = found["PipelineExecutionArn"]
        self.executions.change(long, PipelineExecutionStatus="Stopping")
        for step in found["_steps"]:
            kind, job = self.kinds[step["_type"]], step["_job"]
            if kind.get(job)[kind.status] == "InProgress":
                kind.stop({kind.name: job})
        return {"PipelineExecutionArn": long}

    def execution_summaries(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Summaries, a page at a time."""
        name = self.get(asked["PipelineName"])["PipelineName"]
        found = page(self._of(name), asked, "PipelineExecutionSummaries")
        fields = (
            "PipelineExecutionArn",
            "PipelineExecutionStatus",
            "PipelineExecutionDisplayName",
        )
        found["PipelineExecutionSummaries"] = [
            {field: each[field] for field in fields} | {"StartTime": each["CreationTime"]}
            for each in found["PipelineExecutionSummaries"]
        ]
        return found

    def steps(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What has begun of an execution, and what came of it."""
        steps = self._execution(asked)["_steps"]
        if asked.get("SortOrder", "Descending") == "Descending":
            steps = steps[::-1]
        return {"PipelineExecutionSteps": [shown(step) for step in steps]}

    def _of(self, name: str) -> list[dict[str, Any]]:
        return [each for each in self.executions.all() if each["_name"] == name]

    def _execution(self, asked: dict[str, Any]) -> dict[str, Any]:
        long = asked["PipelineExecutionArn"]
        found = self.executions.get(long)
        if found is None:
            raise Refused("ResourceNotFound", f"Pipeline execution '{long}' does not exist.")
        return found

    def _checked(self, asked: dict[str, Any]) -> None:
        try:
            steps = json.loads(asked["PipelineDefinition"])["Steps"]
            names = {step["Name"]: step["Type"] for step in steps}
        except (KeyError, TypeError, ValueError) as error:
            raise invalid(f"Unable to parse pipeline definition: {error!r}") from None
        for name, kind in names.items():
            if kind not in self.kinds:
                raise Refused("NotImplemented", f"step {name}: {kind} is not implemented here", 501)
        for step in steps:
            if unknown := _before(step) - names.keys():
                raise invalid(f"Step {step['Name']} depends on unknown steps: {sorted(unknown)}")
        waiting = {step["Name"]: _before(step) for step in steps}
        while ready := [name for name, before in waiting.items() if not before & waiting.keys()]:
            for name in ready:
                del waiting[name]
        if waiting:
            raise invalid(f"Steps depend on each other in a circle: {sorted(waiting)}")

    def _execute(self, long: str, steps: list[dict[str, Any]], values: dict[str, str]) -> None:
        """Run each step once those before it have succeeded."""
        execution = self.executions.get(long) or {}
        known: dict[str, Any] = {
            "Parameters": values,
            "Execution": {
                "PipelineExecutionId": long.rpartition("/")[2],
                "PipelineExecutionArn": long,
                "PipelineName": execution["_name"],
            },
            "Steps": {},
        }
        done: dict[str, Future[bool]] = {}
        order = sorted(steps, key=lambda step: step["Name"])

        def run(step: dict[str, Any]) -> bool:
            before = [done[name].result() for name in sorted(_before(step))]
            return all(before) and self._step(long, step, known)

        with ThreadPoolExecutor(STEPS_AT_ONCE) as workers:
            while len(done) < len(order):  # a step is submitted after those that it waits for
                for step in order:
                    if step["Name"] not in done and _before(step) <= done.keys():
                        done[step["Name"]] = workers.submit(run, step)
        failed = [name for name, result in done.items() if not result.result()]
        now_is = (self.executions.get(long) or {}).get("PipelineExecutionStatus")
        if self.account.closing.is_set():
            self._end(long, "Failed", INTERNAL)
        elif now_is == "Stopping":
            self._end(long, "Stopped")
        elif failed:
            self._end(long, "Failed", "Step failure: One or multiple steps failed.")
        else:
            self._end(long, "Succeeded")

    def _step(self, long: str, step: dict[str, Any], known: dict[str, Any]) -> bool:
        kind = self.kinds[step["Type"]]
        if (self.executions.get(long) or {})["PipelineExecutionStatus"] != "Executing":
            return False
        identity = known["Execution"]["PipelineExecutionId"]
        job = f"pipelines-{identity}-{step['Name']}"[:63].rstrip("-")
        asked = {key: text for key, text in step["Arguments"].items() if key != kind.name}
        begun = {
            "StepName": step["Name"],
            "StartTime": now(),
            "StepStatus": "Executing",
            "AttemptCount": 1,
            "Metadata": {kind.prefix: {"Arn": arn(kind.address, job)}},
            "_type": step["Type"],
            "_job": job,
        }
        try:
            kind.add(_resolved(asked, known) | {kind.name: job})
        except Refused as refused:
            self._note(long, begun | {"StepStatus": "Failed", "FailureReason": refused.message})
            return False
        self._note(long, begun)
        fault = self.account.faults.of_job(f"Create{kind.prefix}")
        made = kind.do(job, fault)
        known["Steps"][step["Name"]] = _by_name(made)
        ended = made[kind.status]
        status = {"Completed": "Succeeded"}.get(ended, ended)
        why = {"FailureReason": f"ClientError: {made.get('FailureReason', '')}"}
        more = why if status == "Failed" else {}
        self._note(long, begun | {"StepStatus": status, "EndTime": now(), **more})
        return bool(ended == "Completed")

    def _note(self, long: str, step: dict[str, Any]) -> None:
        with self._lock:
            steps = (self.executions.get(long) or {}).get("_steps", [])
            others = [each for each in steps if each["StepName"] != step["StepName"]]
            self.executions.change(long, _steps=[*others, step], LastModifiedTime=now())

    def _end(self, long: str, status: str, reason: str = "") -> None:
        more = {"FailureReason": reason} if reason else {}
        self.executions.change(long, PipelineExecutionStatus=status, LastModifiedTime=now(), **more)


def _before(step: dict[str, Any]) -> set[str]:
    """The steps that a step waits for: those that it names, and those that it refers to."""
    found = set(step.get("DependsOn", []))
    found.update(re.findall(r'"Get": "Steps\.([^.\[]+)', json.dumps(step.get("Arguments", {}))))
    return found


def _resolved(value: Any, known: dict[str, Any]) -> Any:
    """Arguments with what their references stand for."""
    if isinstance(value, list):
        return [_resolved(each, known) for each in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Get"}:
        return _found(value["Get"], known)
    if set(value) == {"Std:Join"}:
        parts = _resolved(value["Std:Join"]["Values"], known)
        return value["Std:Join"]["On"].join(map(str, parts))
    return {key: _resolved(each, known) for key, each in value.items()}


def _found(path: str, known: dict[str, Any]) -> Any:
    place: Any = known
    for name, index in PART.findall(path):
        key = name or index
        if not isinstance(place, dict) or key not in place:
            raise invalid(f"The reference {path} leads to nothing.")
        place = place[key]
    return place


def _by_name(job: dict[str, Any]) -> dict[str, Any]:
    """A description in which outputs are found by their names, as references do it."""
    outputs = job.get("ProcessingOutputConfig", {}).get("Outputs", [])
    named = {each["OutputName"]: each for each in outputs}
    return job | {"ProcessingOutputConfig": {"Outputs": named}} if outputs else job
