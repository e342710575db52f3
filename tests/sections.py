"""Run one part of the tests: `--section 97.4` or `--section ground`.

A section's part is the test files of its pipelines, `tests/dags/test_97_04_*.py`. The ground is all
other test files.
"""

import re
from pathlib import Path, PurePath

import pytest

from include import spec
from include.tools import environment

GROUND = "ground"
NAME = re.compile(r"test_(97)_(\d\d)_(\d\d)_")
FUNCTION = re.compile(r"^\s*def (test_\w+)", re.MULTILINE)


def pipeline(file: str | PurePath) -> str | None:
    """The number of the pipeline that a test file belongs to: 97.4.2."""
    found = NAME.match(PurePath(file).name)
    return ".".join(str(int(part)) for part in found.groups()) if found else None


def section(file: str | PurePath) -> str:
    """The part that a test file belongs to: 97.4, or the ground."""
    number = pipeline(file)
    return number.rpartition(".")[0] if number else GROUND


def with_pipelines() -> list[str]:
    """The sections that have at least one pipeline."""
    return [
        each.number
        for each in spec.load().sections
        if any((environment.DAGS / task.file).is_file() for task in each.tasks)
    ]


def left_out(tests: Path, name: str) -> set[str]:
    """The test functions of all files that do not belong to this part."""
    files = [file for file in tests.rglob("test_*.py") if section(file) != name]
    return {test for file in files for test in FUNCTION.findall(file.read_text(encoding="utf-8"))}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--section", metavar="NAME", help=f"run one section's tests, or {GROUND!r}")


def pytest_configure(config: pytest.Config) -> None:
    there = [*with_pipelines(), GROUND]
    if config.option.section not in {None, *there}:
        raise pytest.UsageError(
            f"There is no section {config.option.section!r}. There are: {', '.join(there)}."
        )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import the test files of other parts."""
    wanted = config.option.section
    other = wanted and collection_path.match("test_*.py") and section(collection_path) != wanted
    return True if other else None
