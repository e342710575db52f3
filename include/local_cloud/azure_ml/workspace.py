"""The workspace and its computes, assets and models: what Resource Manager keeps for a client."""

import re
import time
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from include.local_cloud.azure_ml.kinds import (
    ANY_TEXT,
    OBJECT,
    SWITCH,
    TEXT,
    TEXTS,
    VALUES,
    WHOLE,
    check,
)
from include.local_cloud.azure_ml.protocol import (
    LOCATION,
    SCOPE,
    WORKSPACE,
    Refused,
    Reply,
    Request,
    Route,
    missing,
    named,
)
from include.local_cloud.azure_ml.storage import ACCOUNT, CONTAINER, Blobs
from include.local_cloud.azure_ml.tracking import Tracking
from include.local_cloud.state import Table

COMPUTE_NAME = r"[A-Za-z][A-Za-z0-9-]{1,22}[A-Za-z0-9]"
ASSET_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}"
VERSION = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,29}"
DURATION = re.compile(
    r"PT(?=\d)((?P<hours>\d{1,6})H)?((?P<minutes>\d{1,6})M)?((?P<seconds>\d{1,9}(\.\d+)?)S)?"
)
IDLE = "PT120S"
BAD = "BadArgument"
MOST_NODES = 1_000
DATASTORE = "workspaceblobstore"
ARTIFACTS = "/outputs/artifacts/paths/"
ASSETS = ("codes", "data", "models")


def resource(path: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Something as Resource Manager shows it."""
    seen = {"createdBy": "local", "createdAt": "2026-01-01T00:00:00Z"}
    return {
        "id": f"{SCOPE}/{path}",
        "name": path.rsplit("/", 1)[1],
        "type": "Microsoft.MachineLearningServices/workspaces/" + "/".join(path.split("/")[::2]),
        "properties": properties,
        "systemData": seen | {"lastModifiedAt": seen["createdAt"]},
    } | more


def outputs(job: str) -> str:
    """Where among the blobs the files lie that a job left."""
    return f"ExperimentRun/dcid.{job}"


def blob_of(uri: str) -> str:
    """The blob, or the folder of blobs, that an `azureml://` address stands for."""
    _, at_datastore, path = uri.partition(f"/datastores/{DATASTORE}/paths/")
    before, at_job, output = uri.partition(ARTIFACTS)
    if at_datastore:
        return path.rstrip("/")
    if at_job:
        return f"{outputs(before.rsplit('/', 1)[1])}/{output.rstrip('/')}"
    if f"{ACCOUNT}/{CONTAINER}/" in uri:
        return uri.partition(f"{ACCOUNT}/{CONTAINER}/")[2].partition("?")[0]
    raise Refused(400, "UserError", f"'{uri}' is no address of data in this workspace.")


@dataclass(frozen=True)
class Workspace:
    """What it holds, each kind in its table."""

    base: str
    blobs: Blobs
    tracking: Tracking
    computes: Table
    assets: Table
    """Versions of code, data and models, by `<kind>/<name>/<version>`."""
    jobs: Table

    def routes(self) -> list[Route]:
        """The calls that create, show, list and take away."""
        compute, datastore = f"{SCOPE}/computes/{{name}}", f"{SCOPE}/datastores/{{name}}"
        routes = [
            Route("GET", SCOPE, "Workspaces_Get", self._workspace),
            Route("GET", "/discovery", "Workspaces_Discover", self._discover, open=True),
            Route("GET", f"{SCOPE}/computes", "Compute_List", self._computes),
            Route("GET", compute, "Compute_Get", self._compute),
            Route("PUT", compute, "Compute_CreateOrUpdate", self._put_compute),
            Route("DELETE", compute, "Compute_Delete", self._delete_compute),
            Route("POST", f"{compute}/listNodes", "Compute_ListNodes", self._nodes),
            Route("GET", f"{SCOPE}/datastores", "Datastores_List", self._datastores),
            Route("GET", datastore, "Datastores_Get", self._datastore),
            Route("POST", f"{datastore}/listSecrets", "Datastores_ListSecrets", self._secrets),
        ]
        for kind in ASSETS:
            versions = f"{SCOPE}/(?P<kind>{kind})/{{name}}/versions"
            title = kind.capitalize()
            routes += [
                Route("GET", versions, f"{title}_List", self._versions),
                Route("GET", f"{versions}/{{version}}", f"{title}_Get", self._version),
                Route("PUT", f"{versions}/{{version}}", f"{title}_CreateOrUpdate", self._put),
                Route(
                    "POST",
                    f"{versions}/{{version}}/startPendingUpload",
                    f"{title}_StartPendingUpload",
                    self._pending_upload,
                ),
            ]
        return routes

    def compute(self, reference: str) -> dict[str, Any]:
        """The compute that a job names, by its id or its name."""
        name = reference.rsplit("/", 1)[-1]
        found = self.computes.get(name)
        if found is None:
            raise missing("compute", name)
        return found

    def busy(self, compute: str) -> list[dict[str, Any]]:
        """The jobs that run on a compute at the moment."""
        return [
            job
            for job in self.jobs.all()
            if job["properties"]["status"] in ("Preparing", "Running")
            and job["properties"]["computeId"].rsplit("/", 1)[-1] == compute
        ]

    def asset(self, kind: str, identifier: str) -> dict[str, Any]:
        """A version by what others call it: its id, or `azureml:<name>:<version>`."""
        parts = identifier.removeprefix("azureml:").replace(":", "/").split("/")
        name, version = parts[-3 if parts[-2] == "versions" else -2], parts[-1]
        found = self.assets.get(f"{kind}/{name}/{version}")
        if found is None:
            raise missing(kind.removesuffix("s"), f"{name}:{version}")
        return found

    def _workspace(self, request: Request) -> Reply:
        properties = {
            "discoveryUrl": f"{self.base}/discovery",
            "mlFlowTrackingUri": self.tracking.uri(),
            "provisioningState": "Succeeded",
            "storageAccount": f"{SCOPE}/store",
            "workspaceId": str(uuid5(NAMESPACE_URL, SCOPE)),
        }
        shown = resource(f"workspaces/{WORKSPACE}", properties, location=LOCATION)
        return Reply(shown | {"id": SCOPE})

    def _discover(self, request: Request) -> Reply:
        return Reply({"api": self.base, "history": self.base, "mlflow": self.base})

    def _computes(self, request: Request) -> Reply:
        return Reply({"value": [self._scaled(each) for each in self.computes.all()]})

    def _compute(self, request: Request, name: str) -> Reply:
        return Reply(self._scaled(self.compute(name)))

    def _put_compute(self, request: Request, name: str) -> Reply:
        named("a compute", name, COMPUTE_NAME)
        properties = request.json().get("properties", {})
        if properties.get("computeType") != "AmlCompute":
            kind = properties.get("computeType")
            raise Refused(501, "NotImplemented", f"The local Azure ML has no compute {kind}.")
        check(BAD, properties, {"properties": OBJECT}, {"description": ANY_TEXT})
        settings = properties["properties"]
        check(BAD, settings, {}, {"scaleSettings": OBJECT, "vmSize": ANY_TEXT})
        _check_scale(settings.get("scaleSettings") or {})
        properties["provisioningState"] = "Succeeded"
        kept = resource(f"computes/{name}", properties, location=LOCATION)
        return Reply(self._scaled(self.computes.put(name, kept)), 201)

    def _delete_compute(self, request: Request, name: str) -> Reply:
        if self.busy(name):
            raise Refused(409, "Conflict", f"Compute '{name}' can't be deleted: a job runs on it.")
        return Reply(status=200 if self.computes.drop(name) else 204)

    def _nodes(self, request: Request, name: str) -> Reply:
        nodes = self._scaled(self.compute(name))["properties"]["properties"]["currentNodeCount"]
        shown = [{"nodeId": f"tvmps_{number}", "nodeState": "idle"} for number in range(nodes)]
        return Reply({"nodes": shown})

    def _scaled(self, compute: dict[str, Any]) -> dict[str, Any]:
        """A compute with the nodes it has just now: one for each job, and idle ones for a while."""
        settings = compute["properties"]["properties"]
        scale = settings.get("scaleSettings") or {}
        idle_after = _seconds(scale.get("nodeIdleTimeBeforeScaleDown") or IDLE)
        busy = len(self.busy(compute["name"]))
        still_warm = (
            compute.get("used", 0) if time.time() - compute.get("at", 0) < idle_after else 0
        )
        nodes = max(scale.get("minNodeCount") or 0, busy, still_warm)
        seen = {"currentNodeCount": nodes, "targetNodeCount": nodes, "allocationState": "Steady"}
        properties = compute["properties"] | {"properties": settings | seen}
        return compute | {"properties": properties}

    def _datastores(self, request: Request) -> Reply:
        return Reply({"value": [self._store()]})

    def _datastore(self, request: Request, name: str) -> Reply:
        if name != DATASTORE:
            raise missing("datastore", name)
        return Reply(self._store())

    def _store(self) -> dict[str, Any]:
        # Clients write https://<account>.blob.<suffix>: so the account begins with host and port.
        account = self.base.removeprefix("https://") + ACCOUNT.removesuffix(".blob.storage")
        return resource(
            f"datastores/{DATASTORE}",
            {
                "datastoreType": "AzureBlob",
                "accountName": account,
                "containerName": CONTAINER,
                "endpoint": "storage",
                "protocol": "https",
                "isDefault": True,
                "credentials": {"credentialsType": "Sas"},
            },
        )

    def _secrets(self, request: Request, name: str) -> Reply:
        return Reply({"secretsType": "Sas", "sasToken": f"sig={self.blobs.signature}"})

    def _pending_upload(self, request: Request, kind: str, name: str, version: str) -> Reply:
        address = self.blobs.url(f"{kind}/{name}/{version}/{uuid4().hex}")
        where = {
            "blobUri": address.partition("?")[0],
            "storageAccountArmId": f"{SCOPE}/store",
            "credential": {"credentialType": "SAS", "sasUri": address},
        }
        upload = {"pendingUploadId": uuid4().hex, "pendingUploadType": "TemporaryBlobReference"}
        return Reply(upload | {"blobReferenceForConsumption": where})

    def _versions(self, request: Request, kind: str, name: str) -> Reply:
        prefix = f"{kind}/{name}/"
        return Reply({
            "value": [
                asset
                for key in self.assets
                if key.startswith(prefix) and (asset := self.assets.get(key))
            ]
        })

    def _version(self, request: Request, kind: str, name: str, version: str) -> Reply:
        return Reply(self.asset(kind, f"{name}:{version}"))

    def _put(self, request: Request, kind: str, name: str, version: str) -> Reply:
        named(kind, name, ASSET_NAME)
        named(f"a version of {kind}", version, VERSION)
        key, given = f"{kind}/{name}/{version}", request.json().get("properties", {})
        addresses = dict.fromkeys(("modelUri", "codeUri", "dataUri"), TEXT)
        about = {"description": ANY_TEXT, "isArchived": SWITCH, "isAnonymous": SWITCH}
        parts = {"tags": TEXTS, "properties": VALUES, "flavors": OBJECT}
        check(BAD, given, {}, addresses | about | parts)
        properties = given | {"provisioningState": "Succeeded"}
        for part in ("tags", "properties", *(["flavors"] if kind == "models" else [])):
            properties[part] = properties.get(part) or {}
        address = properties.get({"models": "modelUri", "codes": "codeUri"}.get(kind, "dataUri"))
        if kind == "models" and not self.blobs.below(blob_of(str(address))):
            raise Refused(400, "UserError", f"There is nothing to register at {address}.")
        known = self.assets.get(key)
        if known and known["properties"].get("modelUri") != properties.get("modelUri"):
            told = f"Version {version} of model '{name}' exists already, and can't be changed."
            raise Refused(409, "UserError", told)
        kept = resource(f"{kind}/{name}/versions/{version}", properties)
        return Reply(self.assets.put(key, kept), 200 if known else 201)


def _check_scale(scale: dict[str, Any]) -> None:
    """Counts of nodes that fit each other, and a time that can be read."""
    counts = {"minNodeCount": WHOLE, "maxNodeCount": WHOLE}
    check(BAD, scale, {}, counts | {"nodeIdleTimeBeforeScaleDown": TEXT})
    least, most = scale.get("minNodeCount") or 0, scale.get("maxNodeCount")
    if not 0 <= least <= (MOST_NODES if most is None else most) <= MOST_NODES:
        told = f"minNodeCount {least} and maxNodeCount {most} are no counts from 0 to {MOST_NODES}."
        raise Refused(400, BAD, told)
    idle = scale.get("nodeIdleTimeBeforeScaleDown")
    if idle is not None and not DURATION.fullmatch(idle):
        told = (
            f"nodeIdleTimeBeforeScaleDown must be a duration such as {IDLE}, and is {idle!r:.100}"
        )
        raise Refused(400, BAD, told)


def _seconds(duration: str) -> float:
    """A duration of ISO 8601 in seconds."""
    found = DURATION.fullmatch(duration)
    parts = found.groupdict(default="0") if found else {"hours": 0, "minutes": 0, "seconds": 120}
    return float(parts["hours"]) * 3600 + float(parts["minutes"]) * 60 + float(parts["seconds"])
