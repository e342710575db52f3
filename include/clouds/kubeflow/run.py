"""A run of Kubeflow Pipelines as a task: started or found, waited for, and taken in."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import PurePath
from typing import Any

import yaml
from airflow.sdk import BaseOperator, ObjectStoragePath
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from include import runs, storage
from include.clouds.kubeflow.api import ACTIVE, CONNECTION, Pipelines, Run, output, uri

LONGEST = timedelta(hours=1)
POLL_SECONDS = 1.0
PATIENCE = 5  # questions in a row that may stay unanswered while a run is watched


class PipelineRun(BaseOperator):
    """Start a run of a compiled pipeline, or find the one that is there, and leave the worker.

    The name of the run follows from DAG, date, pipeline and arguments. So a task that comes back
    finds its own run, whatever it was doing when it was lost; and where that has ended well
    already, what it left is taken.
    """

    template_fields: Sequence[str] = ("specification", "arguments", "description")

    def __init__(
        self,
        *,
        specification: str,
        arguments: dict[str, Any],
        outputs: Mapping[str, tuple[str, str]],
        description: str = "",
        conn_id: str = CONNECTION,
        **kwargs: Any,
    ):
        """Run a specification, and keep of its outputs, by file name, what a step has written."""
        super().__init__(**kwargs)
        self.specification = specification
        self.arguments = arguments
        self.outputs = outputs
        self.description = description
        self.conn_id = conn_id

    def execute(self, context: Any) -> dict[str, str]:
        """Have the run executed, and wait in the triggerer unless it has ended."""
        server = Pipelines.at(self.conn_id)
        experiment = server.experiment(runs.here().dag_id)
        work = runs.digest(f"{self.specification} {sorted(self.arguments.items())}".encode())
        name = f"{_prefix()} {work}"
        run = next(iter(server.runs(experiment, name)), None)
        if run is None or not self._serves(run):
            run = server.start({
                "experiment_id": experiment,
                "display_name": name,
                "description": self.description,
                "pipeline_spec": yaml.safe_load(storage.read_bytes(self.specification)),
                "runtime_config": {
                    "pipeline_root": uri(str(self._root())),
                    "parameters": self.arguments,
                },
            })
        context["ti"].xcom_push("kubeflow_run", server.page(run["run_id"]))
        if run["state"] not in ACTIVE:
            return self.resume(context, {"run_id": run["run_id"]})
        trigger = RunTrigger(run["run_id"], self.conn_id, POLL_SECONDS)
        self.defer(trigger=trigger, method_name="resume", timeout=LONGEST)

    def resume(self, context: Any, event: dict[str, str]) -> dict[str, str]:
        """Take what the run has left, or say why it left nothing."""
        server = Pipelines.at(self.conn_id)
        run = server.run(event["run_id"])
        if run["state"] in ACTIVE:
            raise ConnectionError(f"nobody could be asked what became of {run['display_name']}")
        if run["state"] != "SUCCEEDED":
            page = server.page(run["run_id"])
            raise ValueError(f"Kubeflow's run {page} is {run['state']}: {server.why(run)}")
        taken = {"run": run["run_id"]}
        for name, place in self.outputs.items():
            content = output(self._root(), run, *place)
            taken[PurePath(name).stem] = storage.write_bytes(content, name)
        return taken

    def _serves(self, run: Run) -> bool:
        """Whether a run goes on, or has ended well and what it wrote is still there."""
        try:
            return run["state"] in ACTIVE or (
                run["state"] == "SUCCEEDED"
                and all(output(self._root(), run, *place) for place in self.outputs.values())
            )
        except FileNotFoundError:
            return False

    def _root(self) -> ObjectStoragePath:
        """Where Kubeflow puts what it makes, beside what we do, under names of its own."""
        here = runs.here()
        return storage.store() / here.dag_id / "kubeflow" / here.key


class RunTrigger(BaseTrigger):
    """Wakes its task when a run has ended. The task looks for itself how."""

    def __init__(self, run_id: str, conn_id: str = CONNECTION, poll_seconds: float = 1.0):
        """Watch this run, looking every so many seconds."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.run_id = run_id
        self.conn_id = conn_id
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """All that another triggerer needs to go on."""
        return f"{__name__}.{type(self).__name__}", {
            "run_id": self.run_id,
            "conn_id": self.conn_id,
            "poll_seconds": self.poll_seconds,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask, sleep, ask; a server that is away for a moment is no reason to wake anybody."""
        pipelines, unanswered = await sync_to_async(Pipelines.at)(self.conn_id), 0
        while unanswered < PATIENCE:
            try:
                run = await asyncio.to_thread(pipelines.run, self.run_id)
            except ConnectionError as error:
                unanswered += 1
                self.log.warning("%s", error)
            except (LookupError, PermissionError, ValueError):
                break  # the task will meet the same, and say so
            else:
                unanswered = 0
                if run["state"] not in ACTIVE:
                    break
            await asyncio.sleep(self.poll_seconds * 2**unanswered)
        yield TriggerEvent({"run_id": self.run_id})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Somebody cleared the waiting task or marked it: the run must not go on without it."""
        pipelines = await sync_to_async(Pipelines.at)(self.conn_id)
        run = await asyncio.to_thread(pipelines.run, self.run_id)
        await asyncio.to_thread(pipelines.put_away, run)


def put_away(conn_id: str = CONNECTION) -> None:
    """End and archive every run that was started for this one; its page stays."""
    server = Pipelines.at(conn_id)
    for run in server.runs(server.experiment(runs.here().dag_id), _prefix()):
        if run["storage_state"] != "ARCHIVED":
            server.put_away(run)


def _prefix() -> str:
    here = runs.here()
    return f"{here.dag_id[:60]} {here.key[:40]}"
