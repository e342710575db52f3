"""A stand-in for an interpreter: its scripts run in forks of one process that has the imports.

Starting an SDK takes an interpreter seconds. A fork of a warm process takes milliseconds, and is
still a process of that interpreter, with the command line, folder, variables and streams of its
caller. When the caller is killed, the fork ends. The caller ends with the status of the fork. What
the fork starts with `sys.executable` is a fork of the warm process too.

    with warm.interpreter(python, stand_in, ["azure.ai.ml"]): ...

The stand-in and the warm process run this file without the catalogue's own packages.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

STREAMS = 3
FORWARDED = (signal.SIGINT, signal.SIGTERM)
MOST_BYTES = 2**20


@contextmanager
def interpreter(python: Path, stand_in: Path, libraries: Sequence[str]) -> Iterator[None]:
    """Put a stand-in for an interpreter there, until the block ends."""
    address = stand_in.with_suffix(".socket")
    stand_in.write_text(
        f"#!{python} -IS\n"
        "import sys\n"
        f"sys.path.append({str(Path(__file__).parent)!r})\n"
        "import warm\n"
        f"warm.ask({str(python)!r}, {str(address)!r})\n"
    )
    stand_in.chmod(0o700)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # A fork has no threads but its own, so no library may have started any.
    command = [str(python), __file__, str(address), *libraries]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env=env | {"OMP_NUM_THREADS": "1"}
    ) as process:
        deadline = time.monotonic() + 300
        while not address.exists():
            assert process.poll() is None, f"{command} ended with status {process.returncode}"
            assert time.monotonic() < deadline, f"{command} runs, but has no socket at {address}"
            time.sleep(0.02)
        yield
        process.communicate()  # it ends with its stdin


def ask(python: str, address: str) -> None:
    """Have a fork run a script or a module in place of this process; run anything else here."""
    argv = sys.argv[2:] if sys.argv[1:2] == ["-u"] else sys.argv[1:]
    if not argv or (argv[0].startswith("-") and argv[0] != "-m"):
        os.execv(python, [python, *sys.argv[1:]])  # noqa: S606
    given = {"python": sys.argv[0], "argv": argv, "cwd": str(Path.cwd()), "env": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        for sign in FORWARDED:
            signal.signal(sign, lambda number, _: line.send(bytes([number])))
        socket.send_fds(line, [json.dumps(given).encode() + b"\n"], range(STREAMS))
        told = line.recv(16)
    status = int(told) if told else -signal.SIGKILL
    if status < 0:
        if -status in FORWARDED:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def wait_for_a_script(address: str, libraries: Sequence[str]) -> list[str]:
    """Import and listen until stdin is closed; only a fork returns, with what it is to run."""
    for library in libraries:
        importlib.import_module(library)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that watch a fork
    part = f"{address}.part"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(part)
        listener.listen()
        Path(part).rename(address)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                sys.exit()
            line, _ = listener.accept()
            if os.fork() == 0:
                break
            line.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    content, streams, _, _ = socket.recv_fds(line, MOST_BYTES, STREAMS)
    while content and not content.endswith(b"\n"):  # a long message may come in parts
        content += line.recv(MOST_BYTES)
    fork = os.fork()
    if fork:
        watch(line, fork)
    os.setsid()
    line.close()
    given = json.loads(content)
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["env"])
    time.tzset()
    tempfile.tempdir = None  # it may have been looked up with the variables of before
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.executable = given["python"]
    sys.stdout.reconfigure(write_through=True)
    return list(given["argv"])


def watch(line: socket.socket, fork: int) -> None:
    """Tell the caller how the fork ended, and end the fork with the caller."""

    def end_with_the_caller() -> None:
        while sign := line.recv(1):
            os.kill(fork, sign[0])
        with suppress(ProcessLookupError):
            os.kill(fork, signal.SIGKILL)
            os.killpg(fork, signal.SIGKILL)

    threading.Thread(target=end_with_the_caller, daemon=True).start()
    _, status = os.waitpid(fork, 0)
    with suppress(BrokenPipeError):
        line.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


if __name__ == "__main__":
    sys.argv = wait_for_a_script(sys.argv[1], sys.argv[2:])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        sys.path[0:1] = [str(Path.cwd()), *paths]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0:1] = [str(Path(sys.argv[0]).parent), *paths]
        runpy.run_path(sys.argv[0], run_name="__main__")
