"""A pipeline needs no network and looks for none: neither it nor any process that it starts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from include.tools import environment

# One that starts nothing, one that starts clusters, and one that starts a server.
DAGS = [
    "97_01_01_ml_pipeline_structure",
    "97_02_02_distributed_training",
    "97_03_01_mlflow_integration",
]

# Every Python process loads this first, whoever starts it, and notes where it wants to go.
WATCH = """
import os, socket, sys

OURS = ("", "localhost", "::1", "0.0.0.0", socket.gethostname())

def watch(event, given):
    if event == "socket.getaddrinfo":
        host = given[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(given[1], tuple):
        host = given[1][0]
    else:
        return
    text = host.decode() if isinstance(host, bytes) else str(host or "")
    if text not in OURS and not text.startswith("127."):
        with open(os.environ["WATCHED"], "a") as told:
            told.write(f"{os.path.basename(sys.argv[0])} {event} {text}\\n")

sys.addaudithook(watch)
"""
IN_A_WORLD_OF_ITS_OWN = """
import fcntl, os, socket, struct, sys
IFF_UP, IFF_LOOPBACK, SIOCSIFFLAGS = 0x1, 0x8, 0x8914
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP | IFF_LOOPBACK))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def unshared(*command, **more):
    """Run Python where loopback is all the network there is."""
    alone = ["unshare", "--map-root-user", "--net", sys.executable, "-c", IN_A_WORLD_OF_ITS_OWN]
    return subprocess.run([*alone, *command], capture_output=True, text=True, check=False, **more)


@pytest.fixture(scope="module")
def world():
    if shutil.which("unshare") is None or unshared("-c", "").returncode:
        pytest.skip("this machine gives nobody a network of their own (unshare --net)")


@pytest.fixture
def watched(tmp_path):
    """Settings under which every Python process tells of hosts that are not this one."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {
        "CATALOGUE_HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "watch"), str(environment.PROJECT)]),
        "WATCHED": str(tmp_path / "told"),
    }


def test_the_watch_sees_who_wants_to_leave(world, watched):
    leave = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    assert "unreachable" in unshared("-c", leave, env=watched).stderr
    assert "socket.connect 192.0.2.1" in Path(watched["WATCHED"]).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("dag_id", DAGS)
def test_a_pipeline_is_green_without_a_network_and_asks_nobody_outside(world, watched, dag_id):
    done = unshared("-m", "include.tools.run", dag_id, env=watched, cwd=environment.PROJECT)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    told = Path(watched["WATCHED"])
    assert not told.exists(), told.read_text()
