"""MLflow's scoring protocol, read strictly: what a model can't use is refused by name, with a 4xx.

A body is one of `{"dataframe_split": {"columns": […], "data": [[…]]}}`, `{"dataframe_records":
[{…}]}` or `{"inputs": {"column": […]}}`. Whatever the form, it comes out as rows in the order of
the signature's columns.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 2**20
MOST_ROWS = 1_000
MOST_COLUMNS = 1_000
FORMS = ("dataframe_split", "dataframe_records", "inputs")


class Refused(ValueError):
    """The request can't be answered; it says why, and nobody is hurt."""

    def __init__(self, reason: str, status: int = 422) -> None:
        """Name the field and the fault; 422 unless HTTP knows a better number."""
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Column:
    """One input of a model, as its signature has it."""

    name: str
    kind: str

    def checked(self, value: Any, row: int) -> Any:
        """Return the value as the model wants it, or say what is wrong with it."""
        fits, wanted = KINDS[self.kind]
        if not fits(value):
            shown = json.dumps(value)[:40]
            raise Refused(f"{self.name!r} in row {row} must be {wanted}, not {shown}")
        return float(value) if self.kind in ("double", "float") else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_text(value: Any) -> bool:
    """JSON can name half of a pair of surrogates, which is no character of any text."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "long": (_is_whole, "a whole number"),
    "integer": (_is_whole, "a whole number"),
    "double": (_is_number, "a finite number"),
    "float": (_is_number, "a finite number"),
    "string": (_is_text, "a text"),
    "boolean": (lambda value: isinstance(value, bool), "true or false"),
}


def signature(inputs: str) -> list[Column]:
    """The columns of a signature, as MLflow writes it into `MLmodel`."""
    columns = [Column(each["name"], each["type"]) for each in json.loads(inputs)]
    if unknown := sorted({column.kind for column in columns} - KINDS.keys()):
        raise ValueError(f"the model wants inputs of kinds that are not served: {unknown}")
    return columns


def refuse_undefined(numbers: Iterable[Any]) -> None:
    """Refuse a request whose answer holds a number that JSON does not have."""
    for row, number in enumerate(numbers):
        if isinstance(number, float) and not math.isfinite(number):
            raise Refused(f"the model has no finite answer to row {row}: its numbers are too large")


def rows(body: bytes, columns: Sequence[Column]) -> list[list[Any]]:
    """Read a request into rows that fit the columns, or refuse it."""
    if len(body) > MOST_BYTES:
        raise Refused(f"the body has {len(body)} bytes, at most {MOST_BYTES} are taken", 413)
    form, content = _form(body)
    given, table = _READERS[form](content)
    if not table:
        raise Refused("there is no row to score")
    at_hand = {name: place for place, name in enumerate(given)}
    known = {column.name for column in columns}
    if missing := [column.name for column in columns if column.name not in at_hand]:
        raise Refused(f"the model also wants the column {missing[0]!r}")
    if extra := [name for name in given if name not in known]:
        raise Refused(f"the model knows no column {extra[0][:80]!r}")
    places = [(column, at_hand[column.name]) for column in columns]
    return [
        [column.checked(row[at], number) for column, at in places]
        for number, row in enumerate(table)
    ]


def _form(body: bytes) -> tuple[str, Any]:
    try:
        document = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is not JSON: {str(error)[:120]}", 400) from None
    if not isinstance(document, dict):
        raise Refused("the body must be a JSON object", 400)
    forms = [form for form in FORMS if form in document]
    if len(forms) != 1:
        raise Refused(f"the body must have exactly one of {', '.join(FORMS)}", 400)
    (form,) = forms
    _refuse_members(document, {form}, "the body")
    return form, document[form]


def _from_split(content: Any) -> tuple[list[Any], list[list[Any]]]:
    if not isinstance(content, dict):
        raise Refused("'dataframe_split' must be an object with 'columns' and 'data'")
    columns, data = content.get("columns"), content.get("data")
    if not isinstance(columns, list) or not isinstance(data, list):
        raise Refused("'dataframe_split' must have the lists 'columns' and 'data'")
    _refuse_members(content, {"columns", "data"}, "'dataframe_split'")
    _refuse_many(len(data), len(columns))
    _refuse_doubles(columns)
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            raise Refused(f"row {number} of 'data' must be a list of {len(columns)} values")
    return columns, data


def _from_records(content: Any) -> tuple[list[Any], list[list[Any]]]:
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise Refused("'dataframe_records' must be a list of objects")
    columns = list(content[0]) if content else []
    _refuse_many(len(content), len(columns))
    for number, row in enumerate(content):
        if row.keys() != set(columns):
            odd = sorted(row.keys() ^ set(columns))[0]
            raise Refused(f"row {number} differs from the first one in {odd!r}")
    return columns, [[row[name] for name in columns] for row in content]


def _from_inputs(content: Any) -> tuple[list[Any], list[list[Any]]]:
    if not isinstance(content, dict) or not all(isinstance(v, list) for v in content.values()):
        raise Refused("'inputs' must be an object with a list for each column")
    for values in content.values():
        _refuse_many(len(values), len(content))
    try:
        return list(content), [list(row) for row in zip(*content.values(), strict=True)]
    except ValueError:
        raise Refused("the lists in 'inputs' must have equal lengths") from None


def _refuse_members(given: Mapping[str, Any], known: set[str], where: str) -> None:
    if more := given.keys() - known:
        raise Refused(f"{where} has the member {min(more)[:80]!r}, which nothing reads", 400)


def _refuse_many(rows: int, columns: int) -> None:
    if rows > MOST_ROWS:
        raise Refused(f"{rows} rows at once, at most {MOST_ROWS} are taken", 413)
    if columns > MOST_COLUMNS:
        raise Refused(f"{columns} columns, at most {MOST_COLUMNS} are taken", 413)


def _refuse_doubles(columns: list[Any]) -> None:
    if not all(isinstance(name, str) for name in columns):
        raise Refused("'columns' must be names")
    if doubled := [name for name, times in Counter(columns).items() if times > 1]:
        raise Refused(f"the column {doubled[0][:80]!r} is there more than once")


_READERS: Mapping[str, Callable[[Any], tuple[list[Any], list[list[Any]]]]] = {
    "dataframe_split": _from_split,
    "dataframe_records": _from_records,
    "inputs": _from_inputs,
}
