"""What `make test` prints while tests run, and what it prints at the end."""

import re

import pytest

from tests import progress

GATES = """
import pytest

@pytest.mark.shows("97.4.2", "Performance thresholds")
@pytest.mark.parametrize("number", range(3))
def test_thresholds(number): pass

@pytest.mark.shows("97.4.2", "Approval workflows")
def test_approval(): pass
"""
DRIFT = """
import pytest

@pytest.mark.shows("97.4.5", "Statistical tests")
def test_passes(): pass

@pytest.mark.shows("97.4.5", "Statistical tests")
def test_fails(): assert False

@pytest.mark.shows("97.4.5", "Data drift monitoring")
def test_is_skipped(): pytest.skip("not here")
"""
FILES = {
    "dags/test_97_04_02_validation_gates.py": GATES,
    "dags/test_97_04_05_drift_detection.py": DRIFT,
    "include/test_drift.py": "def test_one(): pass\ndef test_two(): pass",
}
CRASH = """
import os, pytest

@pytest.mark.parametrize("number", range(4))
def test_crash(number):
    if number == 1: os._exit(1)
"""


def told(result):
    """The plugin's own lines, each with its share of all tests."""
    return [line for line in result.outlines if re.match(r"\[ *\d+ %\] ", line)]


def test_each_pipeline_section_and_folder_gets_a_line_when_its_last_test_ends(run):
    result = run(FILES, "tests")
    assert told(result) == [
        "[ 44 %] 97.4.2 · 2 boxes · 0 s",
        "[ 55 %] FAILED tests/dags/test_97_04_05_drift_detection.py::test_fails",
        "[ 77 %] 97.4.5 · 0 boxes · 0 s",
        "[ 77 %] 97.4 · 2 pipelines · 2 boxes · 0 s",
        "[100 %] include · 2 tests · 0 s",
    ]


def test_workers_that_share_a_file_give_the_same_lines(run):
    lines = told(run(FILES, "tests", "-n", "2", "--dist", "load"))
    assert {line.partition("] ")[2] for line in lines} == {
        "97.4.2 · 2 boxes · 0 s",
        "FAILED tests/dags/test_97_04_05_drift_detection.py::test_fails",
        "97.4.5 · 0 boxes · 0 s",
        "97.4 · 2 pipelines · 2 boxes · 0 s",
        "include · 2 tests · 0 s",
    }
    assert lines[-1].startswith("[100 %] ")


def test_a_crashed_worker_fails_one_test_and_its_file_still_ends(run):
    lines = told(run({"serving/test_crash.py": CRASH}, "tests", "-n", "1"))
    assert lines == [
        "[ 50 %] FAILED tests/serving/test_crash.py::test_crash[1]",
        "[100 %] serving · 4 tests · 0 s",
    ]


def test_pytest_closes_the_run_and_explains_the_failure(run):
    result = run(FILES, "tests")
    assert re.fullmatch(r"=+ 1 failed, 7 passed, 1 skipped in \S+ =+", result.outlines[-1])
    result.stdout.fnmatch_lines(["E   assert False", "FAILED *::test_fails - assert False"])


def test_with_v_pytest_prints_its_own_lines_and_the_slowest_files_follow(run):
    result = run(FILES, "tests", "-v")
    assert told(result) == []
    result.stdout.fnmatch_lines([
        "tests/include/test_drift.py::test_two PASSED *100%*",
        "*= ten slowest files =*",
    ])


def test_a_list_of_the_tests_has_no_closing_section(run):
    result = run(FILES, "tests", "--collect-only", "-n", "2")
    assert told(result) == []
    assert "slowest" not in result.stdout.str()


def test_a_pipeline_far_over_its_budget_is_named_and_fails_nothing(run, monkeypatch):
    monkeypatch.setattr(progress, "BUDGETS", {"97.4.2": 0})
    result = run({"dags/test_97_04_02_validation_gates.py": GATES}, "tests")
    result.stdout.fnmatch_lines([
        "*= ten slowest files =*",
        "     0 s  tests/dags/test_97_04_02_validation_gates.py",
        "97.4.2 took 0 s. Its budget is 0 s.",
        "*= 4 passed in *",
    ])
    assert result.ret == pytest.ExitCode.OK


def test_a_pipeline_within_its_budget_is_not_named(run):
    assert "Its budget" not in run(FILES, "tests").stdout.str()
