"""Tests run where loopback is the whole network, and proofs see who asks for another host."""

import os
import subprocess
import sys

import pytest

from tests import alone

LEAVE = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
LOOK_UP = "import socket; socket.getaddrinfo('pypi.org', 443)"
STAY = "import socket; a = socket.create_server(('127.0.0.1', 0)); print(a.getsockname()[1] > 0)"
KEPT = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


def python(code, env, *before):
    command = [*(before or [sys.executable]), "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", [LEAVE, LOOK_UP])
def test_the_guard_refuses_other_hosts(code):
    refused = python(code, alone.guarded(KEPT))
    assert refused.returncode == 1
    assert "only this machine can be reached" in refused.stderr


def test_the_guard_lets_a_process_serve_and_call_this_machine():
    assert python(STAY, alone.guarded(KEPT)).stdout == "True\n"


def test_a_network_of_its_own_reaches_no_other_host():
    own = alone.namespace()
    if own is None:
        pytest.skip("this system gives no process a network of its own (unshare --net)")
    assert "unreachable" in python(LEAVE, KEPT, *own).stderr
    assert python(STAY, KEPT, *own).stdout == "True\n"


def test_each_host_that_is_asked_for_is_written_down_with_its_pipeline(tmp_path):
    told = tmp_path / "asked.txt"
    env = alone.guarded(KEPT) | {"ASKED_HOSTS": str(told), "AIRFLOW_CTX_DAG_ID": "a_pipeline"}
    python(LEAVE, env)
    python(STAY, env)
    assert told.read_text() == "a_pipeline -c socket.getaddrinfo 192.0.2.1\n"


def test_these_tests_reach_no_other_host():
    if "ONLY_LOOPBACK" not in os.environ:
        pytest.skip("pytest was called without tests.alone, which `make test` does not do")
    assert python(LEAVE, dict(os.environ)).returncode == 1
