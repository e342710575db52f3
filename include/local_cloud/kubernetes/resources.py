"""The kinds of objects that there are, and how clients discover them."""

from dataclasses import dataclass
from typing import Any

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


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


def defined(definition: dict[str, Any]) -> list[Resource]:
    """What a CustomResourceDefinition adds: one for each version that is served."""
    spec = definition["spec"]
    return [
        Resource(
            spec["group"],
            version["name"],
            spec["names"]["plural"],
            spec["names"]["kind"],
            spec.get("scope", "Namespaced") == "Namespaced",
            tuple(version.get("subresources", {})),
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
