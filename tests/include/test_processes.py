"""What `make up` starts, `make down` ends: all of it, and nothing else."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections import deque
from dataclasses import asdict

import psutil
import pytest

from include import processes
from include.tools import environment, services
from tests.waiting import until

# A parent with a child in its session and one that began a session of its own; all ignore SIGTERM
# where "stubborn" is asked for. The parent tells the numbers of the three in a file.
PARENT = textwrap.dedent("""
    import os, signal, subprocess, sys, time
    child = [sys.executable, "-c", "import signal; signal.pause()"]
    if "stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    near = subprocess.Popen(child)
    far = subprocess.Popen(child, start_new_session=True)
    with open("pids.part", "w") as file:
        file.write(f"{os.getpid()} {near.pid} {far.pid}")
    os.rename("pids.part", "pids")
    while True:
        signal.pause()
""")

# Starts the parent, takes over its orphans, and asks for nobody's exit status.
FIRST = textwrap.dedent("""
    import ctypes, signal, sys
    from pathlib import Path
    from include import processes
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    processes.start(Path(sys.argv[1]), "parent", [sys.executable, "-c", sys.argv[2]], {})
    while True:
        signal.pause()
""")


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "services"
    for process in processes.recorded(tmp_path / "services"):
        for member in process.family():
            member.kill()


def family_of_three(folder, *arguments):
    """Start the parent and wait until it has told its children's numbers."""
    command = [sys.executable, "-c", PARENT, *arguments]
    process = processes.start(folder, "parent", command, dict(os.environ))
    told = folder / "pids"
    while not told.exists():
        assert process.alive(), process.last_words()
        time.sleep(0.01)
    return process, [int(pid) for pid in told.read_text().split()]


def lives(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_log_is_for_its_owner_alone_also_the_one_before(folder):
    for _ in range(2):
        process, _ = family_of_three(folder)
        processes.stop(folder, [process])
    logs = sorted(folder.glob("*.log*"))
    assert [stat.S_IMODE(log.stat().st_mode) for log in logs] == [0o600] * 2


def test_stopping_ends_the_process_and_its_children_in_any_session(folder):
    process, pids = family_of_three(folder)
    assert sorted(member.pid for member in process.family()) == sorted(pids)
    processes.stop(folder, [process])
    assert not any(lives(pid) for pid in pids)
    assert processes.recorded(folder) == []


def test_the_children_of_a_process_that_was_killed_are_found_and_ended(folder):
    process, pids = family_of_three(folder)
    os.kill(process.pid, signal.SIGKILL)
    processes.wait([psutil.Process(process.pid)], 5)
    assert processes.running(folder) == []
    assert [each.name for each in processes.recorded(folder)] == ["parent"]
    assert [lives(pid) for pid in pids] == [False, True, True]
    processes.stop(folder, processes.recorded(folder))
    assert not any(lives(pid) for pid in pids)
    assert processes.recorded(folder) == []


def test_who_died_with_all_children_stays_on_record_until_it_is_stopped(folder):
    process, _ = family_of_three(folder)
    family = process.family()
    for member in family:
        member.kill()
    processes.wait(family, 5)
    (found,) = processes.recorded(folder)
    assert (found.alive(), found.family()) == (False, [])
    processes.stop(folder, [found])
    assert processes.recorded(folder) == []


def test_a_name_that_runs_is_not_started_twice(folder):
    process, pids = family_of_three(folder)
    with pytest.raises(RuntimeError, match=rf"parent runs already in .*: pid {pids[0]}, "):
        processes.start(folder, "parent", [sys.executable, "-c", ""], {})
    assert processes.recorded(folder) == [process]
    assert all(lives(pid) for pid in pids)


def test_a_broken_record_hides_nobody(folder):
    _, pids = family_of_three(folder)
    (folder / "parent.json").write_text("")
    (found,) = processes.recorded(folder)
    assert {member.pid for member in found.family()} == set(pids)
    processes.stop(folder, [found])
    assert not any(lives(pid) for pid in pids)


def test_the_servers_of_a_run_that_was_killed_are_ended_by_the_next_one(tmp_path, folder):
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        killed.wait()
    own = tmp_path / "run" / "services" / str(killed.pid)
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    left = processes.start(own, "mlflow", command, dict(os.environ))
    mine = tmp_path / "run" / "services" / str(os.getpid())
    needed = processes.start(mine, "mlflow", command, dict(os.environ))
    assert services.sweep(tmp_path) == [left]
    assert (left.family(), needed.alive(), own.exists()) == ([], True, False)
    processes.stop(mine, [needed])


def test_a_process_that_does_not_listen_is_made_to_end(folder):
    process, pids = family_of_three(folder, "stubborn")
    processes.stop(folder, [process], grace=0.5)
    assert not any(lives(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to whom it is told")
def test_stopping_does_not_wait_for_zombies_that_no_parent_reaps(folder):
    command = [sys.executable, "-c", FIRST, str(folder), PARENT]
    with subprocess.Popen(command, cwd=environment.PROJECT) as first:
        try:
            while not (folder / "pids").exists():
                assert first.poll() is None, "the first process has ended"
                time.sleep(0.01)
            began = time.monotonic()
            processes.stop(folder, processes.recorded(folder), grace=120)
            took = time.monotonic() - began
            pids = [int(pid) for pid in (folder / "pids").read_text().split()]
            assert [psutil.Process(pid).status() for pid in pids] == [psutil.STATUS_ZOMBIE] * 3
            assert took < 60, f"{took:.0f} s of the 120 s that living processes are given"
        finally:
            first.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only there a thread outlives the first")
def test_a_process_runs_for_as_long_as_one_of_its_threads_does(folder):
    code = """
        import ctypes, os, threading, time
        threading.Thread(target=time.sleep, args=(600,)).start()
        SYS_EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
        ctypes.CDLL(None).syscall(SYS_EXIT, 0)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    process = processes.start(folder, "threads", command, dict(os.environ))
    found = psutil.Process(process.pid)
    until(found.status, "the first thread to end", psutil.STATUS_ZOMBIE.__eq__)
    assert [member.pid for member in process.family()] == [process.pid]
    processes.stop(folder, [process])
    assert process.family() == []
    assert not psutil.pid_exists(process.pid)


def test_a_step_of_the_clock_does_not_change_who_a_process_is(folder, monkeypatch):
    process, _ = family_of_three(folder)
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: create_time(self) + 30)
    assert process.alive()
    assert processes.running(folder) == [process]
    processes.stop(folder, [process])
    assert process.family() == []


def test_a_stranger_that_was_given_the_same_number_is_left_alone(folder):
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as stranger:
        mine = processes.Process("old", stranger.pid, "earlier", None, str(folder / "old.log"))
        (folder / "old.json").write_text(json.dumps(asdict(mine)))
        assert not mine.alive()
        processes.stop(folder, [mine])
        assert lives(stranger.pid)
        assert processes.recorded(folder) == []
        stranger.kill()


def test_waiting_for_a_server_that_died_shows_the_end_of_its_log(folder):
    command = [sys.executable, "-c", "raise SystemExit('the database is locked')"]
    process = processes.start(folder, "server", command, dict(os.environ))
    address = f"http://127.0.0.1:{processes.free_port()}/"
    with pytest.raises(RuntimeError, match=r"server ended[\s\S]*the database is locked"):
        processes.wait_until_answers(address, process)


ASKER = """
from include import processes
processes.PORTS = range({0}, {1})
print(*(processes.free_port() for _ in range(50)), flush=True)
input()
"""


@pytest.fixture
def ports(monkeypatch):
    """Only so many ports are there to be given; no server of another test has one of them."""
    claims = deque()
    monkeypatch.setattr(processes, "_CLAIMS", claims)

    def only(ports, most_claims=100):
        monkeypatch.setattr(processes, "PORTS", ports)
        monkeypatch.setattr(processes, "MOST_CLAIMS", most_claims)

    yield only
    for claim in claims:
        os.close(claim)


def test_two_processes_are_never_given_the_same_port(ports):
    ports(range(61_000, 61_110))
    command = [sys.executable, "-c", ASKER.format(61_000, 61_110)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        theirs = {int(port) for port in other.stdout.readline().split()}
        ours = {processes.free_port() for _ in range(50)}
        other.communicate("\n")
    assert len(ours) == len(theirs) == 50
    assert not ours & theirs


def test_a_port_is_given_again_once_others_were_given_after_it(ports):
    ports(range(61_200, 61_203), most_claims=2)
    first = [processes.free_port() for _ in range(3)]
    assert len(set(first)) == 3
    assert processes.free_port() == first[0]


def test_where_no_port_is_free_it_says_so(ports):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports(range(port, port + 1))
        with pytest.raises(OSError, match=f"no port from {port} to {port} is free"):
            processes.free_port()
