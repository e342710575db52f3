"""A stand-in for an interpreter does what the interpreter would do, in a fork of a warm process."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from tests import warm
from tests.waiting import until

LIBRARY = "fractions"  # an interpreter starts without it
TELLS = """
    import json, os, sys
    told = {
        "argv": sys.argv,
        "cwd": os.getcwd(),
        "name": __name__,
        "word": os.environ.get("WORD"),
        "warm": "fractions" in sys.modules,
        "executable": sys.executable,
        "read": sys.stdin.read(),
        "pid": os.getpid(),
    }
    print(json.dumps(told))
    print("a warning", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The stand-in for the interpreter of these tests."""
    stand_in = tmp_path_factory.mktemp("warm") / "python"
    with warm.interpreter(Path(sys.executable), stand_in, [LIBRARY]):
        yield str(stand_in)


@pytest.fixture
def script(tmp_path):
    def write(code, name="script"):
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(code))
        return path

    return write


def run(command, cwd, **env):
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | env, input="said", capture_output=True, text=True
    )
    assert done.stderr == "a warning\n", done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_a_script_finds_its_arguments_folder_variables_and_streams(python, script, tmp_path, flags):
    path = script(TELLS)
    told = run([python, *flags, str(path), "--epochs", "3"], tmp_path, WORD="given")
    assert told.pop("pid") > 0
    assert told == {
        "argv": [str(path), "--epochs", "3"],
        "cwd": str(tmp_path),
        "name": "__main__",
        "word": "given",
        "warm": True,
        "executable": python,
        "read": "said",
    }


def test_a_module_is_found_in_the_folder_of_the_caller(python, script, tmp_path):
    path = script(TELLS, "told")
    told = run([python, "-m", "told", "more"], tmp_path)
    assert (told["argv"], told["warm"]) == ([str(path), "more"], True)


def test_one_call_leaves_nothing_to_the_next(python, script, tmp_path):
    first, second = (
        run([python, str(script(TELLS))], tmp_path, **env) for env in ({"WORD": "1"}, {})
    )
    assert (first["word"], second["word"]) == ("1", None)
    assert first["pid"] != second["pid"]


def test_variables_of_a_megabyte_arrive(python, script, tmp_path):
    path = script("import os; print(sum(len(os.environ[f'LONG_{i}']) for i in range(10)))")
    env = os.environ | {f"LONG_{number}": "x" * 100_000 for number in range(10)}
    done = subprocess.run(
        [python, str(path)], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.stdout == "1000000\n", done.stderr


def test_code_on_the_command_line_runs_in_an_interpreter_of_its_own(python):
    code = "import sys; print('fractions' in sys.modules, sys.executable)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"False {sys.executable}\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(7)", 7),
        ("raise ValueError('no')", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_the_caller_ends_as_its_fork_did(python, script, code, status):
    done = subprocess.run([python, str(script(code))], capture_output=True, check=False)
    assert done.returncode == status, done.stderr


WAITS = """
    import os, signal, sys
    from pathlib import Path
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
    Path(sys.argv[1]).write_text(f"{os.getpid()}.")
    while True:
        signal.pause()
"""


@pytest.fixture
def waiting(python, script, tmp_path):
    """A caller whose fork waits for a signal, and the fork."""
    pid = tmp_path / "pid"
    with subprocess.Popen([python, str(script(WAITS)), str(pid)]) as caller:
        told = until(
            lambda: pid.read_text() if pid.exists() else "",
            "the number of the fork",
            lambda text: text.endswith("."),
        )
        yield caller, psutil.Process(int(told.rstrip(".")))
        caller.kill()


def test_a_caller_that_is_asked_to_end_passes_it_on(waiting):
    caller, fork = waiting
    caller.terminate()
    assert caller.wait(60) == 5
    assert not fork.is_running()


def test_the_fork_of_a_killed_caller_ends(waiting):
    caller, fork = waiting
    caller.kill()
    until(fork.is_running, "the fork to end", lambda runs: not runs)


def test_a_library_that_is_missing_is_said(tmp_path, capfd):
    stand_in = tmp_path / "python"
    with (
        pytest.raises(AssertionError, match=r"no_such_library.* ended with status 1"),
        warm.interpreter(Path(sys.executable), stand_in, ["no_such_library"]),
    ):
        pass
    assert "No module named 'no_such_library'" in capfd.readouterr().err
