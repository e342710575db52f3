"""Collect what the tests prove, box by box, and hold CHECKLIST.md against it.

A test that proves a box of the specification says so:
`@pytest.mark.shows("97.1.1", "Model training")`. `--proofs FILE` writes the outcomes down. After a
run of the whole suite CHECKLIST.md must match them; after a run of one section, its part must.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from include import spec
from include.tools import checklist
from tests import sections


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proofs", metavar="FILE", help="write what was proved, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # an xdist worker's reports reach the controller
        config.pluginmanager.register(Proofs(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hand each claim to the report, which travels from xdist's workers; refuse false ones."""
    known = {(task.number, box) for task in spec.load().tasks for box in task.boxes}
    for item in items:
        for mark in item.iter_markers("shows"):
            if mark.args not in known:
                raise pytest.UsageError(
                    f"{item.nodeid} shows {mark.args}, which is not in the spec"
                )
            item.user_properties.append(("shows", list(mark.args)))


class Proofs:
    """Collects what was proved, for all workers."""

    def __init__(self, config: pytest.Config) -> None:
        """Look at how pytest was called: a few selected tests can't judge CHECKLIST.md."""
        selected = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
        option = config.option
        narrowed = option.keyword or option.markexpr or option.collectonly or option.maxfail
        self.judges = not (selected or narrowed)
        self.section = config.option.section
        self.tests = config.rootpath / "tests"
        self.file = config.option.proofs
        self.outcomes: dict[str, str] = {}
        self.differences: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember each claim's outcome; what fails in setup or teardown is not proved."""
        for name, claim in report.user_properties:
            if name == "shows":
                key = json.dumps([*claim, report.nodeid])
                if report.outcome != "passed" or report.when == "call":
                    self.outcomes[key] = report.outcome

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Iterator[None]:
        """Write the proofs down, or compare them with CHECKLIST.md."""
        proofs = checklist.Proofs.from_outcomes([
            (*json.loads(key), outcome) for key, outcome in self.outcomes.items()
        ])
        if self.file:
            Path(self.file).write_text(proofs.as_json())
        elif self.judges and exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            left_out = sections.left_out(self.tests, self.section) if self.section else set()
            self.differences = checklist.differences(proofs, left_out)
        if self.differences:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where CHECKLIST.md is wrong, and what to do about it."""
        if self.differences:
            terminalreporter.section("CHECKLIST.md")
            for line in self.differences:
                terminalreporter.line(line)
            terminalreporter.line(
                "It does not say what this run has proved. Write it anew: make checklist"
            )
