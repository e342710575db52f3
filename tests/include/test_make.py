"""What is given to make reaches the commands as it is: nothing in it is executed."""

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
