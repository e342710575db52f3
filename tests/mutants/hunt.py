"""Plant the mutants of one module in private copies of the project, and see which are noticed."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tests import alone
from tests.mutants import planting

MOST_CORES = 2
WORKER = Path(__file__).with_name("worker.py")


class NotGreen(Exception):
    """The tests fail without a planted fault, so their failures say nothing."""


@dataclass(frozen=True)
class Outcome:
    """What became of the mutants of one module."""

    module: str
    planted: list[planting.Mutant]
    survived: list[planting.Mutant]

    @property
    def noticed(self) -> int:
        """How many made a test fail, or the tests run without an end."""
        return len(self.planted) - len(self.survived)


def hunt(
    project: Path,
    module: str,
    tests: Sequence[str],
    tell: Callable[[planting.Mutant], object],
    cores: int = min(MOST_CORES, os.cpu_count() or 1),
    spare: float = 10.0,
) -> Outcome:
    """Run a module's tests once for each mutant, and tell of each mutant that survives."""
    text = (project / module).read_text(encoding="utf-8")
    planted = planting.plant(text)
    waiting = iter(planted)  # all copies take from it

    def work(tree: Path) -> list[planting.Mutant]:
        survived = []
        with _tested(project, tree, module, tests, spare) as notices:
            for mutant in waiting:
                if not notices(mutant.text):
                    survived.append(mutant)
                    tell(mutant)
        return survived

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor() as pool:
        shares = pool.map(work, [Path(folder, f"copy-{at}") for at in range(cores)])
        survived = sorted(chain.from_iterable(shares), key=planted.index)
    return Outcome(module, planted, survived)


@contextmanager
def _tested(
    project: Path, tree: Path, module: str, tests: Sequence[str], spare: float
) -> Iterator[Callable[[str], bool]]:
    """Copy the project; yield what says whether the tests there notice a text of the module.

    In the end they must be green as in the beginning: no fault may have left anything behind.
    """
    _copy(project, tree)
    questions, answers = os.pipe()
    told = [str(answers), str(spare), module, *tests]
    command = [sys.executable, alone.__file__, str(WORKER), *told]
    env = os.environ | {
        "OMP_NUM_THREADS": "1",  # a fork has no threads but its own
        "PYTEST_XDIST_TESTRUNUID": f"{tree.parent.name}-{tree.name}",
        "PYTHONDONTWRITEBYTECODE": "1",  # else a fault as long as the original may stay unread
        "PYTHONPATH": str(tree),
    }
    log = Path(f"{tree}.log")
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=tree,
            env=env,
            pass_fds=[answers],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
        os.fdopen(questions) as answered,
    ):
        os.close(answers)

        def answer() -> int | None:
            line = answered.readline()
            if not line:
                raise NotGreen(f"The tests of {module} stopped.\n{log.read_text()}")
            return json.loads(line)

        def notices(text: str) -> bool:
            process.stdin.write(json.dumps(text) + "\n")
            process.stdin.flush()
            return answer() != 0

        if answer() != 0:
            raise NotGreen(f"The tests of {module} fail without a fault.\n{log.read_text()}")
        yield notices
        if notices((project / module).read_text(encoding="utf-8")):
            end = log.read_text()[-5000:]
            raise NotGreen(f"The tests of {module} failed in the end without a fault.\n{end}")


def _copy(project: Path, tree: Path) -> None:
    """Copy what the project consists of. Its environments are only linked."""
    ignored = project / ".gitignore"
    names = ignored.read_text().split() if ignored.exists() else []
    left_out = shutil.ignore_patterns(".git", *(name.strip("/") for name in names))
    shutil.copytree(project, tree, ignore=left_out, symlinks=True)
    for environment in project.glob(".venv*"):
        (tree / environment.name).symlink_to(environment.resolve())
