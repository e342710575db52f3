"""Say what is done while the tests run: a line for each pipeline, section and folder.

These lines replace pytest's dots. Each line begins with the share of all tests that have ended.
Seconds are summed over setup, call and teardown, on whichever worker they ran. With `-v` pytest
prints its own lines, and this plugin prints only the slowest files at the end.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import pytest

from tests import sections

# The seconds that the tests of one pipeline should take. No test fails by them: machines differ.
BUDGET = 40
BUDGETS = {"97.2.2": 80, "97.3.4": 80}
TOLERANCE = 1.5  # times its budget: then the run names the pipeline


@pytest.hookimpl(trylast=True)  # after pytest has made its terminal reporter
def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and not config.option.collectonly:
        config.pluginmanager.register(Progress(config))


@dataclass
class Group:
    """Tests that share a line: those of a pipeline, of a section, of a folder, or all of them."""

    name: str
    tests: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    proved: set[tuple[str, str]] = field(default_factory=set)
    refuted: set[tuple[str, str]] = field(default_factory=set)
    seconds: float = 0.0

    def add(self, report: pytest.TestReport) -> bool:
        """Take in one phase of a test. Says whether the last test of the group has now ended."""
        self.seconds += report.duration
        claims = {tuple(claim) for name, claim in report.user_properties if name == "shows"}
        if report.failed:
            self.refuted |= claims
        elif report.passed and report.when == "call":
            self.proved |= claims
        if report.when in {"setup", "call"} or report.nodeid in self.ended:
            return False
        self.ended.add(report.nodeid)
        return self.ended == self.tests

    @property
    def pipelines(self) -> set[str | None]:
        """The numbers of the pipelines that its tests belong to, None for those of no pipeline."""
        return {sections.pipeline(file_of(test)) for test in self.tests}

    def __str__(self) -> str:
        """Its line."""
        boxes = counted(len(self.proved - self.refuted), "box", "boxes")
        if self.name in self.pipelines:
            what = boxes
        elif None not in self.pipelines:
            what = f"{counted(len(self.pipelines), 'pipeline', 'pipelines')} · {boxes}"
        else:
            what = counted(len(self.tests), "test", "tests")
        return f"{self.name} · {what} · {self.seconds:.0f} s"


def counted(number: int, noun: str, plural: str) -> str:
    """A number with its noun: 1 box, 4 boxes."""
    return f"{number} {noun if number == 1 else plural}"


def file_of(test: str) -> str:
    """The file in which a test stands."""
    return test.partition("::")[0]


def names_of(file: str) -> list[str]:
    """The groups of a file's tests: its pipeline and its section, or its folder."""
    if number := sections.pipeline(file):
        return [number, sections.section(file)]
    folders = PurePath(file).parts[1:-1]
    return [folders[0] if folders else "tests"]


class Progress:
    """Follows all tests, whichever worker runs them."""

    def __init__(self, config: pytest.Config) -> None:
        """Decide whether lines replace pytest's dots."""
        self.terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
        self.replaces_dots = config.option.verbose <= 0
        self.running = False
        self.all = Group("all")
        self.groups: dict[str, Group] = {}
        self.seconds: Counter[str] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Expect what this process has collected."""
        self.expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Expect what a worker has collected: each collects everything."""
        self.expect(ids)

    def expect(self, tests: Iterable[str]) -> None:
        """Put each test into its groups."""
        for test in tests:
            self.all.tests.add(test)
            for name in names_of(file_of(test)):
                self.groups.setdefault(name, Group(name)).tests.add(test)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[None]:
        """Lines replace dots while tests run; the summary has pytest's own words."""
        self.running = self.replaces_dots
        if self.running:
            self.terminal.showfspath = False
        try:
            return (yield)
        finally:
            self.running = False

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Iterator[None]:
        """Print no dot and no letter for a test."""
        category, letter, word = yield
        return (category, "", "") if self.running else (category, letter, word)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell a failure at once, and a group when its last test has ended."""
        file = file_of(report.nodeid)
        self.seconds[file] += report.duration
        self.all.add(report)
        done = [each for name in names_of(file) if (each := self.groups[name]).add(report)]
        if report.failed:
            self.tell(f"FAILED {report.nodeid}", red=True)
        for group in done:
            self.tell(str(group))

    def tell(self, text: str, **markup: bool) -> None:
        """One line, after the share of all tests that have ended."""
        if self.running:
            share = 100 * len(self.all.ended) // len(self.all.tests)
            self.terminal.write_line(f"[{share:3} %] {text}", **markup)
            self.terminal.flush()  # through a pipe, too, each line arrives at once

    def pytest_terminal_summary(self) -> None:
        """List the slowest files, and the pipelines that took far longer than their budget."""
        if not self.seconds:
            return
        self.terminal.section("ten slowest files")
        for file, seconds in self.seconds.most_common(10):
            self.terminal.line(f"{seconds:6.0f} s  {file}")
        for name, group in self.groups.items():
            budget = BUDGETS.get(name, BUDGET)
            if name in group.pipelines and group.seconds > TOLERANCE * budget:
                self.terminal.line(f"{name} took {group.seconds:.0f} s. Its budget is {budget} s.")
