"""The scorer alone: MLflow's protocol, strictly; whatever comes in, it stays."""

import json
import math
import random
import string
import sys
import tempfile
import warnings
from types import SimpleNamespace

import httpx
import pytest
from fastapi.testclient import TestClient

from include import processes
from include.features.churn import preprocessor
from include.serving import engine, fleet, onnx_export, protocol
from include.serving import scorer as scorer_module
from include.serving.scorer import Faults, app
from include.training import model_format

FUZZED = 2000


@pytest.fixture(scope="module")
def scorer(exported, tmp_path_factory):
    """A scorer on a port of its own, in a process of its own."""
    folder, port = tmp_path_factory.mktemp("scorer"), processes.free_port()
    command = [
        *(sys.executable, "-m", "include.serving.scorer"),
        *("--model", str(exported), "--port", str(port), "--version", "7"),
    ]
    process = processes.start(folder, "scorer", command, {}, port)
    address = f"http://127.0.0.1:{port}"
    processes.wait_until_answers(f"{address}/ping", process)
    with httpx.Client(base_url=address) as client:
        yield client
    assert process.alive(), process.last_words()
    processes.stop(folder, [process])


def forms(rows):
    columns = list(rows[0])
    return {
        "dataframe_split": {"columns": columns, "data": [list(row.values()) for row in rows]},
        "dataframe_records": rows,
        "inputs": {name: [row[name] for row in rows] for name in columns},
    }


@pytest.mark.parametrize("form", protocol.FORMS)
def test_each_form_gets_the_answers_of_the_model(scorer, form, rows, model, customers):
    answer = scorer.post("/invocations", json={form: forms(rows)[form]})
    expected = model.predict_proba(customers.drop(columns="churned").head(len(rows)))[:, 1]
    assert answer.json()["scores"] == pytest.approx(expected.tolist(), abs=onnx_export.TOLERANCE)
    assert answer.headers["X-Model-Version"] == "7"


def test_columns_may_come_in_any_order(scorer, rows):
    turned = [dict(reversed(row.items())) for row in rows[:5]]
    asked = [scorer.post("/invocations", json={"dataframe_records": r}) for r in (rows[:5], turned)]
    assert asked[0].json() == asked[1].json()


def test_without_onnx_the_same_model_gives_the_same_answers(plain, exported, rows):
    values = [list(row.values()) for row in rows]
    by_skops, by_onnx = engine.load(str(plain)), engine.load(str(exported))
    assert (by_skops.runs_on, by_onnx.runs_on) == ("scikit-learn", "onnx")
    (labels, scores), (same_labels, same_scores) = by_skops.score(values), by_onnx.score(values)
    assert labels == same_labels
    assert scores == pytest.approx(same_scores, abs=onnx_export.TOLERANCE)


def test_a_model_is_read_from_the_registry_and_no_copy_is_left(
    exported, rows, mlflow_store, monkeypatch, tmp_path
):
    import mlflow

    registry = mlflow.MlflowClient(mlflow_store)
    registry.create_registered_model("copied")
    number = registry.create_model_version("copied", source=str(exported)).version
    mlflow.set_tracking_uri(mlflow_store)  # whatever a test before this one has set
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    values = [list(row.values()) for row in rows]
    read = engine.load(f"models:/copied/{number}")
    assert read.score(values) == engine.load(exported.as_uri()).score(values)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_onnx_would_change_is_not_exported(customers):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline

    from include.features.churn import preprocessor

    example = customers.drop(columns="churned")
    forest = make_pipeline(preprocessor(), RandomForestClassifier(20, random_state=0))
    forest.fit(example, customers["churned"])
    with pytest.raises(onnx_export.DifferentAnswers, match="differ from the model's by up to 0"):
        onnx_export.exported(forest, example)


def spoiled(rows, **changes):
    return [{**rows[0], **changes}]


REFUSED = {
    "no JSON": (lambda rows: b"{", 400, "not JSON"),
    "a list": (lambda rows: b"[]", 400, "must be a JSON object"),
    "no form": (lambda rows: {}, 400, "exactly one of"),
    "two forms": (lambda rows: {"inputs": {}, "dataframe_records": []}, 400, "exactly one of"),
    "no row": (lambda rows: {"dataframe_records": []}, 422, "no row"),
    "another column": (
        lambda rows: {"dataframe_records": spoiled(rows, moon="full")},
        422,
        "knows no column 'moon'",
    ),
    "a missing column": (
        lambda rows: {"dataframe_records": [{"plan": "monthly"}]},
        422,
        "also wants the column 'customer_id'",
    ),
    "a word for a number": (
        lambda rows: {"dataframe_records": spoiled(rows, monthly_fee="much")},
        422,
        "'monthly_fee' in row 0 must be a finite number, not \"much\"",
    ),
    "a broken number": (
        lambda rows: {"dataframe_records": spoiled(rows, tenure_months=1.5)},
        422,
        "'tenure_months' in row 0 must be a whole number, not 1.5",
    ),
    "no number": (
        lambda rows: json.dumps({"dataframe_records": spoiled(rows, monthly_fee=float("nan"))}),
        422,
        "must be a finite number, not NaN",
    ),
    "half a pair of surrogates": (
        lambda rows: {"dataframe_records": spoiled(rows, plan="\ud800")},
        422,
        "'plan' in row 0 must be a text",
    ),
    "half a pair of surrogates in a name": (
        lambda rows: {"dataframe_records": spoiled(rows, **{"\ud800": 1})},
        422,
        "knows no column '\\ud800'",
    ),
    "a column twice": (
        lambda rows: {"dataframe_split": {"columns": ["plan", "plan"], "data": [[1, 2]]}},
        422,
        "'plan' is there more than once",
    ),
    "too many columns": (
        lambda rows: {"dataframe_split": {"columns": list(map(str, range(20_000))), "data": []}},
        413,
        "20000 columns",
    ),
    "too many columns in records": (
        lambda rows: {"dataframe_records": [dict.fromkeys(map(str, range(20_000)), 1)]},
        413,
        "20000 columns",
    ),
    "deep nesting": (lambda rows: b"[" * 100_000, 400, "not JSON"),
    "too many digits": (
        lambda rows: b'{"inputs": {"plan": [' + b"9" * 10_000 + b"]}}",
        400,
        "not JSON",
    ),
    "too many rows": (
        lambda rows: {"dataframe_records": rows * 6},
        413,
        "1200 rows at once",
    ),
    "too long": (lambda rows: b" " * (protocol.MOST_BYTES + 1), 413, "longer than"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_can_not_be_used_is_refused_by_name(scorer, rows, fault):
    made, status, says = REFUSED[fault]
    body = made(rows)
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    answer = scorer.post("/invocations", content=content)
    assert answer.status_code == status
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    "answers", [([0, 1], [0.5, math.nan]), ([0.5, math.inf], None)], ids=["score", "prediction"]
)
def test_an_answer_that_is_no_number_is_refused(answers):
    column = protocol.Column("fee", "double")
    made = engine.Engine("onnx", [column], "", lambda rows: answers)
    with TestClient(app(made, "churn", "1", Faults())) as client:
        refused = client.post("/invocations", json={"inputs": {"fee": [1, 1e39]}})
    assert refused.status_code == 422
    assert "no finite answer to row 1" in refused.json()["error"]


def test_a_connection_is_kept_longer_than_the_gateway_uses_it():
    assert scorer_module.KEPT_SECONDS > 2 * fleet.KEPT_SECONDS


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_number_that_a_forest_can_not_hold_is_refused(customers, rows, tmp_path):
    import mlflow
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline

    inputs = customers.drop(columns="churned")
    forest = make_pipeline(preprocessor(), RandomForestClassifier(5, random_state=97))
    forest.fit(inputs, customers["churned"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            forest,
            tmp_path / "forest",
            signature=mlflow.models.infer_signature(inputs, forest.predict(inputs)),
            skops_trusted_types=model_format.TRUSTED_TYPES,
            pip_requirements=[],
        )
    made = engine.load(str(tmp_path / "forest"))
    with TestClient(app(made, "churn", "1", Faults())) as client:
        spoilt = {"dataframe_records": spoiled(rows, usage_hours=1e300)}
        refused = client.post("/invocations", json=spoilt)
        answer = client.post("/invocations", json={"dataframe_records": rows[:1]})
    assert (refused.status_code, answer.status_code) == (422, 200)
    assert "the model can't score this" in refused.json()["error"]


@pytest.mark.parametrize("member", ["note", "params", "index"])
def test_a_member_that_nothing_reads_is_refused(scorer, rows, member):
    asked = {"dataframe_records": rows[:1], member: [[[]]]}
    refused = scorer.post("/invocations", json=asked)
    assert (refused.status_code, member in refused.json()["error"]) == (400, True)
    columns = {"columns": list(rows[0]), "data": [list(rows[0].values())], member: [[[]]]}
    refused = scorer.post("/invocations", json={"dataframe_split": columns})
    assert (refused.status_code, member in refused.json()["error"]) == (400, True)


def test_after_a_text_that_is_none_the_next_call_is_answered(scorer, rows):
    broken = json.dumps({"dataframe_records": spoiled(rows, plan="\ud800")})
    for _ in range(20):
        scorer.post("/invocations", content=broken)
        answer = scorer.post("/invocations", json={"dataframe_records": rows[:1]})
        assert answer.status_code == 200


def mutated(body, rng):
    """Bytes like a request's, with something wrong: cut, turned, doubled, or all of it made up."""
    content = bytearray(body)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(content))
        match rng.randrange(5):
            case 0:
                content[at] = rng.randrange(256)
            case 1:
                del content[at : at + rng.randint(1, 20)]
            case 2:
                content[at:at] = rng.choice([
                    b"null",
                    b"1e999",
                    b"[[[[",
                    b'"',
                    b"-0",
                    b"9" * 40,
                    b"\x00",
                    b"{}",
                ])
            case 3:
                content[at:at] = content[at : at + rng.randint(1, 30)]
            case 4:
                content[:] = "".join(rng.choices(string.printable, k=50)).encode()
    return bytes(content)


@pytest.mark.slow
def test_no_body_makes_it_fail(scorer, rows):
    rng = random.Random(97)  # noqa: S311
    bodies = [json.dumps({form: made}).encode() for form, made in forms(rows[:2]).items()]
    seen = {
        scorer.post("/invocations", content=mutated(rng.choice(bodies), rng)).status_code
        for _ in range(FUZZED)
    }
    assert seen <= {200, 400, 413, 422}
    assert {400, 422} <= seen


def test_what_was_answered_is_counted(scorer, rows):
    scorer.post("/invocations", json={"dataframe_records": rows[:3]})
    text = scorer.get("/metrics").text
    assert 'scorer_answers_total{model="model",status="200",version="7"}' in text
    assert "scorer_seconds_bucket" in text


@pytest.mark.parametrize(
    ("path", "without", "with_it"),
    [
        ("/ping", 200, 200),
        ("/version", 401, 200),
        ("/metrics", 401, 200),
        ("/invocations", 401, 400),
    ],
)
def test_only_ping_is_answered_without_the_token_that_a_scorer_was_given(path, without, with_it):
    model = SimpleNamespace(columns=[], made_by="3.17")
    method = "POST" if path == "/invocations" else "GET"
    with TestClient(app(model, "churn", "7", Faults(), "its own")) as client:
        for shown in ({}, {"Authorization": "Bearer guessed"}, {"Authorization": "Bearer"}):
            assert client.request(method, path, headers=shown).status_code == without
        known = {"Authorization": "Bearer its own"}
        assert client.request(method, path, headers=known).status_code == with_it
