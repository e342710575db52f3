"""A change asks for the long proofs of the pipelines that it touches, and of no others."""

import json
from types import SimpleNamespace

import pytest

from include.tools import environment, needs
from tests.prove import __main__ as prove
from tests.prove import ledger
from tests.prove.cases import CASES
from tests.prove.claims import CLAIMS
from tests.prove.conftest import Keeper

ONE = "97_04_02_validation_gates"


@pytest.fixture(scope="module")
def before():
    return {dag_id: ledger.digest(dag_id) for dag_id in ledger.pipelines()}


def touched(before, name):
    """The pipelines whose digest is another one when a comment is added to this file."""
    file = environment.PROJECT / name

    def read(path):
        return path.read_bytes() + (b"# a comment\n" if path == file else b"")

    return {dag_id for dag_id, digest in before.items() if ledger.digest(dag_id, read) != digest}


def test_a_comment_in_a_dag_file_asks_for_the_proofs_of_this_pipeline(before):
    assert touched(before, f"dags/{ONE}.py") == {ONE}


def test_a_change_in_a_module_asks_for_the_proofs_of_all_that_import_it(before):
    importing = {
        dag_id
        for dag_id in before
        if "include.storage" in needs.needs(environment.DAGS / f"{dag_id}.py").modules
    }
    assert len(importing) > 20
    assert touched(before, "include/storage.py") == importing


def test_a_change_in_a_platform_asks_for_the_pipelines_that_talk_to_it(before):
    assert touched(before, "include/local_cloud/vertex/rpc.py") == {"97_03_03_vertex_ai_pipelines"}


@pytest.mark.parametrize(
    "name", ["requirements.txt", "tests/prove/claims.py", "include/tools/copy.py"]
)
def test_a_change_in_the_locks_or_in_the_proofs_asks_for_all(before, name):
    assert touched(before, name) == {*before}


def test_what_no_pipeline_depends_on_asks_for_nothing(before):
    assert touched(before, "README.md") == set()
    assert touched(before, "tests/prove/cases.py") == set()


def test_another_way_to_prove_a_pipeline_asks_for_its_proofs(before, monkeypatch):
    monkeypatch.setitem(CASES, ONE, CASES["97_01_01_ml_pipeline_structure"])
    assert ledger.digest(ONE) != before[ONE]


def test_a_pipeline_is_entered_when_it_is_proved_and_struck_when_it_fails(tmp_path):
    file = tmp_path / "proved.json"
    ledger.record({ONE: "a", "97_01_01_ml_pipeline_structure": "b", "gone": "c"}, [], file)
    assert ledger.claims(file) == {"97_01_01_ml_pipeline_structure": "b", ONE: "a"}
    assert len(file.read_text().splitlines()) == 4  # a line for each pipeline, and the braces
    ledger.record({}, [ONE], file)
    assert ledger.claims(file) == {"97_01_01_ml_pipeline_structure": "b"}


@pytest.mark.parametrize(
    ("outcomes", "entered", "struck"),
    [
        (["passed"] * len(CLAIMS), {ONE}, []),
        (["passed"], set(), []),
        (["passed"] * (len(CLAIMS) - 1) + ["failed"], set(), [ONE]),
    ],
    ids=["every claim held", "interrupted", "a claim failed"],
)
def test_only_a_pipeline_of_which_every_claim_held_is_entered(
    outcomes, entered, struck, monkeypatch
):
    told = []
    monkeypatch.setattr(ledger, "record", lambda proved, failed: told.append((proved, failed)))
    keeper = Keeper([ONE])
    for number, outcome in enumerate(outcomes):
        report = {"nodeid": f"test_it[{ONE}-{number}]", "when": "call", "outcome": outcome}
        keeper.pytest_runtest_logreport(SimpleNamespace(**report, passed=outcome == "passed"))
    keeper.pytest_sessionfinish()
    ((proved, failed),) = told
    assert (set(proved), failed) == (entered, struck)


def test_the_sample_follows_from_the_commit_and_reaches_every_pipeline():
    one = ledger.sample("a commit", 3)
    assert len(set(one)) == 3
    assert ledger.sample("a commit", 3) == one
    reached = set().union(*(ledger.sample(f"commit {number}", 3) for number in range(200)))
    assert reached == set(ledger.pipelines())


def test_only_what_changed_is_proved_when_nothing_is_named(tmp_path, monkeypatch, before):
    file = tmp_path / "proved.json"
    file.write_text(json.dumps(before | {ONE: "as it was"}))
    monkeypatch.setattr(ledger.claims, "__defaults__", (file,))
    assert ledger.changed() == [ONE]


@pytest.mark.parametrize(
    ("how", "chosen"),
    [
        ({"dag": "97_04_02"}, [ONE]),
        ({"section": "97.6"}, ["97_06_01_training_serving_skew_antipattern"]),
        ({"everything": True}, ledger.pipelines()),
    ],
)
def test_pipelines_are_chosen_by_name_by_section_or_all(how, chosen):
    asked = {"dag": "", "section": "", "everything": False, "sample": 0} | how
    assert prove.chosen(**asked) == chosen


@pytest.mark.parametrize("how", [{"dag": "97_99"}, {"section": "97.12"}])
def test_a_name_that_is_none_is_answered_with_those_that_there_are(how):
    asked = {"dag": "", "section": "", "everything": False, "sample": 0} | how
    with pytest.raises(SystemExit, match="There are:"):
        prove.chosen(**asked)
