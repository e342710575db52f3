"""What a new or changed object must be like, and what is filled in where nothing was said."""

import base64
import re
from typing import Any

from include.local_cloud.kubernetes import metadata, resources
from include.local_cloud.kubernetes.objects import Object, Store
from include.local_cloud.kubernetes.resources import LABEL, SUBDOMAIN, Resource
from include.local_cloud.kubernetes.status import Refused, bad_request, invalid

MOST = 2**31 - 1
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
    meta = metadata.checked(resource.kind, thing.get("metadata"))
    thing["metadata"] = metadata.of_client(meta)
    name = meta.get("name") or meta.get("generateName") or ""
    home = meta.get("namespace")
    if not name:
        raise invalid(
            resource.kind, "", "metadata.name", "Required value: name or generateName is required"
        )
    if resource.namespaced and home not in (None, namespace):
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if len(name) > 253 or not SUBDOMAIN.fullmatch(meta.get("name") or f"{name}x"):
        why = (
            f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case '
            "alphanumeric characters, '-' or '.', and must start and end with an alphanumeric "
            "character"
        )
        raise invalid(resource.kind, name, "metadata.name", why)
    if resource in WITH_SPEC and not thing.get("spec"):
        raise invalid(resource.kind, name, "spec", "Required value")
    _fill_in(resource, namespace, name, thing, store)
    if resource == resources.PODS:
        thing["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
    elif resource == resources.JOBS:
        thing["status"] = {}
    elif resource in (resources.TRAIN_JOBS, resources.INFERENCE_SERVICES):
        thing.pop("status", None)
    elif resource == resources.CLAIMS:
        thing["status"] = {"phase": "Bound"}
    elif resource == resources.DEFINITIONS:
        condition = {"type": "Established", "status": "True", "reason": "InitialNamesAccepted"}
        thing["status"] = {"acceptedNames": thing["spec"]["names"], "conditions": [condition]}
    _status(resource, name, thing)
    return thing


def changed(resource: Resource, before: Object, after: Object, store: Store) -> Object:
    """An object as somebody wants it to be from now on, held to what a new one is held to."""
    old = before["metadata"]
    given = metadata.checked(resource.kind, after.get("metadata"), old["name"])
    after["metadata"] = metadata.merged(old, given)
    _unchanged(resource, before, after)
    if resource not in WITH_SPEC or before.get("spec") != after.get("spec"):
        if resource in WITH_SPEC and not after.get("spec"):
            raise invalid(resource.kind, old["name"], "spec", "Required value")
        _fill_in(resource, old.get("namespace", ""), old["name"], after, store)
    _status(resource, old["name"], after)
    return after


def _fill_in(resource: Resource, namespace: str, name: str, thing: Object, store: Store) -> None:
    """Check what only this kind of object has, and give it its defaults."""
    if resource in WITH_SPEC and not isinstance(thing["spec"], dict):
        raise bad_request(f"{resource.kind} cannot be handled: its spec must be an object")
    if resource == resources.PODS:
        thing["spec"] = _pod(resource, name, thing["spec"], "spec")
    elif resource == resources.JOBS:
        thing["spec"] = _job(name, thing["spec"])
    elif resource == resources.TRAIN_JOBS:
        thing["spec"] = _train_job(name, thing["spec"], namespace, store)
    elif resource == resources.INFERENCE_SERVICES:
        thing["spec"] = _inference_service(name, thing["spec"])
    elif resource == resources.SECRETS:
        _secret(thing)
    elif resource == resources.CONFIG_MAPS:
        if not metadata.is_texts(thing.get("data") or {}):
            raise bad_request(
                'ConfigMap in version "v1" cannot be handled: data is no object with texts'
            )
    elif resource == resources.DEFINITIONS:
        _definition(name, thing)


def _status(resource: Resource, name: str, thing: Object) -> None:
    """Of all kinds that are run here the status is read: also at the next start."""
    if resource in resources.BUILT_IN and not isinstance(thing.get("status") or {}, dict):
        why = f"Invalid value: {thing['status']!r:.100}: no object"
        raise invalid(resource.kind, name, "status", why)


def _unchanged(resource: Resource, before: Object, after: Object) -> None:
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
    containers = spec.get("containers")
    if not containers:
        raise invalid(resource.kind, name, f"{at}.containers", "Required value")
    for part in ("containers", "initContainers", "volumes"):
        _named_parts(resource, name, spec.get(part), f"{at}.{part}")
    for number, container in enumerate(containers):
        if not container.get("image"):
            raise invalid(resource.kind, name, f"{at}.containers[{number}].image", "Required value")
    _numbers(resource, name, spec, at, "terminationGracePeriodSeconds", "activeDeadlineSeconds")
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


def _named_parts(resource: Resource, name: str, parts: Any, at: str) -> None:
    """Containers and volumes: their names become those of folders."""
    if not isinstance(parts or [], list):
        raise invalid(resource.kind, name, at, f"Invalid value: {parts!r:.100}: no list")
    for number, part in enumerate(parts or []):
        if not isinstance(part, dict) or not part.get("name"):
            raise invalid(resource.kind, name, f"{at}[{number}].name", "Required value")
        if not isinstance(part["name"], str) or not LABEL.fullmatch(part["name"]):
            why = f"Invalid value: {part['name']!r:.100}: no lowercase RFC 1123 label"
            raise invalid(resource.kind, name, f"{at}[{number}].name", why)
        env = part.get("env") or []
        if not isinstance(env, list) or not all(isinstance(each, dict) for each in env):
            why = f"Invalid value: {env!r:.100}: no list of objects"
            raise invalid(resource.kind, name, f"{at}[{number}].env", why)


def _numbers(resource: Resource, name: str, spec: Object, at: str, *fields: str) -> None:
    for field in fields:
        value = spec.get(field)
        if value is not None and (type(value) is not int or not 0 <= value <= MOST):
            why = f"Invalid value: {value!r:.100}: must be a whole number from 0 to {MOST}"
            raise invalid(resource.kind, name, f"{at}.{field}", why)


def _suspend(kind: str, name: str, spec: Object) -> None:
    if not isinstance(spec.get("suspend") or False, bool):
        why = f"Invalid value: {spec['suspend']!r:.100}: must be true or false"
        raise invalid(kind, name, "spec.suspend", why)


def _job(name: str, spec: Object) -> Object:
    template = spec.get("template") or {}
    inner = template.get("spec") or {}
    if inner.get("restartPolicy") not in ("Never", "OnFailure"):
        policy = inner.get("restartPolicy")
        why = f'Required value: valid values: "OnFailure", "Never", not {policy!r}'
        raise invalid("Job", name, "spec.template.spec.restartPolicy", why)
    pod = _pod(resources.JOBS, name, inner, "spec.template.spec")
    numbers = ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds")
    _numbers(resources.JOBS, name, spec, "spec", *numbers, "ttlSecondsAfterFinished")
    _suspend("Job", name, spec)
    metadata.checked("Job", template.get("metadata"), name)
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
        if number is not None and (type(number) is not int or not 1 <= number <= MOST):
            why = f"Invalid value: {number!r:.100}: must be a number of at least 1"
            raise invalid("TrainJob", name, f"spec.trainer.{field}", why)
    _suspend("TrainJob", name, spec)
    return spec | {"suspend": bool(spec.get("suspend")), "runtimeRef": reference}


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
    if found := resources.flaw(thing):
        raise invalid("CustomResourceDefinition", name, *found)
    names, group = thing["spec"]["names"], thing["spec"]["group"]
    if name != f"{names['plural']}.{group}":
        why = 'Invalid value: must be spec.names.plural+"."+spec.group'
        raise invalid("CustomResourceDefinition", name, "metadata.name", why)
    if name in {each.name for each in resources.BUILT_IN}:
        why = "Invalid value: this kind is built into the local cloud"
        raise invalid("CustomResourceDefinition", name, "metadata.name", why)
