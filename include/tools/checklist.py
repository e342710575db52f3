"""`make checklist`: CHECKLIST.md and the README's gallery, from specification and tests.

A box is ticked only where a test that claims it ran and passed, and none that claims it failed.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from include import spec
from include.tools import environment, gallery

FILE = environment.PROJECT / "CHECKLIST.md"


@dataclass
class Proofs:
    """For each box of each task: the tests that claim it, and whether they passed."""

    tests: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    @classmethod
    def from_outcomes(cls, outcomes: list[tuple[str, str, str, str]]) -> "Proofs":
        """From rows of task number, box, test and outcome."""
        proofs = cls()
        for number, box, test, outcome in outcomes:
            proofs.tests.setdefault((number, box), {})[test] = outcome
        return proofs

    @classmethod
    def from_json(cls, text: str) -> "Proofs":
        """What `as_json` wrote."""
        return cls.from_outcomes([tuple(row) for row in json.loads(text)])

    def as_json(self) -> str:
        """One row for each claim."""
        rows = [
            [*box, test, outcome]
            for box, tests in self.tests.items()
            for test, outcome in tests.items()
        ]
        return json.dumps(sorted(rows), indent=1)

    def of(self, number: str, box: str) -> list[str]:
        """The tests that prove a box; none when one of them failed. A skipped test says nothing."""
        tests = self.tests.get((number, box), {})
        if "failed" in tests.values():
            return []
        return sorted(
            test.split("::")[-1] for test, outcome in tests.items() if outcome == "passed"
        )


def text(proofs: Proofs) -> str:
    """The whole of CHECKLIST.md."""
    known = spec.load()
    boxes = [(task.number, box) for task in known.tasks for box in task.boxes]
    ticked = sum(bool(proofs.of(*box)) for box in boxes)
    lines = [
        f"# {known.title}: what is proved",
        "",
        "Written by `make checklist` from a run of all tests: a box is ticked only where the tests",
        "named beside it ran and passed. `make test` fails where this file says anything else.",
        "",
        f"**{ticked} of {len(boxes)} boxes.**",
    ]
    for section in known.sections:
        lines += ["", f"## {section.number} {section.title}"]
        for task in section.tasks:
            done = all(proofs.of(task.number, box) for box in task.boxes)
            lines += ["", f"### {_mark(done)} {task.number} {task.title}", f"`{task.file}`", ""]
            for box in task.boxes:
                tests = proofs.of(task.number, box)
                names = f": {', '.join(f'`{test}`' for test in tests)}" if tests else ""
                lines.append(f"- {_mark(bool(tests))} {box}{names}")
    lines += ["", "## Topics", ""]
    for topic in known.topics:
        tasks = next(s.tasks for s in known.sections if s.number == topic.section)
        done = all(proofs.of(task.number, box) for task in tasks for box in task.boxes)
        lines.append(f"- {_mark(done)} {topic.title}")
    return "\n".join(lines) + "\n"


def named() -> dict[tuple[str, str], set[str]]:
    """The tests that CHECKLIST.md names, by task number and box."""
    found: dict[tuple[str, str], set[str]] = {}
    number = ""
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if task := re.match(r"### \[.\] (\S+)", line):
            number = task[1]
        elif box := re.match(r"- \[x\] (.+?): (`.+`)$", line):
            found[number, box[1]] = set(re.findall(r"`([^`]+)`", box[2]))
    return found


def differences(proofs: Proofs, left_out: Collection[str] = ()) -> list[str]:
    """Where CHECKLIST.md says something else than a run has proved.

    `left_out` has the test functions of the files that did not run. Of these it says nothing.
    """
    said, lines = named(), []
    for box in sorted(said.keys() | proofs.tests.keys()):
        outcomes = proofs.tests.get(box, {}).items()
        passed = {test.split("::")[-1] for test, outcome in outcomes if outcome == "passed"}
        for test in sorted(passed ^ said.get(box, set())):
            if test in passed:
                lines.append(f"{' '.join(box)}: {test} passed and is not named.")
            elif test.partition("[")[0] not in left_out:
                lines.append(f"{' '.join(box)}: {test} is named and did not pass.")
    if not lines and not left_out and FILE.read_text(encoding="utf-8") != text(proofs):
        lines.append("Its titles or its sums are not those of the specification.")
    return lines


def _mark(done: bool) -> str:
    return "[x]" if done else "[ ]"


def main() -> int:
    """Run every test, then write both files, also when tests failed: the open boxes say so."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "proofs.json"
        command = ["tests.alone", "-m", "pytest", "-n", "auto", "--proofs", str(file)]
        status = subprocess.call([sys.executable, "-m", *command], cwd=environment.PROJECT)
        FILE.write_text(text(Proofs.from_json(file.read_text())), encoding="utf-8")
    gallery.write()
    return status


if __name__ == "__main__":
    sys.exit(main())
