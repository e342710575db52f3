"""What a cluster remembers: objects with versions, those who watch them, and those they own."""

import copy
import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from include.local_cloud.kubernetes import resources
from include.local_cloud.kubernetes.resources import Resource
from include.local_cloud.kubernetes.status import Refused, conflict, exists, not_found
from include.local_cloud.state import Table

Object = dict[str, Any]
REMEMBERED = 5_000  # changes, for watches that begin at an earlier one
EVENTS_LAST = 3_600  # seconds, as in a real cluster
SEEDED = ("default", "kube-system", "kube-public", "kubeflow")


class Change(NamedTuple):
    """Something that happened to an object, as watches are told."""

    version: int
    type: str
    resource: Resource
    before: Object | None
    after: Object


class Store:
    """All objects, in memory and on disk; what is given out is a copy."""

    def __init__(self, folder: Path) -> None:
        """With what was remembered from an earlier start."""
        self._folder = folder
        self._lock = threading.RLock()
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._tables: dict[str, Table] = {}
        self._version = 0
        self.oldest = self._next()
        self._history: deque[Change] = deque(maxlen=REMEMBERED)
        self.listeners: list[Callable[[Change], None]] = []
        for path in sorted(folder.iterdir()) if folder.exists() else []:
            for thing in self._table(path.name).all():
                self._objects.setdefault(path.name, {})[_key(thing)] = thing
        for name in SEEDED:
            if self.find(resources.NAMESPACES, "", name) is None:
                self.create(resources.NAMESPACES, "", {"metadata": {"name": name}})

    @property
    def version(self) -> int:
        """Of the newest change."""
        return self._version

    def resources(self) -> list[Resource]:
        """The kinds that are built in, and those that were defined."""
        known = [each for each in self.all(resources.DEFINITIONS) if resources.flaw(each) is None]
        added = (each for definition in known for each in resources.defined(definition))
        return [*resources.BUILT_IN, *added]

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """One of them, or None."""
        with self._lock:
            return copy.deepcopy(self._objects.get(resource.name, {}).get((namespace, name)))

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One of them, or the vendor's word that there is none."""
        found = self.find(resource, namespace, name)
        if found is None:
            raise not_found(resource.name, name)
        return found

    def all(self, resource: Resource, namespace: str = "") -> list[Object]:
        """Those of a kind, in one namespace or in all, by name."""
        with self._lock:
            found = sorted(self._objects.get(resource.name, {}).items())
            return [copy.deepcopy(each) for (home, _), each in found if namespace in ("", home)]

    def owned(self, owner: Object, resource: Resource) -> list[Object]:
        """Those of a kind that another object made."""
        uid, home = owner["metadata"]["uid"], owner["metadata"].get("namespace", "")
        return [each for each in self.all(resource, home) if uid in _owners(each)]

    def create(self, resource: Resource, namespace: str, thing: Object) -> Object:
        """Keep a new one."""
        with self._lock:
            if namespace and self.find(resources.NAMESPACES, "", namespace) is None:
                raise not_found("namespaces", namespace)
            thing = copy.deepcopy(thing)
            given = thing.get("metadata") or {}
            name = given.get("name") or given["generateName"] + uuid.uuid4().hex[:5]
            if (namespace, name) in self._objects.get(resource.name, {}):
                raise exists(resource.name, name)
            meta = {**given, "name": name, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
            meta |= {"namespace": namespace} if namespace else {}
            meta |= {"generation": 1} if "spec" in thing else {}
            thing |= {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta}
            if resource == resources.NAMESPACES:
                thing["status"] = {"phase": "Active"}
            return self._put("ADDED", resource, None, thing)

    def update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Callable[[Object], Object],
        uid: str | None = None,
    ) -> Object:
        """Have something be otherwise; with a uid only if the object is still the same one."""
        with self._lock:
            before = self.get(resource, namespace, name)
            if uid not in (None, before["metadata"]["uid"]):
                raise not_found(resource.name, name)
            after = change(copy.deepcopy(before))
            meta, fixed = after.setdefault("metadata", {}), before["metadata"]
            if meta.get("resourceVersion") not in (None, fixed["resourceVersion"]):
                raise conflict(resource.name, name)
            for field in ("name", "namespace", "uid", "creationTimestamp", "resourceVersion"):
                meta |= {field: fixed[field]} if field in fixed else {}
            if before.get("spec") != after.get("spec"):
                meta["generation"] = fixed.get("generation", 0) + 1
            if after == before:
                return before
            after |= {"apiVersion": resource.api_version, "kind": resource.kind}
            put = self._put("MODIFIED", resource, before, after)
        if (
            "deletionTimestamp" in meta
            and not meta.get("finalizers")
            and resource != resources.PODS
        ):
            self.remove(resource, namespace, name)
        return put

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        grace: int | None = None,
        policy: str = "Background",
    ) -> Object:
        """Ask for its end. A pod's is brought about by the kubelet; an object may be held."""
        found = self.get(resource, namespace, name)
        meta = found["metadata"]
        # Of other kinds nobody knows what their spec is: it may be a text.
        spec = found["spec"] if resource == resources.PODS else {}
        if policy == "Orphan":
            self._orphan(meta["uid"])
        if resource != resources.PODS and not meta.get("finalizers"):
            return self.remove(resource, namespace, name) or found
        seconds = spec.get("terminationGracePeriodSeconds", 0) if grace is None else grace

        def mark(thing: Object) -> Object:
            asked = {"deletionTimestamp": now(), "deletionGracePeriodSeconds": seconds}
            earlier = thing["metadata"].get("deletionGracePeriodSeconds")
            if earlier is None or seconds < earlier:
                thing["metadata"] |= asked
            return thing

        return self.update(resource, namespace, name, mark, meta["uid"])

    def remove(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Forget it, and have what it owned and what lay in it go, too."""
        with self._lock:
            gone = self._objects.get(resource.name, {}).pop((namespace, name), None)
            if gone is None:
                return None
            self._table(resource.name).drop(gone["metadata"]["uid"])
            self._tell("DELETED", resource, gone, copy.deepcopy(gone))
        uid = gone["metadata"]["uid"]
        for kind, each in self._everything():
            inside = resource == resources.NAMESPACES and each["metadata"].get("namespace") == name
            if inside or uid in _owners(each):
                self._delete_if_there(kind, each)
        return gone

    def since(self, version: int) -> list[Change]:
        """What changed after a version, or the vendor's word that this is forgotten."""
        with self._lock:
            if version < self.oldest:
                message = f"too old resource version: {version} ({self.oldest})"
                raise Refused(410, "Expired", message)
            return [change for change in self._history if change.version > version]

    def event(
        self,
        about: Object,
        reason: str,
        message: str,
        kind: str = "Normal",
        container: str | None = None,
    ) -> None:
        """Write down for people what happened to an object, as long as it has a namespace."""
        meta = about["metadata"]
        at, source = now(), {"component": "kubelet", "host": "local"}
        involved = {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        }
        if container:
            involved["fieldPath"] = f"spec.containers{{{container}}}"
        written = {
            "metadata": {"generateName": f"{meta['name']}."},
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "type": kind,
            "count": 1,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "source": source,
            "reportingComponent": "kubelet",
        }
        self._forget_old_events()
        with _gone_is_fine():
            self.create(resources.EVENTS, meta["namespace"], written)

    def _forget_old_events(self) -> None:
        for each in self.all(resources.EVENTS):
            made = datetime.fromisoformat(each["metadata"]["creationTimestamp"])
            if time.time() - made.timestamp() > EVENTS_LAST:
                self._delete_if_there(resources.EVENTS, each)

    def _everything(self) -> Iterable[tuple[Resource, Object]]:
        known = {each.name: each for each in self.resources()}
        return [(kind, each) for kind in known.values() for each in self.all(kind)]

    def _delete_if_there(self, resource: Resource, thing: Object) -> None:
        with _gone_is_fine():
            self.delete(resource, *_key(thing))

    def _orphan(self, uid: str) -> None:
        def let_go(thing: Object) -> Object:
            owners = thing["metadata"]["ownerReferences"]
            thing["metadata"]["ownerReferences"] = [each for each in owners if _uid(each) != uid]
            return thing

        for kind, each in self._everything():
            if uid in _owners(each):
                with _gone_is_fine():
                    self.update(kind, *_key(each), let_go)

    def _put(self, type_: str, resource: Resource, before: Object | None, after: Object) -> Object:
        version = self._next()
        after["metadata"]["resourceVersion"] = str(version)
        self._objects.setdefault(resource.name, {})[_key(after)] = after
        self._table(resource.name).put(after["metadata"]["uid"], after)
        given = copy.deepcopy(after)
        self._tell(type_, resource, before, given, version)
        return given

    def _tell(
        self,
        type_: str,
        resource: Resource,
        before: Object | None,
        after: Object,
        version: int | None = None,
    ) -> None:
        version = version or self._next()
        after["metadata"]["resourceVersion"] = str(version)
        change = Change(version, type_, resource, before, json.loads(json.dumps(after)))
        self._history.append(change)
        if len(self._history) == REMEMBERED:
            self.oldest = self._history[0].version
        for listener in list(self.listeners):
            listener(change)

    def _next(self) -> int:
        """A version that no earlier start of this platform gave either."""
        self._version = max(self._version + 1, time.time_ns() // 1_000)
        return self._version

    def _table(self, name: str) -> Table:
        if name not in self._tables:
            self._tables[name] = Table(self._folder / name)
        return self._tables[name]


def owned_by(owner: Object) -> Object:
    """As what it brings about names it, to go with it."""
    meta = owner["metadata"]
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def now() -> str:
    """The time as objects carry it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    """Another thread may have removed the object since it was found."""
    try:
        yield
    except Refused as why:
        if why.reason != "NotFound":
            raise


def _key(thing: Object) -> tuple[str, str]:
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


def _owners(thing: Object) -> list[str | None]:
    """By their uids. What an earlier start has kept may be of any kind."""
    references = thing["metadata"].get("ownerReferences")
    return [_uid(each) for each in references] if isinstance(references, list) else []


def _uid(reference: Any) -> str | None:
    return reference.get("uid") if isinstance(reference, dict) else None
