"""What is written about the catalogue is true."""

import subprocess
import sys

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
    import re

    text = (environment.PROJECT / "README.md").read_text()
    linked = re.findall(r"\]\(([^)h#][^)]*)\)", text)
    missing = [path for path in linked if not (environment.PROJECT / path).exists()]
    assert missing == []


def test_a_box_is_ticked_by_a_test_that_passed_and_by_nothing_else():
    box = ("97.1.1", "Model training")
    passed = checklist.Proofs.from_outcomes([(*box, "tests/a.py::test_it", "passed")])
    assert "- [x] Model training: `test_it`" in checklist.text(passed)
    assert "**1 of 200 boxes.**" in checklist.text(passed)
    for outcome in ("failed", "skipped"):
        other = checklist.Proofs.from_outcomes([(*box, "tests/a.py::test_it", outcome)])
        assert "**0 of 200 boxes.**" in checklist.text(other)
    both = [(*box, "tests/a.py::test_it", "passed"), (*box, "tests/a.py::test_also", "failed")]
    assert "- [ ] Model training\n" in checklist.text(checklist.Proofs.from_outcomes(both))


def test_ruff_finds_nothing_to_say_about_the_dags():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "dags", "--output-format", "concise"],
        cwd=environment.PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
