"""The scheduler starts whichever of the libraries are there."""

import logging
import sys

from airflow.jobs.job import Job

from plugins import warm_workers


def test_a_library_that_is_missing_is_told_and_the_others_are_imported(monkeypatch, caplog):
    monkeypatch.setattr(sys, "argv", ["airflow", "scheduler"])
    monkeypatch.setattr(warm_workers, "LIBRARIES", ("no_such_library", "colorsys"))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with caplog.at_level(logging.WARNING, logger=warm_workers.__name__):
        warm_workers.OnStart().on_starting(Job())
    assert "colorsys" in sys.modules
    assert "Tasks will not start with no_such_library" in caplog.text
