"""What clients may say about an object of any kind: lists and deletions read it of all of them."""

from collections.abc import Callable
from typing import Any

from include.local_cloud.kubernetes.status import invalid

Metadata = dict[str, Any]
OWNER = ("apiVersion", "kind", "name", "uid")
# What the server alone says of an object.
OF_SERVER = (
    *("uid", "creationTimestamp", "generation", "resourceVersion"),
    *("deletionTimestamp", "deletionGracePeriodSeconds"),
)


def is_texts(value: Any) -> bool:
    """Whether it is an object whose values are texts."""
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def checked(kind: str, meta: Any, name: str = "") -> Metadata:
    """What is said, without what is null; refused where it is of another kind than theirs."""
    if meta is None:
        return {}
    if not isinstance(meta, dict):
        raise invalid(kind, name, "metadata", f"Invalid value: {meta!r:.100}: must be an object")
    said = {field: value for field, value in meta.items() if value is not None}
    for field, what, good in FIELDS:
        if field in said and not good(said[field]):
            why = f"Invalid value: {said[field]!r:.100}: must be {what}"
            raise invalid(kind, name, f"metadata.{field}", why)
    return said


def of_client(meta: Metadata) -> Metadata:
    """What a client may say of a new object."""
    return {field: value for field, value in meta.items() if field not in OF_SERVER}


def merged(before: Metadata, given: Metadata) -> Metadata:
    """What a change makes of it; by a version the client says which object it has seen."""
    kept = {field: before[field] for field in OF_SERVER if field in before}
    seen = {field: given[field] for field in ("resourceVersion",) if field in given}
    return of_client(given) | kept | seen


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_owner(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(part), str) and value[part] for part in OWNER
    )


def _is_list_of_owners(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_owner, value))


TEXTS = ("name", "generateName", "namespace", "uid", "resourceVersion")
FIELDS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    *((field, "a text", _is_text) for field in TEXTS),
    *((field, "an object with texts", is_texts) for field in ("labels", "annotations")),
    ("finalizers", "a list of texts", _is_list_of_texts),
    ("ownerReferences", f"a list of objects with {', '.join(OWNER)}", _is_list_of_owners),
)
