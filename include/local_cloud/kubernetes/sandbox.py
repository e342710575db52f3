"""What a container finds when it starts: its command, its environment, its volumes.

A process has no file system of its own. So a volume is a folder, and where a command, an argument
or a variable names a mount path, it is given that folder instead. A path that is written inside a
program's file stays as it is: such a program should take its paths as arguments or variables.
"""

import base64
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from include.local_cloud import server
from include.local_cloud.kubernetes import resources
from include.local_cloud.kubernetes.objects import Object, Store
from include.local_cloud.kubernetes.resources import Resource
from include.processes import BELONGS_TO

# A file directly in /tmp is a container's own: Airflow's @task.kubernetes writes two there.
OWN_FILE = re.compile(r"(?<![\w./-])/tmp/(?P<name>[\w-]+\.\w+)(?![\w./-])")
REFERENCE = re.compile(r"\$(\$|\((?P<name>[A-Za-z_][\w.-]*)\))")
LABELLED = re.compile(r"metadata\.(?P<kind>labels|annotations)\['(?P<key>[^']+)'\]")
# A claim with this note is this machine's own files: what is mounted at a path is what is there.
OF_THIS_MACHINE, AS_IT_IS = "local-cloud/of-this-machine", Path("as it is")
TERMINATION_LOG = "/dev/termination-log"
# Of this process's own environment; the rest (connections, tokens) is nobody's business there.
PASSED_ON = (BELONGS_TO, "LANG", "LC_ALL", "OMP_NUM_THREADS", "PYTHONPATH", "TZ")


class NotReady(Exception):
    """A container that can't be started yet, as its waiting state says."""

    def __init__(self, reason: str, message: str) -> None:
        """With the machine's word and the reader's."""
        super().__init__(message)
        self.reason, self.message = reason, message


class Prepared(NamedTuple):
    """All that starting a container takes."""

    command: list[str]
    env: dict[str, str]
    folder: Path
    last_word: Path
    """What the container leaves there is the message of its end."""
    local: Callable[[str], str]
    """Put folders in the place of mount paths."""


@dataclass(frozen=True)
class Sandbox:
    """What the containers of one pod share."""

    store: Store
    pod: Object
    folder: Path
    claims: Path
    """Where the volumes are that outlive a pod."""

    @property
    def namespace(self) -> str:
        """Of the pod, and of all that it refers to."""
        return str(self.pod["metadata"]["namespace"])

    def volumes(self) -> dict[str, Path]:
        """The pod's volumes as folders, made and filled."""
        volumes = self.pod["spec"].get("volumes") or []
        return {volume["name"]: self._volume(volume) for volume in volumes}

    def prepare(self, container: Object, volumes: Mapping[str, Path]) -> Prepared:
        """See that a container has what it needs, or say what is missing."""
        own = self.folder / "containers" / container["name"]
        (own / "tmp").mkdir(parents=True, exist_ok=True)
        mounts = {TERMINATION_LOG: own / "termination-log"}
        if "terminationMessagePath" in container:
            mounts[container["terminationMessagePath"]] = own / "termination-log"
        for mount in container.get("volumeMounts") or []:
            if mount["name"] not in volumes:
                message = f"volume {mount['name']!r} of container {container['name']!r} not found"
                raise NotReady("CreateContainerConfigError", message)
            place, path = volumes[mount["name"]], mount["mountPath"].rstrip("/")
            mounts[path] = Path(path) if place == AS_IT_IS else place / mount.get("subPath", "")

        paths = "|".join(map(re.escape, sorted(mounts, key=len, reverse=True)))
        named = re.compile(rf"(?:(?<![\w./-])|(?<=file://))(?:{paths})(?![\w.-])")

        def local(text: str) -> str:
            text = named.sub(lambda found: str(mounts[found[0]]), text)
            return OWN_FILE.sub(lambda found: str(own / "tmp" / found["name"]), text)

        given = self._variables(container)
        command = [
            local(_expanded(each, given))
            for each in [*(container.get("command") or []), *(container.get("args") or [])]
        ]
        if not container.get("command"):
            command = []
        folder = Path(local(container.get("workingDir") or str(own)))
        env = {
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
            "HOME": str(own),
            "HOSTNAME": self.pod["metadata"]["name"],
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONUNBUFFERED": "1",  # what is printed shall be seen while it runs
            "TMPDIR": str(own / "tmp"),
            **{name: local(value) for name, value in given.items()},
        }
        return Prepared(
            command, env, folder if folder.is_dir() else own, mounts[TERMINATION_LOG], local
        )

    def _volume(self, volume: Object) -> Path:
        folder: Path = self.folder / "volumes" / volume["name"]
        if "hostPath" in volume:
            return Path(str(volume["hostPath"]["path"]))
        if claim := volume.get("persistentVolumeClaim"):
            found = self._object(resources.CLAIMS, claim["claimName"], False, "FailedMount")
            folder = self.claims / str(found["metadata"]["uid"])
            if OF_THIS_MACHINE in (found["metadata"].get("annotations") or {}):
                return AS_IT_IS
        folder.mkdir(parents=True, exist_ok=True)
        if source := volume.get("configMap"):
            optional = source.get("optional", False)
            found = self._object(resources.CONFIG_MAPS, source["name"], optional, "FailedMount")
            _fill(folder, _content(found), source.get("items"))
        elif source := volume.get("secret"):
            optional = source.get("optional", False)
            found = self._object(resources.SECRETS, source["secretName"], optional, "FailedMount")
            _fill(folder, _content(found), source.get("items"))
        elif not {"emptyDir", "persistentVolumeClaim"} & volume.keys():
            (kind,) = volume.keys() - {"name"}
            message = f"volumes of the type {kind} are not implemented by the local cloud"
            raise NotReady("FailedMount", message)
        return folder

    def _variables(self, container: Object) -> dict[str, str]:
        variables: dict[str, str] = {}
        for source in container.get("envFrom") or []:
            kind = resources.CONFIG_MAPS if "configMapRef" in source else resources.SECRETS
            reference = source.get("configMapRef") or source["secretRef"]
            found = self._object(kind, reference["name"], reference.get("optional", False))
            prefix = source.get("prefix", "")
            content = _content(found).items()
            variables |= {prefix + name: text.decode() for name, text in content}
        for variable in container.get("env") or []:
            if origin := variable.get("valueFrom"):
                value = self._value(origin)
                if value is not None:
                    variables[variable["name"]] = value
            else:
                variables[variable["name"]] = _expanded(variable.get("value") or "", variables)
        return variables

    def _value(self, origin: Object) -> str | None:
        if field := origin.get("fieldRef"):
            return self._field(field["fieldPath"])
        for name, kind in (
            ("configMapKeyRef", resources.CONFIG_MAPS),
            ("secretKeyRef", resources.SECRETS),
        ):
            if reference := origin.get(name):
                optional = reference.get("optional", False)
                content = _content(self._object(kind, reference["name"], optional))
                if reference["key"] not in content and not optional:
                    message = f"couldn't find key {reference['key']} in {kind.kind} " + (
                        f"{self.namespace}/{reference['name']}"
                    )
                    raise NotReady("CreateContainerConfigError", message)
                found = content.get(reference["key"])
                return None if found is None else found.decode()
        message = f"variables from {', '.join(origin)} are not implemented by the local cloud"
        raise NotReady("CreateContainerConfigError", message)

    def _field(self, path: str) -> str:
        meta = self.pod["metadata"]
        if found := LABELLED.fullmatch(path):
            return str((meta.get(found["kind"]) or {}).get(found["key"], ""))
        known = {
            "metadata.name": meta["name"],
            "metadata.namespace": meta["namespace"],
            "metadata.uid": meta["uid"],
            "spec.nodeName": "local",
            "spec.serviceAccountName": self.pod["spec"].get("serviceAccountName", "default"),
            "status.hostIP": server.HOST,
            "status.podIP": server.HOST,
        }
        if path not in known:
            message = f"the field {path} is not implemented by the local cloud"
            raise NotReady("CreateContainerConfigError", message)
        return str(known[path])

    def _object(
        self,
        kind: Resource,
        name: str,
        optional: bool,
        reason: str = "CreateContainerConfigError",
    ) -> Object:
        found = self.store.find(kind, self.namespace, name)
        if found is None and not optional:
            raise NotReady(reason, f'{kind.plural[:-1]} "{name}" not found')
        return found or {}


def _content(thing: Object) -> dict[str, bytes]:
    """What a config map or a secret holds."""
    if thing.get("kind") == "Secret":
        return {name: base64.b64decode(text) for name, text in (thing.get("data") or {}).items()}
    plain = {name: text.encode() for name, text in (thing.get("data") or {}).items()}
    binary = thing.get("binaryData") or {}
    return plain | {name: base64.b64decode(text) for name, text in binary.items()}


def _fill(folder: Path, content: Mapping[str, bytes], items: list[dict[str, Any]] | None) -> None:
    chosen = (
        {each["key"]: each["path"] for each in items} if items else {name: name for name in content}
    )
    for key, path in chosen.items():
        if key not in content:
            raise NotReady("FailedMount", f"references non-existent config key: {key}")
        target = (folder / path).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise NotReady("FailedMount", f"invalid item path: {path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        server.write(target, content[key])


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` is a variable's value where there is one, `$$` a dollar sign."""

    def value(found: re.Match[str]) -> str:
        if found["name"] is None:
            return "$"
        return variables.get(found["name"], found[0])

    return REFERENCE.sub(value, text)
