"""Kubeflow Pipelines as Airflow sees it: asked over its REST API, found by a connection.

The SDK can't live beside Airflow, since its Kubernetes client is older than Airflow's. It is needed
to compile a pipeline, in an interpreter of its own, and for nothing else: a compiled pipeline is
plain data, and the API (v2beta1) is HTTP.
"""

import json
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
from airflow.sdk import Connection, ObjectStoragePath

from include import interpreters

CONNECTION = "kubeflow_default"
ACTIVE = ("RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "CANCELING", "PAUSED")
SILENT = 10.0
LAST_WORDS = 500

Run = dict[str, Any]


class Taken(ValueError):
    """There is a thing of this name already."""


@dataclass(frozen=True)
class Pipelines:
    """The server, and the token that it knows us by."""

    address: str
    token: str

    @classmethod
    def at(cls, conn_id: str = CONNECTION) -> "Pipelines":
        """The one behind a connection: host, port, `https` as schema, a token as password."""
        known = Connection.get(conn_id)
        port = f":{known.port}" if known.port else ""
        path = known.extra_dejson.get("path", "")  # where a gateway has it below an address
        address = f"{known.schema or 'http'}://{known.host}{port}/{path}".rstrip("/")
        return cls(address, known.password or "")

    def page(self, run_id: str) -> str:
        """Where people look at a run."""
        return f"{self.address}/#/runs/details/{run_id}"

    def experiment(self, name: str) -> str:
        """The id of the experiment of this name, which is made where there is none."""
        found = self._listed("experiments", "EQUALS", name)
        if not found:
            with suppress(Taken):  # a run for another date has made it just now
                self._call("POST", "experiments", json={"display_name": name})
            found = self._listed("experiments", "EQUALS", name)
        return str(found[0]["experiment_id"])

    def runs(self, experiment: str, name: str) -> list[Run]:
        """The runs with this in their names, newest first: KFP lets many have the same name."""
        return self._listed("runs", "IS_SUBSTRING", name, experiment_id=experiment)

    def start(self, run: Run) -> Run:
        """Have a run executed."""
        return self._call("POST", "runs", json=run)

    def run(self, run_id: str) -> Run:
        """What has become of a run."""
        return self._call("GET", f"runs/{run_id}")

    def put_away(self, run: Run) -> None:
        """End a run that still goes on, and move it to the archive, where its page stays."""
        if run["state"] in ACTIVE:
            try:
                self._call("POST", f"runs/{run['run_id']}:terminate")
            except ValueError:
                if self.run(run["run_id"])["state"] in ACTIVE:  # it may have ended by itself
                    raise
        self._call("POST", f"runs/{run['run_id']}:archive")

    def why(self, run: Run) -> str:
        """Why a run came to no good end: its server's own words, or the last ones of its steps.

        The API names the steps that failed, and not the reason; that is in their logs, which are
        there as long as their pods, or for good where the cluster archives logs.
        """
        told = [entry["error"]["message"] for entry in run["state_history"] if "error" in entry]
        for step in run.get("run_details", {}).get("task_details", []):
            if step.get("state") == "FAILED":
                logs = (self._log(run, pod["pod_name"]) for pod in step.get("child_tasks", []))
                told.append(": ".join([step["display_name"], *filter(None, logs)]))
        return "; ".join(told) or "its steps left no log"

    def _log(self, run: Run, pod: str) -> str:
        """The end of what a step printed; nothing where its log is gone."""
        text = self._ask("GET", f"/apis/v1alpha1/runs/{run['run_id']}/nodes/{pod}/log").text.strip()
        # An error comes as a document, under a status that says that all is well.
        return "" if text.startswith('{"error_message"') else text[-LAST_WORDS:]

    def _listed(self, kind: str, fits: str, name: str, **more: str) -> list[dict[str, Any]]:
        predicate = {"operation": fits, "key": "display_name", "string_value": name}
        asked = {"filter": json.dumps({"predicates": [predicate]}), "sort_by": "created_at desc"}
        found: list[dict[str, Any]] = self._call("GET", kind, params=asked | more).get(kind, [])
        return found

    def _call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._ask(method, f"/apis/v2beta1/{path}", **more).json()
        return answer

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            answer = httpx.request(
                method, self.address + path, headers=headers, timeout=SILENT, **more
            )
        except httpx.TransportError as error:
            raise ConnectionError(
                f"Kubeflow Pipelines does not answer at {self.address}: {error}. Look at the "
                f"Airflow connection {CONNECTION}."
            ) from None
        if answer.is_success:
            return answer
        raise _fault(answer)


def _fault(answer: httpx.Response) -> Exception:
    """What a refusal is to Airflow: something that passes, a lack of rights, or our mistake."""
    try:
        said = answer.json().get("message", "")
    except ValueError:
        said = answer.text[:LAST_WORDS]
    told = f"Kubeflow Pipelines answered {answer.status_code} to {answer.request.method} "
    told += f"{answer.request.url.path}: {said}"
    match answer.status_code:
        case HTTPStatus.TOO_MANY_REQUESTS:
            return ConnectionError(told)
        case HTTPStatus.NOT_IMPLEMENTED:
            return NotImplementedError(told)
        case code if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return ConnectionError(told)
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return PermissionError(f"{told}. The password of {CONNECTION} is the token.")
        case HTTPStatus.CONFLICT:
            return Taken(told)
        case HTTPStatus.NOT_FOUND:
            return LookupError(told)
        case _:
            return ValueError(told)


def compiled(module: str) -> bytes:
    """Have a module that defines a pipeline compile it, in the interpreter that has the SDK."""
    python = interpreters.interpreter("kubeflow")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pipeline.yaml"
        done = subprocess.run(
            [python, "-m", module, str(target)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ValueError(f"{module} does not compile: {done.stderr[-LAST_WORDS:].strip()}")
        return target.read_bytes()


def uri(reference: str) -> str:
    """An address as KFP writes it: no connection, no digest, and of a file here its path."""
    path = ObjectStoragePath(reference.partition("#")[0])
    return path.path if path.protocol in ("", "file", "local") else f"{path.protocol}://{path.path}"


def mounted(reference: str) -> str:
    """Where pods find it that mount the store at its own path: a folder, or a bucket's."""
    return "/" + ObjectStoragePath(reference.partition("#")[0]).path.strip("/")


def seconds(run: Run) -> dict[str, float]:
    """How long each step of a run took."""
    steps = run.get("run_details", {}).get("task_details", [])
    return {
        step["display_name"]: _moment(step["end_time"]) - _moment(step["start_time"])
        for step in steps
    }


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def output(root: ObjectStoragePath, run: Run, step: str, artifact: str) -> bytes:
    """What a step of a run wrote.

    KFP's API doesn't tell before 3.0. But a run may be told where its artifacts shall go, and what
    a step writes lies in a folder of its name there: <root>/<pipeline>/<run>/…/<step>/…/<artifact>.
    """
    root.fs.invalidate_cache()
    parts = [PurePosixPath(path).parts for path in root.fs.find(root.path)]
    found = [each for each in parts if {run["run_id"], step} <= {*each} and each[-1] == artifact]
    if len(found) != 1:
        raise FileNotFoundError(
            f"run {run['run_id']} should have left one {artifact} of {step} below {root}, "
            f"and there are {len(found)}: can Kubeflow and Airflow both reach that place?"
        )
    content: bytes = root.fs.cat_file(str(PurePosixPath(*found[0])))
    return content
