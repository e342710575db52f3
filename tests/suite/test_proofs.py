"""What a test run counts as proof: an outcome for each box, whatever stage of a test failed."""

import json

import pytest

TASK, BOX = "97.4.2", "Approval workflows"
FRAME = """
import pytest

@pytest.fixture
def given():
    {setup}
    yield
    {teardown}

@pytest.mark.shows("97.4.2", "{box}")
@pytest.mark.parametrize("answer", ["Approve", "Reject"])
def test_it(given, answer):
    {call}
"""


@pytest.fixture
def outcomes(run, tmp_path):
    """Runs the test with these lines in it, for two answers; returns the outcome of each."""

    def outcomes(setup="pass", call="pass", teardown="pass"):
        text = FRAME.format(setup=setup, call=call, teardown=teardown, box=BOX)
        file = tmp_path / "proofs.json"
        run({"test_it.py": text}, "--proofs", str(file))
        rows = json.loads(file.read_text())
        assert all(row[:2] == [TASK, BOX] for row in rows)
        return {test.split("::")[-1]: outcome for *_, test, outcome in rows}

    return outcomes


APPROVE, REJECT = "test_it[Approve]", "test_it[Reject]"


def test_a_test_that_passes_is_proof(outcomes):
    assert outcomes() == {APPROVE: "passed", REJECT: "passed"}


@pytest.mark.parametrize("stage", ["setup", "call", "teardown"])
def test_a_test_that_fails_at_any_stage_is_no_proof(outcomes, stage):
    found = outcomes(**{stage: "raise OSError('no disk')"})
    assert found == {APPROVE: "failed", REJECT: "failed"}


def test_each_case_of_a_test_has_an_outcome_of_its_own(outcomes):
    found = outcomes(call="assert answer == 'Approve'")
    assert found == {APPROVE: "passed", REJECT: "failed"}


def test_a_skipped_test_is_recorded_as_skipped(outcomes):
    found = outcomes(call="pytest.skip('no GPU')")
    assert found == {APPROVE: "skipped", REJECT: "skipped"}


def test_a_claim_that_is_not_in_the_specification_is_refused(run):
    text = FRAME.format(setup="pass", call="pass", teardown="pass", box="Luck")
    result = run({"test_it.py": text})
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*shows ('97.4.2', 'Luck'), which is not in the spec"])
