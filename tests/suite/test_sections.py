"""What `make test SECTION=…` runs, and what of CHECKLIST.md it compares."""

import pytest

from include.tools import checklist
from tests import sections

GATES = """
import pytest

@pytest.mark.shows("97.4.2", "Approval workflows")
def test_in_process(): pass
"""
SCHEDULER = """
import pytest

@pytest.mark.shows("97.4.2", "Approval workflows")
@pytest.mark.parametrize("answer", ["Approve", "Reject"])
def test_over_rest(answer): pass
"""
FILES = {
    "dags/test_97_01_01_ml_pipeline_structure.py": "def test_other_section(): pass",
    "dags/test_97_04_02_validation_gates.py": GATES,
    "include/test_ledger.py": "def test_ledger(): pass",
    "scheduler/test_scheduler.py": SCHEDULER,
}
BOX = "## 97.4\n\n### [x] 97.4.2 Model Validation Gates\n\n- [x] Approval workflows: "
REST = "`test_over_rest[Approve]`, `test_over_rest[Reject]`"


@pytest.fixture
def says(tmp_path, monkeypatch):
    """Writes a CHECKLIST.md that names these tests for one box."""

    def says(names):
        file = tmp_path / "CHECKLIST.md"
        file.write_text(BOX + names + "\n")
        monkeypatch.setattr(checklist, "FILE", file)

    return says


def test_a_section_has_the_files_of_its_pipelines_and_the_ground_has_all_others(run, says):
    says(f"`test_in_process`, {REST}")
    section = run(FILES, "--section", "97.4")
    assert section.ret == pytest.ExitCode.OK
    section.assert_outcomes(passed=1)

    ground = run(FILES, "--section", "ground", "-n", "2")
    assert ground.ret == pytest.ExitCode.OK
    ground.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("named", "difference"),
    [
        (REST, "test_in_process passed and is not named."),
        (f"`test_in_process`, `test_gone`, {REST}", "test_gone is named and did not pass."),
    ],
)
def test_a_section_run_says_where_its_part_of_the_checklist_is_wrong(run, says, named, difference):
    says(named)
    result = run(FILES, "--section", "97.4")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*= CHECKLIST.md =*", f"97.4.2 Approval workflows: {difference}"])


def test_a_name_that_is_no_section_gets_the_list_of_what_there_is(run):
    result = run(FILES, "--section", "97.12")
    there = ", ".join(sections.with_pipelines())
    message = f"ERROR: There is no section '97.12'. There are: {there}, ground."
    assert message in result.errlines


@pytest.mark.parametrize(
    ("file", "pipeline", "section"),
    [
        ("tests/dags/test_97_04_02_validation_gates.py", "97.4.2", "97.4"),
        ("tests/dags/test_97_10_01_recommendation.py", "97.10.1", "97.10"),
        ("tests/include/test_ledger.py", None, "ground"),
        ("tests/include/test_drift.py", None, "ground"),
    ],
)
def test_a_file_belongs_to_the_section_in_its_name(file, pipeline, section):
    assert (sections.pipeline(file), sections.section(file)) == (pipeline, section)
