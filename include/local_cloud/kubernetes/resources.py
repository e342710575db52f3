"""The kinds of objects that there are, and how clients discover them."""

import re
from dataclasses import dataclass
from typing import Any

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
KIND = re.compile(r"[A-Za-z]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Resource:
    """One kind of object, as its addresses name it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    subresources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name in messages: `pods`, `trainjobs.trainer.kubeflow.org`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """As objects carry it."""
        return f"{self.group}/{self.version}" if self.group else self.version


PODS = Resource("", "v1", "pods", "Pod", subresources=("status", "log", "exec"))
EVENTS = Resource("", "v1", "events", "Event")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", False, ("status",))
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
JOBS = Resource("batch", "v1", "jobs", "Job", subresources=("status",))
DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False
)
TRAINER = "trainer.kubeflow.org"
TRAIN_JOBS = Resource(TRAINER, "v1alpha1", "trainjobs", "TrainJob", subresources=("status",))
RUNTIMES = Resource(TRAINER, "v1alpha1", "trainingruntimes", "TrainingRuntime")
CLUSTER_RUNTIMES = Resource(
    TRAINER, "v1alpha1", "clustertrainingruntimes", "ClusterTrainingRuntime", False
)
INFERENCE_SERVICES = Resource(
    "serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService", True, ("status",)
)
BUILT_IN = (
    *(PODS, EVENTS, NAMESPACES, CONFIG_MAPS, SECRETS, CLAIMS, JOBS, DEFINITIONS),
    *(TRAIN_JOBS, RUNTIMES, CLUSTER_RUNTIMES, INFERENCE_SERVICES),
)


def flaw(definition: dict[str, Any]) -> tuple[str, str] | None:
    """The first field of a CustomResourceDefinition that can't be used, and why; else None."""
    spec = definition.get("spec")
    if not isinstance(spec, dict):
        return "spec", "Required value"
    names, versions = spec.get("names"), spec.get("versions")
    if not isinstance(names, dict):
        return "spec.names", "Required value"
    for field, value, pattern in (
        ("spec.group", spec.get("group"), SUBDOMAIN),
        ("spec.names.kind", names.get("kind"), KIND),
        ("spec.names.plural", names.get("plural"), LABEL),
    ):
        if not value:
            return field, "Required value"
        if not _fits(value, pattern):
            return field, f"Invalid value: {value!r:.100}"
    if spec.get("scope", "Namespaced") not in ("Namespaced", "Cluster"):
        return "spec.scope", f"Unsupported value: {spec['scope']!r:.100}"
    if not versions:
        return "spec.versions", "Required value"
    if not isinstance(versions, list):
        return "spec.versions", f"Invalid value: {versions!r:.100}"
    for number, version in enumerate(versions):
        at = f"spec.versions[{number}]"
        if not isinstance(version, dict) or not _fits(version.get("name"), LABEL):
            return f"{at}.name", f"Invalid value: {version!r:.100}"
        if not isinstance(version.get("served", True), bool):
            return f"{at}.served", f"Invalid value: {version['served']!r:.100}"
        if not isinstance(version.get("subresources") or {}, dict):
            return f"{at}.subresources", f"Invalid value: {version['subresources']!r:.100}"
    if len({version["name"] for version in versions}) < len(versions):
        return "spec.versions", "Invalid value: must contain unique version names"
    return None


def _fits(value: Any, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and len(value) <= 253 and bool(pattern.fullmatch(value))


def defined(definition: dict[str, Any]) -> list[Resource]:
    """What a CustomResourceDefinition without a flaw adds: one for each version that is served."""
    spec = definition["spec"]
    return [
        Resource(
            spec["group"],
            version["name"],
            spec["names"]["plural"],
            spec["names"]["kind"],
            spec.get("scope", "Namespaced") == "Namespaced",
            tuple(version.get("subresources") or {}),
        )
        for version in spec["versions"]
        if version.get("served", True)
    ]


def discovery(path: str, known: list[Resource]) -> dict[str, Any] | None:
    """What `/api`, `/apis`, `/apis/<group>` and `/apis/<group>/<version>` say; else None."""
    parts = path.strip("/").split("/")
    if parts[0] not in ("api", "apis"):
        return None
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if parts == ["apis"]:
        groups = sorted({each.group for each in known if each.group})
        listed = [_group(group, known) for group in groups]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    if parts[0] == "apis" and len(parts) == 2 and any(each.group == parts[1] for each in known):
        return {"kind": "APIGroup", "apiVersion": "v1"} | _group(parts[1], known)
    group, version = ("", parts[-1]) if parts[0] == "api" else (parts[1], parts[-1])
    served = [each for each in known if (each.group, each.version) == (group, version)]
    if len(parts) != (3 if group else 2) or not served:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": served[0].api_version,
        "resources": [entry for each in served for entry in _entries(each)],
    }


def _group(group: str, known: list[Resource]) -> dict[str, Any]:
    versions = dict.fromkeys(each.version for each in known if each.group == group)
    listed = [{"groupVersion": f"{group}/{each}", "version": each} for each in versions]
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}


def _entries(resource: Resource) -> list[dict[str, Any]]:
    common = {"kind": resource.kind, "namespaced": resource.namespaced}
    whole = {
        "name": resource.plural,
        "singularName": resource.kind.lower(),
        "verbs": list(VERBS),
        **common,
    }
    parts = [
        {
            "name": f"{resource.plural}/{each}",
            "singularName": "",
            "verbs": ["get", "patch", "update"] if each == "status" else ["get"],
            **common,
        }
        for each in resource.subresources
    ]
    return [whole, *parts]
