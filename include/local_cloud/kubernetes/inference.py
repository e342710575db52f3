"""What brings about an `InferenceService` of KServe: a pod that answers at the service's address.

Served is a predictor that brings its own container, which has to listen on the port in the variable
PORT, as it has to there. A changed one is started beside the one before, which goes soon after the
new one answers. A predictor that names the format of a model wants a runtime for it; here is none.
"""

from typing import Any

from include import processes
from include.local_cloud import server
from include.local_cloud.kubernetes.admission import admitted
from include.local_cloud.kubernetes.conditions import Status, age, containers, ready, say
from include.local_cloud.kubernetes.kubelet import OVER
from include.local_cloud.kubernetes.objects import Object, Store, owned_by
from include.local_cloud.kubernetes.resources import PODS

REVISION = "serving.knative.dev/revision"
SETTLED = 2.0  # seconds for which those who have just read the address before still find somebody
OF_PODS = ("containers", "initContainers", "volumes", "terminationGracePeriodSeconds")


def next_step(service: Object, store: Store) -> tuple[Status, list[Object]]:
    """Start what is missing; returns the service's status, and the pods that it needs no longer."""
    status: Status = dict(service.get("status") or {})
    meta, predictor = service["metadata"], service["spec"]["predictor"]
    status["observedGeneration"] = meta["generation"]
    pods = store.owned(service, PODS)
    if "containers" not in predictor:
        why = "No runtime found to support specified framework/version"
        status["modelStatus"] = _lost("InvalidSpec", "NoSupportingRuntime", why)
        _all_conditions(status, "False", "NoSupportingRuntime", why)
        return status, pods
    revision = f"{meta['name']}-predictor-{meta['generation']:05d}"
    newest = next(
        (
            each
            for each in pods
            if each["metadata"]["labels"][REVISION] == revision
            and "deletionTimestamp" not in each["metadata"]
            and each.get("status", {}).get("phase") not in OVER
        ),
        None,
    )
    if newest is None:
        _start(service, revision, store)
        _all_conditions(status, "Unknown", "Deploying", f'Revision "{revision}" is starting')
        return status, [each for each in pods if each["status"].get("phase") in OVER]
    port = _port(newest)
    if ready(newest) and processes.in_use(port):
        url = f"http://{server.HOST}:{port}"
        status |= {"url": url, "address": {"url": url}}
        status["components"] = {"predictor": {"url": url, "latestReadyRevision": revision}}
        loaded = {"activeModelState": "Loaded", "targetModelState": "Loaded"}
        status["modelStatus"] = {"transitionStatus": "UpToDate", "states": loaded}
        _all_conditions(status, "True", "", "")
        (since,) = (each for each in status["conditions"] if each["type"] == "Ready")
        settled = age(since["lastTransitionTime"]) > SETTLED
        return status, [each for each in pods if each != newest and settled]
    if ends := [each["lastState"]["terminated"] for each in containers(newest) if _broken(each)]:
        why = ends[0].get("message") or f"exit code {ends[0]['exitCode']}"
        lost = _lost("BlockedByFailedLoad", "ModelLoadFailed", why)
        lost["lastFailureInfo"]["exitCode"] = ends[0]["exitCode"]
        status["modelStatus"] = lost
        why = f'Revision "{revision}" failed with message: {why}.'
        _all_conditions(status, "False", "RevisionFailed", why)
    return status, []


def _start(service: Object, revision: str, store: Store) -> None:
    meta, predictor = service["metadata"], service["spec"]["predictor"]
    spec = {field: predictor[field] for field in OF_PODS if field in predictor}
    port = {"name": "PORT", "value": str(processes.free_port())}
    last_words = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    spec["containers"] = [
        last_words | each | {"env": [*(each.get("env") or []), port]} for each in spec["containers"]
    ]
    labels = {"component": "predictor", REVISION: revision}
    labels["serving.kserve.io/inferenceservice"] = meta["name"]
    about = {
        "generateName": f"{revision}-deployment-",
        "labels": labels,
        "ownerReferences": [owned_by(service)],
    }
    pod = {"metadata": about, "spec": spec}
    store.create(PODS, meta["namespace"], admitted(PODS, meta["namespace"], pod, store))


def _port(pod: Object) -> int:
    (found,) = {
        each["value"]
        for container in pod["spec"]["containers"]
        for each in container["env"]
        if each["name"] == "PORT"
    }
    return int(found)


def _broken(container: dict[str, Any]) -> bool:
    """Whether it ended and waits to be started again."""
    return "waiting" in container["state"] and "terminated" in (container["lastState"] or {})


def _lost(transition: str, reason: str, message: str) -> Status:
    info = {"reason": reason, "message": message}
    return {"transitionStatus": transition, "lastFailureInfo": info}


def _all_conditions(status: Status, value: str, reason: str, message: str) -> None:
    for kind in ("IngressReady", "PredictorReady", "Ready"):
        say(status, kind, reason, message, value)
