"""What Vertex AI keeps: its own messages, by their names, on disk."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.cloud.aiplatform_v1 import types
from google.protobuf import json_format, timestamp_pb2

from include.local_cloud.state import Table
from include.local_cloud.vertex import rpc

# As long as the names below it may be, they fit into the names of files.
PARENT = re.compile(r"projects/[a-z0-9][a-z0-9.:-]{0,29}/locations/[a-z0-9-]{1,30}")
CONDITION = re.compile(r"""\s*([\w.]+)\s*=\s*["']?([^"']*?)["']?\s*""")
LONGEST_NAME = 128
KINDS = {
    "datasets": types.Dataset,
    "trainingPipelines": types.TrainingPipeline,
    "customJobs": types.CustomJob,
    "models": types.Model,
    "evaluations": types.ModelEvaluation,
    "endpoints": types.Endpoint,
    "batchPredictionJobs": types.BatchPredictionJob,
}


class Things:
    """All of one kind."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Open what was kept."""
        self.kind, self._type = kind, KINDS[kind]
        self._table = Table(folder / kind)
        self._lock = threading.RLock()

    def names(self) -> list[str]:
        """Those there are."""
        return list(self._table)

    def create(self, parent: str, wanted: Any) -> Any:
        """Give it a name and keep it."""
        named(parent, wanted)
        wanted.name = f"{parent}/{self.kind}/{rpc.number()}"
        wanted.create_time = wanted.update_time = now()
        return self.put(wanted.name, wanted)

    def put(self, name: str, thing: Any) -> Any:
        """Keep it under a name, if it can be read again: all lists hold it from now on."""
        said = json_format.MessageToDict(self._type.pb(thing))
        self._read(said)
        self._table.put(name, said)
        return thing

    def get(self, name: str) -> Any:
        """One of them."""
        found = self._table.get(name)
        if found is None:
            what = self._type.__name__
            raise rpc.Refused(grpc.StatusCode.NOT_FOUND, f"The {what} does not exist: {name}")
        return self._read(found)

    def all(self) -> list[Any]:
        """All of them."""
        return [self._read(found) for found in self._table.all()]

    def list(self, parent: str, condition: str) -> list[Any]:
        """Those below a parent that fulfil a condition, newest first."""
        wanted = conditions(condition)
        found = [
            each
            for each in self.all()
            if each.name.startswith(f"{parent}/") and all(fits(each) for fits in wanted)
        ]
        return sorted(found, key=lambda each: each.create_time, reverse=True)

    @contextmanager
    def change(self, name: str) -> Iterator[Any]:
        """Change one, alone."""
        with self._lock:
            found = self.get(name)
            yield found
            if hasattr(found, "update_time"):
                found.update_time = now()
            self.put(name, found)

    def drop(self, name: str) -> None:
        """Forget one."""
        self.get(name)
        self._table.drop(name)

    def _read(self, found: dict[str, Any]) -> Any:
        thing = self._type()
        json_format.ParseDict(found, self._type.pb(thing))
        return thing


def named(parent: str, wanted: Any) -> None:
    """Refuse what has no parent or no good name to show."""
    if not PARENT.fullmatch(parent):
        raise rpc.invalid(f"Invalid resource name: {parent!r}")
    if not 0 < len(wanted.display_name) <= LONGEST_NAME:
        raise rpc.invalid(
            f"List of found errors: 1.Field: display_name; Message: it has "
            f"{len(wanted.display_name)} characters, and must have 1 to {LONGEST_NAME}."
        )


def conditions(text: str) -> list[Callable[[Any], bool]]:
    """The filter of a list call: fields and what they must be, joined by AND."""
    found: list[Callable[[Any], bool]] = []
    for part in filter(None, re.split(r"\s+AND\s+", text)):
        condition = CONDITION.fullmatch(part)
        field, _, label = condition[1].partition(".") if condition else ("", "", "")
        if condition is None or field not in ("display_name", "state", "labels"):
            raise rpc.invalid(f"The local cloud does not know the filter {part!r}.")

        found.append(partial(_fits, field, label, condition[2]))
    return found


def _fits(field: str, label: str, wanted: str, thing: Any) -> bool:
    if field == "labels":
        return bool(thing.labels.get(label) == wanted)
    value = getattr(thing, field, None)
    return bool(getattr(value, "name", value) == wanted)


def now() -> Any:
    """The moment, as a message."""
    moment = timestamp_pb2.Timestamp()
    moment.GetCurrentTime()
    return moment
