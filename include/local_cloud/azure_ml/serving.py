"""Online endpoints: deployments that answer from registered models, and who of them is asked."""

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request as Call
from urllib.request import urlopen

from include.local_cloud.azure_ml.identity import Identity
from include.local_cloud.azure_ml.kinds import (
    ANY_TEXT,
    OBJECT,
    TEXT,
    TEXTS,
    VALUES,
    WHOLE,
    check,
)
from include.local_cloud.azure_ml.protocol import (
    LOCATION,
    SCOPE,
    Refused,
    Reply,
    Request,
    Route,
    missing,
    named,
)
from include.local_cloud.azure_ml.workspace import Workspace, blob_of, resource
from include.local_cloud.jobs import Jobs, last_words
from include.local_cloud.server import HOST
from include.local_cloud.state import Table

NAME = r"[a-z][a-z0-9-]{1,30}[a-z0-9]"
SCORE = Path(__file__).with_name("score.py")
SPREAD = 37  # has no factor in common with 100: each hundred calls are dealt out by the percents
LOOK_SECONDS = 0.1
BAD = "BadArgument"
OPERATIONS = (
    SCOPE.partition("/resourceGroups")[0]
    + f"/providers/Microsoft.MachineLearningServices/locations/{LOCATION}/mfeOperationsStatus"
)


@dataclass
class Live:
    """A deployment's process."""

    name: str
    """Of its job; each new one has another."""
    port: int = 0
    wanted: bool = True
    token: str = field(default_factory=secrets.token_urlsafe)


@dataclass(frozen=True)
class Serving:
    """The endpoints and what stands behind them."""

    workspace: Workspace
    identity: Identity
    jobs: Jobs
    endpoints: Table
    deployments: Table
    folder: Path
    python: Path
    env: Mapping[str, str]
    _live: dict[str, Live] = field(default_factory=dict)
    _asked: dict[str, "count[int]"] = field(default_factory=dict)
    _started: "count[int]" = field(default_factory=count)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def routes(self) -> list[Route]:
        """Endpoints, deployments, their keys and logs, how far an operation is, and scoring."""
        endpoint = f"{SCOPE}/onlineEndpoints/{{name}}"
        deployment = f"{endpoint}/deployments/{{color}}"
        ends, deploys = "OnlineEndpoints", "OnlineDeployments"
        return [
            Route("GET", f"{SCOPE}/onlineEndpoints", f"{ends}_List", self._list),
            Route("GET", endpoint, f"{ends}_Get", self._get),
            Route("PUT", endpoint, f"{ends}_CreateOrUpdate", self._put),
            Route("DELETE", endpoint, f"{ends}_Delete", self._delete),
            Route("POST", f"{endpoint}/listKeys", f"{ends}_ListKeys", self._keys),
            Route("GET", f"{endpoint}/deployments", f"{deploys}_List", self._deployed),
            Route("GET", deployment, f"{deploys}_Get", self._deployment),
            Route("PUT", deployment, f"{deploys}_CreateOrUpdate", self._deploy),
            Route("DELETE", deployment, f"{deploys}_Delete", self._undeploy),
            Route("POST", f"{deployment}/getLogs", f"{deploys}_GetLogs", self._logs),
            Route("GET", f"{OPERATIONS}/{{name}}/{{color}}", "Operations_Get", self._operation),
            Route("POST", "/endpoint/{name}/score", "Score", self._score, open=True),
        ]

    def recover(self) -> None:
        """Start again what stood behind the endpoints when the platform stopped."""
        for deployment in self.deployments.all():
            self._start(*deployment["key"])

    def close(self) -> None:
        """Let no deployment be started again: their processes end with the jobs."""
        for live in list(self._live.values()):
            live.wanted = False

    def _found(self, name: str) -> dict[str, Any]:
        found = self.endpoints.get(name)
        if found is None:
            raise missing("online endpoint", name)
        return found

    def _found_deployment(self, name: str, color: str) -> dict[str, Any]:
        found = self.deployments.get(f"{name}/{color}")
        if found is None:
            raise missing("deployment", f"{name}/{color}")
        return found

    def _behind(self, name: str) -> list[str]:
        return [each["name"] for each in self.deployments.all() if each["key"][0] == name]

    def _list(self, request: Request) -> Reply:
        return Reply({"value": [self._shown(each) for each in self.endpoints.all()]})

    def _get(self, request: Request, name: str) -> Reply:
        return Reply(self._shown(self._found(name)))

    def _put(self, request: Request, name: str) -> Reply:
        body, known = request.json(), self.endpoints.get(name)
        given = body.get("properties", {})
        check(BAD, body, {}, {"tags": TEXTS, "identity": OBJECT, "kind": TEXT})
        about = {"description": ANY_TEXT, "properties": VALUES, "authMode": TEXT}
        check(BAD, given, {}, about | {"traffic": OBJECT, "mirrorTraffic": OBJECT})
        shares = given.get("traffic") or {}
        check(BAD, shares, {}, dict.fromkeys(shares, WHOLE))
        if not all(0 <= (share or 0) <= 100 for share in shares.values()):
            raise Refused(400, BAD, f"Traffic is shared in percents from 0 to 100: {shares}")
        traffic = {color: share for color, share in shares.items() if share}
        if strangers := traffic.keys() - set(self._behind(named("an endpoint", name, NAME))):
            raise Refused(400, "BadArgument", f"There is no deployment {', '.join(strangers)}.")
        if sum(traffic.values()) not in (0, 100):
            raise Refused(400, "BadArgument", f"Traffic must sum to 0 or 100: {traffic}")
        properties = given | {"traffic": traffic, "provisioningState": "Succeeded"}
        kept = resource(f"onlineEndpoints/{name}", properties, location=LOCATION)
        more = {key: body[key] for key in ("identity", "tags", "kind") if body.get(key)}
        return Reply(self._shown(self.endpoints.put(name, kept | more)), 200 if known else 201)

    def _shown(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        score = f"{self.identity.base}/endpoint/{endpoint['name']}/score"
        properties = endpoint["properties"] | {"scoringUri": score}
        return endpoint | {"properties": properties}

    def _delete(self, request: Request, name: str) -> Reply:
        for color in self._behind(name):
            self._stop(name, color)
        self._asked.pop(name, None)
        return Reply(status=200 if self.endpoints.drop(name) else 204)

    def _keys(self, request: Request, name: str) -> Reply:
        self._found(name)
        return Reply({"primaryKey": self._key(name), "secondaryKey": self._key(name)})

    def _key(self, name: str) -> str:
        return f"{name}.{self.workspace.blobs.signature}"

    def _deployed(self, request: Request, name: str) -> Reply:
        self._found(name)
        return Reply({"value": [self._found_deployment(name, each) for each in self._behind(name)]})

    def _deployment(self, request: Request, name: str, color: str) -> Reply:
        return Reply(self._found_deployment(name, color))

    def _deploy(self, request: Request, name: str, color: str) -> Reply:
        self._found(name)
        body = request.json()
        path = f"onlineEndpoints/{name}/deployments/{named('a deployment', color, NAME)}"
        properties = {"endpointComputeType": "Managed", "scaleSettings": {"scaleType": "Default"}}
        given = body.get("properties", {})
        about = {"description": ANY_TEXT, "properties": VALUES}
        more = {"environmentVariables": TEXTS, "instanceType": TEXT}
        check(BAD, given, {"model": TEXT}, about | more | {"scaleSettings": OBJECT})
        check(BAD, body, {}, {"sku": OBJECT, "tags": TEXTS})
        properties |= given | {"provisioningState": "Creating"}
        model = self.workspace.asset("models", given["model"])
        if model["properties"].get("modelType") != "mlflow_model":
            told = "The local Azure ML deploys MLflow models alone: others bring a scoring script."
            raise Refused(501, "NotImplemented", told)
        self._stop(name, color)
        sku = {"sku": body.get("sku") or {"name": "Default", "capacity": 1}}
        kept = resource(path, properties, location=LOCATION, key=[name, color], **sku)
        self.deployments.put(f"{name}/{color}", kept)
        self._start(name, color)
        polled = f"{self.identity.base}{OPERATIONS}/{name}/{color}"
        return Reply(kept, 201, {"Azure-AsyncOperation": polled, "x-ms-retry-after-ms": "200"})

    def _operation(self, request: Request, name: str, color: str) -> Reply:
        properties = self._found_deployment(name, color)["properties"]
        state = {"Creating": "InProgress"}.get(*[properties["provisioningState"]] * 2)
        told: dict[str, Any] = {"name": f"{name}/{color}", "status": state}
        if state == "Failed":
            told["error"] = {"code": "UserContainerCrashed", "message": properties["reason"]}
        return Reply(told, headers={"x-ms-retry-after-ms": "200"})

    def _undeploy(self, request: Request, name: str, color: str) -> Reply:
        if self._found(name)["properties"]["traffic"].get(color):
            told = f"Deployment '{color}' still gets traffic: give it to another one first."
            raise Refused(400, "BadRequest", told)
        return Reply(status=200 if self._stop(name, color) else 204)

    def _logs(self, request: Request, name: str, color: str) -> Reply:
        self._found_deployment(name, color)
        return Reply({"content": last_words(self._log(name, color))})

    def _log(self, name: str, color: str) -> Path:
        return self.folder / f"{name}.{color}.log"

    def _start(self, name: str, color: str) -> None:
        key = f"{name}/{color}"
        live = Live(f"{key}:{next(self._started)}")
        with self._lock:
            self._live[key] = live
        self.jobs.start(key, lambda: self._serve(name, color, live))

    def _stop(self, name: str, color: str) -> bool:
        key = f"{name}/{color}"
        with self._lock:
            live = self._live.pop(key, None)
        if live:
            live.wanted = False
            self.jobs.stop(live.name)
        self._log(name, color).unlink(missing_ok=True)
        return self.deployments.drop(key)

    def _serve(self, name: str, color: str, live: Live) -> None:
        """The deployment's process, from the model's files to its end."""
        properties = self._found_deployment(name, color)["properties"]
        model = self.workspace.asset("models", properties["model"])
        with TemporaryDirectory(prefix=f"{color}-", dir=self.folder) as folder:
            files, port = Path(folder) / "model", Path(folder) / "port"
            self.workspace.blobs.fetch(blob_of(model["properties"]["modelUri"]), files)
            self.jobs.start(f"{live.name} is watched", lambda: self._watch(name, color, live, port))
            command = [str(self.python), str(SCORE), str(files), str(port)]
            log = self._log(name, color)
            env = {**self.env, "SCORER_TOKEN": live.token}
            self.jobs.run(live.name, command, env, Path(folder), log)
        if live.wanted:
            live.wanted = False
            self._tell(name, color, "Failed", last_words(log))

    def _watch(self, name: str, color: str, live: Live, port: Path) -> None:
        """A deployment has succeeded when it has told where it answers."""
        waited = threading.Event()
        while live.wanted and not port.exists():
            waited.wait(LOOK_SECONDS)
        if live.wanted:
            live.port = int(port.read_text(encoding="utf-8"))
            self._tell(name, color, "Succeeded")

    def _tell(self, name: str, color: str, state: str, reason: str = "") -> None:
        with self._lock:
            known = self.deployments.get(f"{name}/{color}")
            if known:
                told = known["properties"] | {"provisioningState": state, "reason": reason}
                self.deployments.change(f"{name}/{color}", properties=told)

    def _score(self, request: Request, name: str) -> Reply:
        endpoint = self._found(name)
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.identity.check(key, self._key(name), "The key of the endpoint")
        traffic = endpoint["properties"]["traffic"]
        color = request.headers.get("azureml-model-deployment") or self._drawn(name, traffic)
        live = self._live.get(f"{name}/{color}")
        if live is None or not live.port:
            raise missing("deployment that answers", f"{name}/{color}")
        shown = {"Authorization": f"Bearer {live.token}"}
        call = Call(f"http://{HOST}:{live.port}/", request.body, shown)
        try:
            with urlopen(call, timeout=60) as answer:  # noqa: S310
                content, status = answer.read(), answer.status
        except HTTPError as error:
            content, status = error.read(), 424  # what Azure answers for a model that failed
        except URLError as error:
            raise Refused(503, "ServiceUnavailable", f"{color}: {error.reason}", 1) from None
        headers = {"azureml-model-deployment": color, "Content-Type": "application/json"}
        return Reply(content, status, headers)

    def _drawn(self, name: str, traffic: dict[str, int]) -> str:
        """Who is asked: of each hundred calls exactly its percents, well mixed."""
        at = next(self._asked.setdefault(name, count())) * SPREAD % 100
        for color, share in sorted(traffic.items()):
            at -= share
            if at < 0:
                return color
        raise Refused(404, "NoTraffic", "The endpoint has no deployment that gets traffic.")
