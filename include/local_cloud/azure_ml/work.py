"""Command jobs: a node of the compute, the code and the data on it, the command, what it left."""

import re
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from include.local_cloud.azure_ml.identity import Identity
from include.local_cloud.azure_ml.kinds import (
    ANY_TEXT,
    OBJECT,
    SWITCH,
    TEXT,
    TEXTS,
    VALUES,
    check,
)
from include.local_cloud.azure_ml.protocol import (
    GROUP,
    SCOPE,
    SUBSCRIPTION,
    WORKSPACE,
    Refused,
    Reply,
    Request,
    Route,
    missing,
    named,
)
from include.local_cloud.azure_ml.workspace import (
    ASSET_NAME,
    Workspace,
    blob_of,
    outputs,
    resource,
)
from include.local_cloud.jobs import Jobs, last_words
from include.local_cloud.server import Faults
from include.local_cloud.state import Table

ENDED = ("Completed", "Failed", "Canceled")
LOG = "user_logs/std_log.txt"
LOST = "The node was lost while the job ran. This is an error of the service: submit it again."
LOOK_SECONDS = 0.1
BAD = "UserError"
NEEDED = {"command": TEXT, "computeId": TEXT}
KNOWN = {
    "codeId": ANY_TEXT,
    "description": ANY_TEXT,
    "displayName": ANY_TEXT,
    "environmentVariables": TEXTS,
    "experimentName": TEXT,
    "inputs": OBJECT,
    "isArchived": SWITCH,
    "outputs": OBJECT,
    "properties": VALUES,
    "tags": TEXTS,
}


@dataclass(frozen=True)
class Work:
    """The jobs of the workspace."""

    workspace: Workspace
    identity: Identity
    faults: Faults
    jobs: Jobs
    table: Table
    folder: Path
    python: Path
    """The interpreter that stands for every environment's image."""
    env: Mapping[str, str]
    """What a node has: whom to trust, and how many threads to start."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _closed: threading.Event = field(default_factory=threading.Event)

    def routes(self) -> list[Route]:
        """Submit, look at, cancel; and run history, where a failure has its reason."""
        job = f"{SCOPE}/jobs/{{name}}"
        return [
            Route("PUT", job, "Jobs_CreateOrUpdate", self._put),
            Route("GET", job, "Jobs_Get", self._get),
            Route("GET", f"{SCOPE}/jobs", "Jobs_List", self._list),
            Route("POST", f"{job}/cancel", "Jobs_Cancel", self._cancel),
            Route(
                "GET", f"/history/v1.0{SCOPE}/runs/{{name}}/details", "Runs_Details", self._details
            ),
        ]

    def recover(self) -> None:
        """What ran when the platform stopped runs no more: say so as the service would."""
        for job in self.table.all():
            if job["properties"]["status"] not in ENDED:
                self._end(job["name"], "Failed", "ServiceError", LOST)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def close(self) -> None:
        """End the jobs; each says that it was lost."""
        self._closed.set()
        self.jobs.close()

    def running(self) -> list[str]:
        """The names of the jobs that have not ended."""
        return [job["name"] for job in self.table.all() if job["properties"]["status"] not in ENDED]

    def _found(self, name: str) -> dict[str, Any]:
        job = self.table.get(name)
        if job is None:
            raise missing("job", name)
        return job

    def _get(self, request: Request, name: str) -> Reply:
        return Reply(self._shown(self._found(name)))

    def _list(self, request: Request) -> Reply:
        return Reply({"value": [self._shown(job) for job in self.table.all()]})

    def _put(self, request: Request, name: str) -> Reply:
        named("a job", name, ASSET_NAME)
        given = request.json().get("properties", {})
        if given.get("jobType") != "Command":
            kind = given.get("jobType")
            raise Refused(501, "NotImplemented", f"The local Azure ML has no jobs of type {kind}.")
        check(BAD, given, NEEDED, KNOWN)
        for each in (given.get("inputs") or {}).values():
            check(BAD, each, {"jobInputType": TEXT}, {"uri": TEXT})
        self.workspace.compute(given["computeId"])
        code = self.workspace.asset("codes", given["codeId"]) if given.get("codeId") else None
        code_uri = code["properties"]["codeUri"] if code else None
        defaults = {"experimentName": "Default", "tags": {}, "properties": {}}
        properties = defaults | {key: value for key, value in given.items() if value is not None}
        job = resource(f"jobs/{name}", properties | {"status": "Queued"}, code=code_uri)
        if not self.table.add(name, job):
            known = self._found(name)
            same = all(known["properties"].get(each) == given.get(each) for each in ("command",))
            if not same:
                raise Refused(409, "UserError", f"A job with the name '{name}' already exists.")
            shown = {
                key: given[key] for key in ("tags", "displayName", "isArchived") if key in given
            }
            changed = self.table.change(name, properties=known["properties"] | shown)
            return Reply(self._shown(changed or known))
        title = str(properties.get("displayName") or name)
        self.workspace.tracking.begin(name, properties["experimentName"], title, {})
        self.jobs.start(name, lambda: self._work(name))
        return Reply(self._shown(job), 201)

    def _cancel(self, request: Request, name: str) -> Reply:
        job = self._found(name)
        if job["properties"]["status"] in ENDED:
            told = f"The job '{name}' has ended already and can't be canceled."
            raise Refused(400, "UserError", told)
        self._move(name, "CancelRequested", "Queued", "Preparing", "Running")
        self.jobs.stop(name)
        return Reply(status=202)

    def _details(self, request: Request, name: str) -> Reply:
        job = self._found(name)
        log = f"{outputs(name)}/{LOG}"
        blobs = self.workspace.blobs
        return Reply({
            "runId": name,
            "status": job["properties"]["status"],
            "error": job.get("error"),
            "logFiles": {LOG: blobs.url(log)} if blobs.below(log) else {},
        })

    def _shown(self, job: dict[str, Any]) -> dict[str, Any]:
        services = {
            "Tracking": {
                "jobServiceType": "Tracking",
                "endpoint": self.workspace.tracking.uri(),
                "port": 443,
            },
            "Studio": {
                "jobServiceType": "Studio",
                "endpoint": f"https://ml.azure.com/runs/{job['name']}?wsid={SCOPE}",
                "port": 443,
            },
        }
        shown = {key: job[key] for key in ("id", "name", "type", "systemData")}
        return shown | {"properties": job["properties"] | {"services": services}}

    def _move(self, name: str, after: str, *before: str) -> bool:
        """Change a job's status, if it is one of those; somebody else may have changed it."""
        with self._lock:
            properties = self._found(name)["properties"]
            if properties["status"] not in before:
                return False
            self.table.change(name, properties=properties | {"status": after})
            return True

    def _end(self, name: str, status: str, code: str = "", message: str = "") -> None:
        error = {"error": {"code": code, "message": message}} if message else None
        self.table.change(name, error=error)
        known = {"Completed": "FINISHED", "Canceled": "KILLED"}
        self.workspace.tracking.end(name, known.get(status, "FAILED"))
        with self._lock:
            properties = self._found(name)["properties"]
            self.table.change(name, properties=properties | {"status": status})

    def _work(self, name: str) -> None:
        """A job from its node to its end, whatever comes between."""
        folder = Path(mkdtemp(prefix="job-", dir=self.folder))
        try:
            if self._wait_for_node(name):
                self._run(name, folder)
        except Refused as refused:
            self._end(name, "Failed", "UserError", refused.message)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if self._found(name)["properties"]["status"] not in ENDED:
                self._stopped(name)

    def _stopped(self, name: str) -> None:
        if self._closed.is_set():
            self._end(name, "Failed", "ServiceError", LOST)
        else:
            self._end(name, "Canceled")

    def _wait_for_node(self, name: str) -> bool:
        """Wait until the compute has a node to spare; False where the job is wanted no more."""
        while not self._closed.is_set():
            with self._lock:
                properties = self._found(name)["properties"]
                if properties["status"] != "Queued":
                    return False
                compute = self.workspace.compute(properties["computeId"])
                scale = compute["properties"]["properties"].get("scaleSettings") or {}
                if len(self.workspace.busy(compute["name"])) < scale.get("maxNodeCount", 1):
                    return self._move(name, "Preparing", "Queued")
            self._closed.wait(LOOK_SECONDS)
        return False

    def _run(self, name: str, folder: Path) -> None:
        job, blobs = self._found(name), self.workspace.blobs
        properties = job["properties"]
        code, log = folder / "code", folder / "std_log.txt"
        (code / "outputs").mkdir(parents=True)
        if job["code"]:
            blobs.fetch(blob_of(job["code"]), code)
        command = self._filled(properties["command"], properties.get("inputs") or {}, folder)
        if not self._move(name, "Running", "Preparing"):
            return  # somebody canceled it
        status = self.jobs.run(
            name, ["bash", "-c", command], self._environment(name, properties), code, log
        )
        compute = self.workspace.compute(properties["computeId"])["name"]
        used = len(self.workspace.busy(compute))
        self.workspace.computes.change(compute, used=used, at=time.time())
        if log.exists():
            blobs.put(f"{outputs(name)}/{LOG}", log.read_bytes())
        if self._found(name)["properties"]["status"] != "Running":
            return  # somebody canceled it
        if status < 0:
            self._end(name, "Failed", "ServiceError", LOST)
            return
        blobs.keep(code / "outputs", f"{outputs(name)}/outputs")
        fault = self.faults.of_job("Jobs_CreateOrUpdate")
        if status == 0 and fault is None:
            self._end(name, "Completed")
        elif fault:
            self._end(name, "Failed", "UserError", fault.reason)
        else:
            told = (
                f"Execution failed. User process 'bash' exited with status code {status}. Please "
                f"check log file '{LOG}' for error details. Error: {last_words(log)}"
            )
            self._end(name, "Failed", "UserError", told)

    def _filled(self, command: str, inputs: dict[str, Any], folder: Path) -> str:
        """The command with its inputs in it: literals as they are, data as a path on the node."""

        def value(found: re.Match[str]) -> str:
            given = inputs.get(found[1])
            if given is None:
                raise Refused(400, "UserError", f"The command names an unknown input: {found[0]}")
            if given["jobInputType"] == "literal":
                return str(given["value"])
            return str(self.workspace.blobs.fetch(blob_of(given["uri"]), folder / found[1]))

        return re.sub(r"\$\{\{\s*inputs\.(\w+)\s*\}\}", value, command)

    def _environment(self, name: str, properties: dict[str, Any]) -> dict[str, str]:
        """What a job finds in its environment, at the vendor as here."""
        tracking = self.workspace.tracking
        return {
            **self.env,
            **(properties.get("environmentVariables") or {}),
            "PATH": f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin",
            "AZUREML_RUN_ID": name,
            "AZUREML_ARM_SUBSCRIPTION": SUBSCRIPTION,
            "AZUREML_ARM_RESOURCEGROUP": GROUP,
            "AZUREML_ARM_WORKSPACE_NAME": WORKSPACE,
            "MLFLOW_TRACKING_URI": tracking.uri(),
            "MLFLOW_TRACKING_TOKEN": self.identity.token(),
            "MLFLOW_RUN_ID": name,
            "MLFLOW_EXPERIMENT_NAME": properties["experimentName"],
            "MLFLOW_EXPERIMENT_ID": tracking.experiment(properties["experimentName"]),
        }
