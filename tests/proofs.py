"""Collect what the tests prove, box by box, and hold CHECKLIST.md against it.

A test that proves a box of the specification says so:
`@pytest.mark.shows("97.1.1", "Model training")`. `--proofs FILE` writes the outcomes down; after a
run of the whole suite CHECKLIST.md must match them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from include import spec
from include.tools import checklist

OUTCOMES = pytest.StashKey[dict[str, str]]()
CLAIMS = pytest.StashKey[dict[str, tuple[str, str]]]()
WHOLE = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proofs", metavar="FILE", help="write what was proved, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = {}
    selected = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    config.stash[WHOLE] = not (selected or config.option.keyword or config.option.markexpr)


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


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Runs in the controller for every worker's tests."""
    outcomes = _RUN.config.stash[OUTCOMES]
    for name, claim in report.user_properties:
        if name == "shows":
            key = json.dumps([*claim, report.nodeid])
            if report.outcome != "passed" or report.when == "call":
                outcomes[key] = report.outcome


class _RUN:
    config: pytest.Config


def pytest_sessionstart(session: pytest.Session) -> None:
    _RUN.config = session.config


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Write the proofs down; after a whole run compare them with CHECKLIST.md."""
    config = session.config
    if not hasattr(config, "workerinput"):
        proofs = checklist.Proofs.from_outcomes([
            (*json.loads(key), outcome) for key, outcome in config.stash[OUTCOMES].items()
        ])
        if config.option.proofs:
            Path(config.option.proofs).write_text(proofs.as_json())
        elif config.stash[WHOLE] and not checklist.matches(proofs):
            config.stash[MISMATCH] = True
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    yield


MISMATCH = pytest.StashKey[bool]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.stash.get(MISMATCH, False):
        terminalreporter.section("CHECKLIST.md")
        terminalreporter.line(
            "It does not say what this run has proved. Write it anew: make checklist"
        )
