"""A small project with folders like ours. In it pytest runs with our plugins."""

import pytest

from include.tools import environment

PLUGINS = ("-p", "tests.sections", "-p", "tests.progress", "-p", "tests.proofs")


@pytest.fixture
def run(pytester, monkeypatch):
    """Writes test files and runs pytest on them; returns its result."""
    monkeypatch.setenv("PYTHONPATH", str(environment.PROJECT))
    pytester.makeini("[pytest]\ntestpaths = tests\nmarkers = shows: proves a box")

    def run(files, *options):
        for path, text in files.items():
            file = pytester.path / "tests" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return pytester.runpytest_inprocess(*PLUGINS, *options)

    return run
