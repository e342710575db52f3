"""Run the tests of one module again and again, each time in a fork of a process that has imported.

Importing Airflow takes seconds, a fork milliseconds. The process imports what the tests import, but
nothing of the project: that each fork reads anew, with the planted fault. It runs in a private copy
of the project. It takes the text of the module from standard input, one JSON string a line, and
answers with one line on another descriptor.
"""

import gc
import importlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path

import psutil
import pytest

TREE = Path.cwd()
FORKS = multiprocessing.get_context("fork")
OPTIONS = (
    *("-x", "-q", "-p", "no:cacheprovider", f"--basetemp={TREE}.tmp"),
    # In a fork pytest's own plugins are imported before pytest can rewrite their assertions.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
LONGEST = 600  # seconds of a processor that the tests may take without a fault
WAITING = 60.0  # seconds more, in which nothing may happen


def main(answers: int, spare: float, module: Path, tests: Sequence[str]) -> None:
    """Run the tests without a fault, then take one text after the other.

    Without a fault they take some seconds of a processor. With one they are ended after ten times
    as many and the spare seconds. By the clock they have longer, since a machine may be busy.
    """
    own = {path.stem for path in TREE.iterdir() if path.is_dir() or path.suffix == ".py"}
    shared = _shared()
    imported = Path(f"{TREE}.imported")

    def run(limit: int, write: Path | None = None) -> int | None:
        """The exit status of the tests, None if they had to be ended."""
        status = _run(tests, limit, write)
        if shared:
            shutil.rmtree(shared, ignore_errors=True)  # a fork that was ended leaves it
        return status

    with os.fdopen(answers, "w", buffering=1) as answer:
        status = run(LONGEST, imported)
        if status == 0:
            _warm_up(imported.read_text().split(), own)
            before = _seconds()
            status = run(LONGEST)
            limit = ceil(spare + 10 * (_seconds() - before))
        answer.write(json.dumps(status) + "\n")
        for line in sys.stdin:
            module.write_text(json.loads(line), encoding="utf-8")
            answer.write(json.dumps(run(limit)) + "\n")


def _seconds() -> float:
    """The seconds of a processor that ended forks have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _shared() -> Path | None:
    """Where the tests write. Their settings must stand before Airflow is imported."""
    if Path("tests/conftest.py").exists():
        return importlib.import_module("tests.conftest").SHARED
    return None


def _warm_up(names: Sequence[str], own: Collection[str]) -> None:
    """Import what the tests have imported; forget what belongs to the project."""
    for name in names:
        if name.partition(".")[0] not in own:
            with suppress(ImportError):  # not all that is loaded can be imported by its name
                importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()


def _run(tests: Sequence[str], limit: int, write: Path | None) -> int | None:
    fork = FORKS.Process(target=_test, args=(tests, limit, write))
    fork.start()
    fork.join(WAITING + 10 * limit)
    if not fork.is_alive():
        return fork.exitcode
    top = psutil.Process(fork.pid)
    for process in [*top.children(recursive=True), top]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    fork.join()
    return None


def _test(tests: Sequence[str], limit: int, write: Path | None) -> None:
    """Be the fork: run the tests, say what they have imported, and end."""
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    status = pytest.main([*OPTIONS, *tests])
    if write is not None:
        write.write_text("\n".join(list(sys.modules)))
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.path[0] = str(TREE)
    main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
