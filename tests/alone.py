"""Run Python where loopback is the whole network: `python -m tests.alone -m pytest …`.

Where the system permits it, the command gets a network of its own that reaches nothing else, and so
does every process that it starts. Elsewhere a guard in each Python process refuses other hosts.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Loads by itself in every Python process that has its folder on PYTHONPATH.
GUARD = Path(__file__).parent / "guard"
OPEN_LOOPBACK = """
import fcntl, os, socket, struct, sys
IFF_UP, SIOCSIFFLAGS = 0x1, 0x8914
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
WAYS = (["unshare", "--net"], ["unshare", "--map-root-user", "--net"])


def namespace() -> list[str] | None:
    """The command that runs Python in a network of its own; None where that is not permitted."""
    if shutil.which("unshare") is None:
        return None
    for way in WAYS:
        command = [*way, sys.executable, "-c", OPEN_LOOPBACK]
        if subprocess.run([*command, "-c", ""], capture_output=True, check=False).returncode == 0:
            return command
    return None


def guarded(env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which every Python process refuses hosts that are not this one."""
    path = os.pathsep.join(filter(None, [str(GUARD), env.get("PYTHONPATH")]))
    return {**env, "PYTHONPATH": path, "ONLY_LOOPBACK": "guard"}


def main(arguments: Sequence[str]) -> None:
    """Become Python with these arguments, alone."""
    if alone := namespace():
        env = {**os.environ, "ONLY_LOOPBACK": "namespace"}
        os.execvpe(alone[0], [*alone, *arguments], env)  # noqa: S606
    print("Network: this system gives no network of its own; a guard in each process stands in.")
    os.execve(sys.executable, [sys.executable, *arguments], guarded(os.environ))  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
