"""What is written about the catalogue is true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from include import spec
from include.tools import checklist, environment, gallery


def test_the_specification_holds_fifty_tasks_of_four_boxes_and_four_tags():
    known = spec.load()
    assert [len(section.tasks) for section in known.sections] == [5] * 10
    assert all(len(task.boxes) == len(task.tags) == 4 for task in known.tasks)
    assert len({task.file for task in known.tasks}) == 50
    assert len(known.topics) == 10


def test_the_readme_shows_what_there_is():
    assert gallery.matches(), "write it anew: make checklist"


def test_every_file_that_the_readme_links_to_is_there():
    text = (environment.PROJECT / "README.md").read_text()
    linked = re.findall(r"\]\(([^)h#][^)]*)\)", text)
    missing = [path for path in linked if not (environment.PROJECT / path).exists()]
    assert missing == []


BOX = ("97.1.1", "Model training")


def checklist_of(*outcomes):
    """CHECKLIST.md after these tests, and its part about task 97.1.1."""
    text = checklist.text(checklist.Proofs.from_outcomes(list(outcomes)))
    (part,) = re.findall(r"^### (\[.\] 97\.1\.1 .*?)\n\n#", text, re.DOTALL | re.MULTILINE)
    return text, part


def test_a_box_is_ticked_by_a_test_that_passed():
    text, part = checklist_of((*BOX, "tests/a.py::test_it", "passed"))
    assert "\n- [x] Model training: `test_it`" in part
    assert "**1 of 200 boxes.**" in text


@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_a_box_without_a_test_that_passed_stays_open(outcome):
    text, part = checklist_of((*BOX, "tests/a.py::test_it", outcome))
    assert "\n- [ ] Model training\n" in part
    assert "**0 of 200 boxes.**" in text


def test_one_failed_test_leaves_a_box_open_that_another_test_proves():
    text, part = checklist_of(
        (*BOX, "tests/a.py::test_it", "passed"), (*BOX, "tests/a.py::test_also", "failed")
    )
    assert "\n- [ ] Model training\n" in part
    assert "**0 of 200 boxes.**" in text
    assert "`test_it`" not in text


def test_a_skipped_test_is_not_named_beside_one_that_passed():
    _, part = checklist_of(
        (*BOX, "tests/a.py::test_it", "passed"), (*BOX, "tests/a.py::test_also", "skipped")
    )
    assert "\n- [x] Model training: `test_it`\n" in part


def test_a_task_and_its_topic_are_ticked_when_all_their_boxes_are():
    section = spec.load().sections[0]
    (topic,) = (each.title for each in spec.load().topics if each.section == section.number)
    boxes = [(task.number, box, "a.py::test_it") for task in section.tasks for box in task.boxes]
    for last, mark in (("passed", "[x]"), ("failed", "[ ]")):
        passed = [(*box, "passed") for box in boxes[:-1]]
        text, _ = checklist_of(*passed, (*boxes[-1], last))
        assert f"\n### [x] {section.tasks[0].number} " in text
        assert f"\n### {mark} {section.tasks[-1].number} " in text
        assert f"\n- {mark} {topic}\n" in text


@pytest.mark.parametrize("status", [0, 1])
def test_make_checklist_writes_what_was_proved_and_fails_when_a_test_did(
    status, tmp_path, monkeypatch
):
    outcome = "failed" if status else "passed"

    def tests(command, cwd):
        proofs = checklist.Proofs.from_outcomes([(*BOX, "tests/a.py::test_it", outcome)])
        Path(command[-1]).write_text(proofs.as_json())
        return status

    monkeypatch.setattr(subprocess, "call", tests)
    monkeypatch.setattr(checklist, "FILE", tmp_path / "CHECKLIST.md")
    monkeypatch.setattr(gallery, "write", lambda: None)
    assert checklist.main() == status
    assert checklist.named() == ({} if status else {BOX: {"test_it"}})


def test_ruff_finds_nothing_to_say_about_the_dags():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "dags", "--output-format", "concise"],
        cwd=environment.PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
