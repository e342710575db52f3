"""What a new or changed object must be like, and what is filled in where nothing was said."""

import base64
import re
from typing import Any

from include.local_cloud.kubernetes import resources
from include.local_cloud.kubernetes.objects import Object, Store
from include.local_cloud.kubernetes.resources import Resource
from include.local_cloud.kubernetes.status import Refused, bad_request, invalid

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
TRAIN_JOB_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
POLICIES = ("Always", "OnFailure", "Never")
WITH_SPEC = (
    *(resources.PODS, resources.JOBS),
    *(resources.TRAIN_JOBS, resources.INFERENCE_SERVICES),
)
PREDICTORS = (
    *("containers", "model", "sklearn", "xgboost", "lightgbm", "tensorflow", "pytorch"),
    *("triton", "onnx", "huggingface", "pmml", "paddle"),
)


def admitted(resource: Resource, namespace: str, thing: Any, store: Store) -> Object:
    """A new object with its defaults, or the vendor's word for what is wrong with it."""
    if not isinstance(thing, dict):
        raise bad_request("the object provided is unrecognized: it must be a JSON object")
    said = (thing.get("apiVersion", resource.api_version), thing.get("kind", resource.kind))
    if said != (resource.api_version, resource.kind):
        raise bad_request(
            f"{said[1]} in version {said[0]!r} cannot be handled as a {resource.kind} "
            f"in version {resource.api_version!r}"
        )
    meta = thing.get("metadata") or {}
    name = str(meta.get("name") or meta.get("generateName", ""))
    home = meta.get("namespace")
    if not name:
        raise invalid(
            resource.kind, "", "metadata.name", "Required value: name or generateName is required"
        )
    if resource.namespaced and home not in (None, namespace):
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if len(name) > 253 or not NAME.fullmatch(meta.get("name") or f"{name}x"):
        why = (
            f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case '
            "alphanumeric characters, '-' or '.', and must start and end with an alphanumeric "
            "character"
        )
        raise invalid(resource.kind, name, "metadata.name", why)
    if resource in WITH_SPEC and not thing.get("spec"):
        raise invalid(resource.kind, name, "spec", "Required value")
    if resource == resources.PODS:
        thing["spec"] = _pod(resource, name, thing["spec"], "spec")
        thing["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
    elif resource == resources.JOBS:
        thing["spec"] = _job(name, thing["spec"])
        thing["status"] = {}
    elif resource == resources.TRAIN_JOBS:
        thing["spec"] = _train_job(name, thing["spec"], namespace, store)
        thing.pop("status", None)
    elif resource == resources.INFERENCE_SERVICES:
        thing["spec"] = _inference_service(name, thing["spec"])
        thing.pop("status", None)
    elif resource == resources.SECRETS:
        _secret(thing)
    elif resource == resources.CONFIG_MAPS:
        for key, value in (thing.get("data") or {}).items():
            if not isinstance(value, str):
                raise bad_request(
                    f'ConfigMap in version "v1" cannot be handled: data.{key} is no string'
                )
    elif resource == resources.CLAIMS:
        thing["status"] = {"phase": "Bound"}
    elif resource == resources.DEFINITIONS:
        _definition(name, thing)
    return thing


def unchanged(resource: Resource, before: Object, after: Object) -> None:
    """See that nothing changes that can't."""
    name, old, new = before["metadata"]["name"], before.get("spec"), after.get("spec")
    if resource == resources.PODS and old != new:
        why = "Forbidden: pod updates may not change the spec (in the local cloud: nothing of it)"
        raise invalid(resource.kind, name, "spec", why)
    if resource == resources.JOBS and (old or {}).get("template") != (new or {}).get("template"):
        raise invalid(resource.kind, name, "spec.template", "Invalid value: field is immutable")
    if resource == resources.TRAIN_JOBS:
        for part in ("trainer", "runtimeRef", "initializer", "activeDeadlineSeconds"):
            if (old or {}).get(part) != (new or {}).get(part):
                raise invalid(
                    resource.kind, name, f"spec.{part}", "Invalid value: field is immutable"
                )


def _pod(resource: Resource, name: str, spec: Object, at: str) -> Object:
    containers = spec.get("containers") or []
    if not containers:
        raise invalid(resource.kind, name, f"{at}.containers", "Required value")
    for number, container in enumerate(containers):
        if not container.get("name"):
            raise invalid(resource.kind, name, f"{at}.containers[{number}].name", "Required value")
        if not container.get("image"):
            raise invalid(resource.kind, name, f"{at}.containers[{number}].image", "Required value")
    names = [each["name"] for each in [*(spec.get("initContainers") or []), *containers]]
    if len(set(names)) < len(names):
        raise invalid(resource.kind, name, f"{at}.containers", f"Duplicate value: {names}")
    defaults = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "serviceAccountName": "default",
    }
    whole = defaults | {field: value for field, value in spec.items() if value is not None}
    if whole["restartPolicy"] not in POLICIES:
        known = ", ".join(POLICIES)
        why = f'Unsupported value: "{whole["restartPolicy"]}": supported values: {known}'
        raise invalid(resource.kind, name, f"{at}.restartPolicy", why)
    return whole


def _job(name: str, spec: Object) -> Object:
    template = spec.get("template") or {}
    inner = template.get("spec") or {}
    if inner.get("restartPolicy") not in ("Never", "OnFailure"):
        policy = inner.get("restartPolicy")
        why = f'Required value: valid values: "OnFailure", "Never", not {policy!r}'
        raise invalid("Job", name, "spec.template.spec.restartPolicy", why)
    pod = _pod(resources.JOBS, name, inner, "spec.template.spec")
    for field in ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds"):
        if spec.get(field) is not None and (not isinstance(spec[field], int) or spec[field] < 0):
            why = f"Invalid value: {spec[field]!r}: must be greater than or equal to 0"
            raise invalid("Job", name, f"spec.{field}", why)
    indexed = spec.get("completionMode") == "Indexed"
    if indexed and spec.get("completions") is None:
        why = "Required value: when completion mode is Indexed"
        raise invalid("Job", name, "spec.completions", why)
    given = {field: value for field, value in spec.items() if value is not None}
    defaults = {"backoffLimit": 6, "completionMode": "NonIndexed", "suspend": False}
    if "parallelism" not in given:
        defaults["parallelism"] = 1
        defaults.setdefault("completions", 1)
    return defaults | given | {"template": template | {"spec": pod}}


def _train_job(name: str, spec: Object, namespace: str, store: Store) -> Object:
    if len(name) > 63 or not TRAIN_JOB_NAME.fullmatch(name):
        why = f'Invalid value: "{name}": metadata.name must match RFC 1035 DNS label format'
        raise invalid("TrainJob", name, "metadata.name", why)
    reference = spec.get("runtimeRef") or {}
    if not reference.get("name"):
        raise invalid("TrainJob", name, "spec.runtimeRef.name", "Required value")
    reference = {"apiGroup": resources.TRAINER, "kind": "ClusterTrainingRuntime"} | reference
    wide = reference["kind"] == "ClusterTrainingRuntime"
    kind = resources.CLUSTER_RUNTIMES if wide else resources.RUNTIMES
    if store.find(kind, "" if wide else namespace, reference["name"]) is None:
        message = (
            'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: '
            f'spec.runtimeRef: Invalid value: {kind.name} "{reference["name"]}" not found: '
            "it must be created before the TrainJob is created"
        )
        raise Refused(403, "Forbidden", message, name=name, kind="TrainJob")
    for field in ("numNodes", "numProcPerNode"):
        number = (spec.get("trainer") or {}).get(field)
        if number is not None and (not isinstance(number, int) or number < 1):
            why = f"Invalid value: {number!r}: must be a number of at least 1"
            raise invalid("TrainJob", name, f"spec.trainer.{field}", why)
    return {"suspend": False} | spec | {"runtimeRef": reference}


def _inference_service(name: str, spec: Object) -> Object:
    kind, at, predictor = "InferenceService", "spec.predictor", spec.get("predictor")
    if not isinstance(predictor, dict):
        raise invalid(kind, name, at, "Required value")
    if sum(bool(predictor.get(each)) for each in PREDICTORS) != 1:
        message = (
            'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the '
            "request: Exactly one of [Custom, Model, SKLearn, XGBoost, LightGBM, TFServing, "
            "PyTorch, Triton, ONNX, HuggingFace, PMML, Paddle] must be specified in PredictorSpec"
        )
        raise Refused(403, "Forbidden", message, name=name, kind=kind)
    if "containers" not in predictor:
        return spec
    given = [{"name": "kserve-container"} | each for each in predictor["containers"]]
    _pod(resources.INFERENCE_SERVICES, name, {"containers": given}, at)
    return spec | {"predictor": predictor | {"containers": given}}


def _secret(thing: Object) -> None:
    plain = thing.pop("stringData", None) or {}
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in plain.items()}
    thing["data"] = (thing.get("data") or {}) | encoded
    thing.setdefault("type", "Opaque")
    try:
        for text in thing["data"].values():
            base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        raise bad_request('Secret in version "v1" cannot be handled: illegal base64 data') from None


def _definition(name: str, thing: Object) -> None:
    spec = thing.get("spec") or {}
    names = spec.get("names") or {}
    for part, there in (("group", spec), ("versions", spec), ("kind", names), ("plural", names)):
        if not there.get(part):
            raise invalid("CustomResourceDefinition", name, f"spec…{part}", "Required value")
    if name != f"{names['plural']}.{spec['group']}":
        why = 'Invalid value: must be spec.names.plural+"."+spec.group'
        raise invalid("CustomResourceDefinition", name, "metadata.name", why)
    condition = {"type": "Established", "status": "True", "reason": "InitialNamesAccepted"}
    thing["status"] = {"acceptedNames": names, "conditions": [condition]}
