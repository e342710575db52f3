"""What kind of value stands where in a request. What is kept is shown in every list after."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from include.local_cloud.azure_ml.protocol import Refused

SPECIAL = ("NaN", "Infinity", "-Infinity")  # JSON has no numbers for them


class Kind(NamedTuple):
    """A kind of value: what it is called, and whether a value is of it."""

    what: str
    good: Callable[[Any], bool]


def _is_measure(value: Any) -> bool:
    number = type(value) in (int, float) and abs(value) <= sys.float_info.max
    return number or value in SPECIAL


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _is_values(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, str | int | float) for each in value.values()
    )


TEXT = Kind("a text that is not empty", lambda value: isinstance(value, str) and value != "")
ANY_TEXT = Kind("a text", lambda value: isinstance(value, str))
TEXTS = Kind("an object with texts", _is_texts)
VALUES = Kind("an object with texts and numbers", _is_values)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number", lambda value: type(value) is int and abs(value) < 2**63)
MEASURE = Kind("a number", _is_measure)
Fields = Mapping[str, Kind]


def check(code: str, thing: Any, wanted: Fields, optional: Fields) -> None:
    """Refuse what lacks a wanted field, or has a field of another kind."""
    if not isinstance(thing, dict):
        raise Refused(400, code, f"An object is wanted, not {thing!r:.100}")
    for name, kind in {**wanted, **optional}.items():
        value = thing.get(name)
        missing = value is None and name in optional
        if not missing and not kind.good(value):
            raise Refused(400, code, f"'{name}' must be {kind.what}, and is {value!r:.100}")


def checked_list(code: str, things: Any, wanted: Fields, optional: Fields) -> list[dict[str, Any]]:
    """The list of objects that each have these fields; nothing counts as an empty one."""
    if things is None:
        return []
    if not isinstance(things, list):
        raise Refused(400, code, f"A list is wanted, not {things!r:.100}")
    for each in things:
        check(code, each, wanted, optional)
    return things
