"""What is given to make reaches the commands as it is: nothing in it is executed."""

import re
import shutil
import subprocess

import pytest

from include.tools import environment

VARIABLES = (
    *("ALL", "CONF", "DATE", "MINUTES", "NAME", "SAMPLE", "SECTION", "SEED", "SOAK", "TO"),
    "VERBOSE",
)
HOSTILE = [
    "$(shell touch {0})",
    "$$(touch {0})",
    "`touch {0}`",
    "'; touch {0}; '",
    '"; touch {0}; "',
    "\n\ttouch {0}",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_variable_of_make_runs_a_command(tmp_path, hostile):
    def given(name):
        return f"{name}={hostile.format(tmp_path / name)}"

    dag = given("DAG")
    done = subprocess.run(
        [shutil.which("make"), "-s", "run", dag, *map(given, VARIABLES)],
        cwd=environment.PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert list(tmp_path.iterdir()) == []
    assert done.returncode != 0
    assert done.stderr.startswith("CONF ")


@pytest.mark.parametrize("name", ["DAG", "MODULE", *VARIABLES])
def test_make_itself_expands_no_variable_that_is_given(tmp_path, name):
    text = (environment.PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)
    done = subprocess.run(
        [shutil.which("make"), "-n", *targets, f"{name}=$(shell touch {tmp_path}/made)"],
        cwd=environment.PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
