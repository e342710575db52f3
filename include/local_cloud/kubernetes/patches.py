"""The three ways in which clients say what shall change in an object."""

import copy
from typing import Any

from include.local_cloud.kubernetes.status import Refused, bad_request, not_implemented

# By which field the entries of a list are told apart when a list is merged, not replaced.
KEYS = {
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "volumeMounts": "mountPath",
    "volumes": "name",
}


def patched(thing: dict[str, Any], patch: Any, content_type: str) -> dict[str, Any]:
    """The object with the patch, by the rules that the content type names."""
    result = copy.deepcopy(thing)
    match content_type:
        case "application/json-patch+json":
            for step in patch:
                _step(result, step)
        case "application/merge-patch+json":
            _merge(result, patch, {})
        case "application/strategic-merge-patch+json":
            _merge(result, patch, KEYS)
        case "application/apply-patch+yaml":
            raise not_implemented("server-side apply")
        case _:
            message = f"the body of the request was in an unknown format: {content_type}"
            raise Refused(415, "UnsupportedMediaType", message)
    return result


def _merge(thing: dict[str, Any], patch: dict[str, Any], keys: dict[str, str]) -> None:
    for name, value in patch.items():
        if value is None:
            thing.pop(name, None)
        elif isinstance(value, dict):
            if not isinstance(thing.get(name), dict):
                thing[name] = {}
            _merge(thing[name], value, keys)
        elif isinstance(value, list) and name in keys and isinstance(thing.get(name), list):
            _merge_list(thing[name], value, keys[name], keys)
        else:
            thing[name] = value


def _merge_list(entries: list[Any], patch: list[Any], key: str, keys: dict[str, str]) -> None:
    for change in patch:
        same = [entry for entry in entries if entry.get(key) == change.get(key)]
        if change.get("$patch") == "delete":
            entries[:] = [entry for entry in entries if entry not in same]
        elif "$patch" in change:
            raise not_implemented(f"$patch: {change['$patch']}")
        elif same:
            _merge(same[0], change, keys)
        else:
            entries.append(change)


def _step(thing: dict[str, Any], step: dict[str, Any]) -> None:
    *path, last = [
        part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]
    ]
    place: Any = thing
    try:
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place[part]
        at = len(place) if last == "-" else int(last) if isinstance(place, list) else last
        match step["op"]:
            case "add" if isinstance(place, list):
                place.insert(at, step["value"])
            case "add":
                place[at] = step["value"]
            case "replace":
                place[at]
                place[at] = step["value"]
            case "remove":
                del place[at]
            case "test" if place[at] != step["value"]:
                raise Refused(422, "Invalid", f"testing value {step['path']} failed")
            case "test":
                pass
            case other:
                raise not_implemented(f"JSON patch operation {other!r}")
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise bad_request(f"the JSON patch does not fit at {step.get('path')}: {error}") from None
