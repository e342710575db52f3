"""Lists as the API gives them: filtered, sorted, in pages."""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

from include.local_cloud.kubeflow.errors import invalid

FIELDS = {
    "id",
    "name",
    "display_name",
    "description",
    "created_at",
    "finished_at",
    "experiment_id",
    "run_id",
    "pipeline_id",
    "state",
    "storage_state",
    "namespace",
}
PAGE, LONGEST_PAGE = 20, 200
# A client may name an operation, or give its number in the protocol.
NUMBERS = {1: "EQUALS", 2: "NOT_EQUALS", 8: "IN", 9: "IS_SUBSTRING"}
OPERATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "EQUALS": lambda value, wanted: value == wanted,
    "NOT_EQUALS": lambda value, wanted: value != wanted,
    "IN": lambda value, wanted: value in wanted,
    "IS_SUBSTRING": lambda value, wanted: wanted in value,
}


def page(
    things: list[dict[str, Any]], key: str, asked: Mapping[str, str], *, default_sort: str
) -> dict[str, Any]:
    """The page that was asked for, as the response that carries `things` under `key`."""
    tests = [_test(predicate) for predicate in _predicates(asked.get("filter", ""))]
    found = [thing for thing in things if all(fits(thing) for fits in tests)]
    field, _, order = (asked.get("sort_by") or default_sort).partition(" ")
    if field not in FIELDS or order not in ("", "asc", "desc"):
        raise invalid(f"Invalid sorting field: {asked.get('sort_by')!r}")
    found.sort(key=lambda thing: str(_value(thing, field)), reverse=order == "desc")
    first, size = _first(asked.get("page_token", "")), _size(asked.get("page_size", ""))
    answer: dict[str, Any] = {key: found[first : first + size], "total_size": len(found)}
    if first + size < len(found):
        answer["next_page_token"] = base64.b64encode(str(first + size).encode()).decode()
    return {name: value for name, value in answer.items() if value}


def _predicates(text: str) -> list[dict[str, Any]]:
    try:
        return list(json.loads(text or "{}").get("predicates", []))
    except (ValueError, AttributeError):
        raise invalid(f"failed to parse filter: {text!r}") from None


def _test(predicate: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
    field, operation = predicate.get("key", ""), predicate.get("operation")
    name = NUMBERS.get(operation, "") if isinstance(operation, int) else str(operation)
    if field not in FIELDS:
        raise invalid(f"no support for filtering on unrecognized field {field!r}")
    if name not in OPERATIONS:
        raise invalid(f"unsupported predicate operation {operation!r}")
    wanted = predicate.get("string_value", predicate.get("stringValue"))
    if name == "IN":
        wanted = predicate.get("string_values", predicate.get("stringValues", {})).get("values")
    if wanted is None:
        raise invalid(f"predicate on {field!r} has no value that can be compared here")
    return lambda thing: OPERATIONS[name](str(_value(thing, field)), wanted)


def _value(thing: dict[str, Any], field: str) -> Any:
    return thing.get("display_name" if field == "name" else field, "")


def _first(token: str) -> int:
    try:
        return int(base64.b64decode(token) or 0)
    except (ValueError, binascii.Error):
        raise invalid(f"invalid page token {token!r}") from None


def _size(text: str) -> int:
    if text and not text.isdecimal():
        raise invalid("The page size should be greater than 0")
    return min(int(text or 0), LONGEST_PAGE) or PAGE
