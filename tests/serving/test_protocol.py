"""A request is read strictly: each fault is refused with its place, its kind and what is wanted."""

import json
import time
from dataclasses import FrozenInstanceError

import pytest

from include.serving import protocol
from include.serving.protocol import Column, Refused

PLAN, FEE, AGE = Column("plan", "string"), Column("fee", "double"), Column("age", "long")
COLUMNS = [PLAN, FEE, AGE]
ROWS = [["yearly", 1.0, 30], ["monthly", 2.5, 40]]
SPLIT = {"columns": ["age", "plan", "fee"], "data": [[30, "yearly", 1], [40, "monthly", 2.5]]}
RECORDS = [{"age": 30, "plan": "yearly", "fee": 1}, {"fee": 2.5, "age": 40, "plan": "monthly"}]
INPUTS = {"age": [30, 40], "plan": ["yearly", "monthly"], "fee": [1, 2.5]}
ALL = {"dataframe_split": SPLIT, "dataframe_records": RECORDS, "inputs": INPUTS}
NAMES = [f"c{number}" for number in range(1001)]


def read(document, columns=COLUMNS):
    return protocol.rows(json.dumps(document).encode(), columns)


@pytest.mark.parametrize("form", ALL)
def test_each_form_comes_out_as_rows_in_the_order_of_the_signature(form):
    found = read({form: ALL[form]})
    assert found == ROWS
    assert [type(value) for row in found for value in row] == [str, float, int] * 2


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        *[(kind, value, True) for kind in ("long", "integer") for value in (0, 2**63 - 1, -7)],
        *[
            (kind, value, False)
            for kind in ("long", "integer")
            for value in (2**63, -(2**63), True, 1.0, "1", None)
        ],
        *[(kind, value, True) for kind in ("double", "float") for value in (0, 1.5, -(10**300))],
        *[
            (kind, value, False)
            for kind in ("double", "float")
            for value in (float("nan"), float("inf"), 10**400, True, "1", None)
        ],
        ("string", "", True),
        ("string", "\xe9", True),
        ("string", "\ud800", False),
        ("string", 1, False),
        ("string", None, False),
        ("boolean", True, True),
        ("boolean", False, True),
        ("boolean", 0, False),
        ("boolean", None, False),
    ],
)
def test_a_value_is_of_its_kind_or_not(kind, value, fits):
    assert protocol.KINDS[kind][0](value) is fits


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("long", "a whole number"),
        ("integer", "a whole number"),
        ("double", "a finite number"),
        ("float", "a finite number"),
        ("string", "a text"),
        ("boolean", "true or false"),
    ],
)
def test_a_value_that_does_not_fit_is_shown_beside_what_is_wanted(kind, wanted):
    with pytest.raises(Refused) as refused:
        Column("a name", kind).checked(["long" * 20], 7)
    shown = '["' + ("long" * 20)[:38]
    assert str(refused.value) == f"'a name' in row 7 must be {wanted}, not {shown}"
    assert refused.value.status == 422


def test_numbers_become_floats_where_the_model_wants_floats():
    for kind, kept in (("double", float), ("float", float), ("long", int), ("integer", int)):
        value = Column("fee", kind).checked(3, 0)
        assert (value, type(value)) == (3, kept)
    assert Column("plan", "string").checked("yearly", 0) == "yearly"


def test_a_column_stays_as_it_is():
    with pytest.raises(FrozenInstanceError):
        Column("plan", "string").kind = "long"


SPLIT_FORM = "'dataframe_split' must be an object with 'columns' and 'data'"
SPLIT_LISTS = "'dataframe_split' must have the lists 'columns' and 'data'"
RECORDS_FORM = "'dataframe_records' must be a list of objects"
INPUTS_FORM = "'inputs' must be an object with a list for each column"
FORMS = "the body must have exactly one of dataframe_split, dataframe_records, inputs"
NO_ROW = "there is no row to score"
LONG = "x" * 100
UNREAD = "which nothing reads"


def split(**other):
    return {"dataframe_split": SPLIT | other}


@pytest.mark.parametrize(
    ("document", "status", "says"),
    [
        ([], 400, "the body must be a JSON object"),
        ({}, 400, FORMS),
        ({"dataframe_split": SPLIT, "inputs": INPUTS}, 400, FORMS),
        (
            {"inputs": INPUTS, LONG: 1, "y": 1},
            400,
            f"the body has the member '{LONG[:80]}', {UNREAD}",
        ),
        ({"dataframe_split": [SPLIT]}, 422, SPLIT_FORM),
        ({"dataframe_split": {"columns": ["age"]}}, 422, SPLIT_LISTS),
        ({"dataframe_split": {"data": [[1]]}}, 422, SPLIT_LISTS),
        (
            split(index=[0, 1]),
            400,
            f"'dataframe_split' has the member 'index', {UNREAD}",
        ),
        (split(columns=["age", "plan", 3]), 422, "'columns' must be names"),
        (
            split(columns=["a", "plan", "plan", "age", "age"]),
            422,
            "the column 'plan' is there more than once",
        ),
        (split(columns=[LONG, LONG]), 422, f"the column '{LONG[:80]}' is there more than once"),
        (
            split(data=[[30, "yearly", 1], [30, "yearly"]]),
            422,
            "row 1 of 'data' must be a list of 3 values",
        ),
        (split(data=["abc"]), 422, "row 0 of 'data' must be a list of 3 values"),
        (split(data=[]), 422, NO_ROW),
        ({"dataframe_records": {}}, 422, RECORDS_FORM),
        ({"dataframe_records": {"age": {}}}, 422, RECORDS_FORM),
        ({"dataframe_records": [{}, []]}, 422, RECORDS_FORM),
        ({"dataframe_records": []}, 422, NO_ROW),
        (
            {"dataframe_records": [RECORDS[0], RECORDS[1], {"age": 1, "plans": "x", "fee": 1}]},
            422,
            "row 2 differs from the first one in 'plan'",
        ),
        (
            {"dataframe_records": [RECORDS[0], RECORDS[0] | {"more": 1}]},
            422,
            "row 1 differs from the first one in 'more'",
        ),
        ({"inputs": [[1]]}, 422, INPUTS_FORM),
        ({"inputs": {"age": [1], "plan": "x"}}, 422, INPUTS_FORM),
        ({"inputs": {}}, 422, NO_ROW),
        ({"inputs": {"age": []}}, 422, NO_ROW),
        (
            {"inputs": {"age": [1], "plan": []}},
            422,
            "the lists in 'inputs' must have equal lengths",
        ),
        ({"inputs": {"fee": [1]}}, 422, "the model also wants the column 'plan'"),
        ({"inputs": {"plan": ["x"]}}, 422, "the model also wants the column 'fee'"),
        (
            {"inputs": INPUTS | {LONG: [1, 2], "y": [1, 2]}},
            422,
            f"the model knows no column '{LONG[:80]}'",
        ),
        (
            {"inputs": INPUTS | {"age": [30, 0.5]}},
            422,
            "'age' in row 1 must be a whole number, not 0.5",
        ),
    ],
)
def test_what_can_not_be_used_is_refused_with_its_place(document, status, says):
    with pytest.raises(Refused) as refused:
        read(document)
    assert (str(refused.value), refused.value.status) == (says, status)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_what_is_no_json_is_refused_with_the_place(body, says):
    with pytest.raises(Refused) as refused:
        protocol.rows(body, COLUMNS)
    assert (str(refused.value), refused.value.status) == (f"the body is not JSON: {says}", 400)


def test_a_long_reason_is_cut(monkeypatch):
    def fails(text):
        raise RecursionError("x" * 200)

    monkeypatch.setattr(json, "loads", fails)
    with pytest.raises(Refused) as refused:
        protocol.rows(b"{}", COLUMNS)
    assert (str(refused.value), refused.value.status) == (
        f"the body is not JSON: {'x' * 120}",
        400,
    )


@pytest.mark.parametrize(
    "form",
    [
        lambda names, rows: {"dataframe_split": {"columns": names, "data": rows}},
        lambda names, rows: {
            "dataframe_records": [dict(zip(names, row, strict=True)) for row in rows]
        },
        lambda names, rows: {"inputs": dict(zip(names, zip(*rows, strict=True), strict=True))},
    ],
    ids=protocol.FORMS,
)
def test_a_thousand_rows_and_a_thousand_columns_are_taken_and_not_one_more(form):
    assert len(read(form(["age"], [[1]] * 1000), [AGE])) == 1000
    columns = [Column(name, "long") for name in NAMES]
    assert read(form(NAMES[:1000], [[1] * 1000]), columns[:1000]) == [[1] * 1000]
    for rows, names, says in (
        (1001, ["age"], "1001 rows at once, at most 1000 are taken"),
        (1, NAMES, "1001 columns, at most 1000 are taken"),
    ):
        with pytest.raises(Refused) as refused:
            read(form(names, [[1] * len(names)] * rows), [AGE])
        assert (str(refused.value), refused.value.status) == (says, 413)


def test_a_body_has_at_most_a_mebibyte():
    body = json.dumps({"inputs": INPUTS}).encode()
    assert protocol.rows(body.ljust(2**20), COLUMNS) == ROWS
    with pytest.raises(Refused) as refused:
        protocol.rows(body.ljust(2**20 + 1), COLUMNS)
    says = "the body has 1048577 bytes, at most 1048576 are taken"
    assert (str(refused.value), refused.value.status) == (says, 413)


def test_a_signature_is_read_as_mlflow_writes_it():
    inputs = [
        {"name": "plan", "type": "string", "required": True},
        {"name": "fee", "type": "double"},
    ]
    assert protocol.signature(json.dumps(inputs)) == [PLAN, FEE]
    inputs += [{"name": "picture", "type": "binary"}, {"name": "day", "type": "any"}]
    says = r"^the model wants inputs of kinds that are not served: \['any', 'binary'\]$"
    with pytest.raises(ValueError, match=says):
        protocol.signature(json.dumps(inputs))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_an_answer_without_a_finite_number_is_refused_with_its_row(number):
    with pytest.raises(Refused) as refused:
        protocol.refuse_undefined([0.5, "yes", None, 10**400, number, 0.5])
    assert (
        str(refused.value) == "the model has no finite answer to row 4: its numbers are too large"
    )
    protocol.refuse_undefined([0.5, "yes", None, 10**400, 0])


def test_a_thousand_names_are_compared_in_no_time():
    columns = [protocol.Column(str(number), "long") for number in range(1000)]
    body = {"columns": [column.name for column in columns], "data": [[1] * 1000] * 100}
    began = time.process_time()
    assert len(protocol.rows(json.dumps({"dataframe_split": body}).encode(), columns)) == 100
    assert time.process_time() - began < 1
