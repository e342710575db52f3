"""Which objects a list, a watch or a deletion of many is about."""

import re
from collections.abc import Callable
from typing import Any

from include.local_cloud.kubernetes.status import bad_request

Matches = Callable[[dict[str, Any]], bool]
_BETWEEN = re.compile(r",(?![^(]*\))")  # the commas that are not inside `in (a, b)`
_IN = re.compile(r"(?P<key>[^\s!=,()]+)\s+(?P<word>in|notin)\s*\((?P<values>[^)]*)\)")
_EQUAL = re.compile(r"(?P<key>[^\s!=,()]+)\s*(?P<sign>==|=|!=)\s*(?P<value>[^\s!=,()]*)")
_THERE = re.compile(r"(?P<no>!?)\s*(?P<key>[^\s!=,()]+)")


def labelled(selector: str) -> Matches:
    """By labels: `a=b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`, `!a`, all of them together."""
    demands = [_demand(part.strip(), selector) for part in _BETWEEN.split(selector) if part.strip()]

    def matches(thing: dict[str, Any]) -> bool:
        given = thing["metadata"].get("labels")
        labels = given if isinstance(given, dict) else {}
        return all(demand(labels) for demand in demands)

    return matches


def with_fields(selector: str) -> Matches:
    """By fields: `metadata.name=x,status.phase!=Failed`."""
    demands = []
    for part in filter(None, selector.split(",")):
        found = _EQUAL.fullmatch(part.strip())
        if not found:
            raise bad_request(f'invalid selector: "{selector}"; can\'t understand "{part}"')
        demands.append((found["key"].split("."), found["sign"] != "!=", found["value"]))

    def matches(thing: dict[str, Any]) -> bool:
        return all((_at(thing, path) == value) is wanted for path, wanted, value in demands)

    return matches


def _demand(text: str, selector: str) -> Matches:
    if found := _IN.fullmatch(text):
        key, values = found["key"], {each.strip() for each in found["values"].split(",")}
        inside = found["word"] == "in"
        return lambda labels: (labels.get(key) in values) is inside
    if found := _EQUAL.fullmatch(text):
        key, value, equal = found["key"], found["value"], found["sign"] != "!="
        return lambda labels: (labels.get(key) == value) is equal
    if found := _THERE.fullmatch(text):
        key, there = found["key"], not found["no"]
        return lambda labels: (key in labels) is there
    raise bad_request(f"unable to parse requirement: {text!r} in {selector!r}")


def _at(thing: Any, path: list[str]) -> str:
    for part in path:
        thing = thing.get(part, "") if isinstance(thing, dict) else ""
    return str(thing)
