"""The supervisor starts again what has ended: as it was, and not without a pause for ever."""

import itertools
import json
import os
import signal
import sys

import psutil
import pytest

from include import processes
from include.tools import supervisor
from tests.waiting import until

SLEEPS = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "services"
    yield folder
    processes.stop(folder, processes.recorded(folder), grace=2)


def killed(process):
    os.kill(process.pid, signal.SIGKILL)
    processes.wait([psutil.Process(process.pid)], 10)


def only(folder):
    (process,) = processes.recorded(folder)
    return process


def test_a_killed_process_comes_back_with_its_command_its_port_and_its_environment(
    folder, monkeypatch
):
    monkeypatch.setenv("GIVEN_BY_MAKE_UP", "this")
    first = processes.start(folder, "server", SLEEPS, {}, port=8090)
    looking = supervisor.Supervisor(folder)
    looking.look(0)
    assert only(folder) == first

    killed(first)
    looking.look(1)
    again = only(folder)
    assert again.alive()
    assert again.pid != first.pid
    assert (again.command, again.port) == (SLEEPS, 8090)
    assert psutil.Process(again.pid).environ()["GIVEN_BY_MAKE_UP"] == "this"


def test_the_children_of_a_killed_process_are_ended_first(folder):
    tree = f"import subprocess; subprocess.run({SLEEPS})"
    first = processes.start(folder, "server", [sys.executable, "-c", tree], {})
    until(first.family, "a parent and its child", lambda family: len(family) == 2, 20)
    child = next(each for each in first.family() if each.pid != first.pid)
    killed(first)
    supervisor.Supervisor(folder).look(0)
    assert not processes.is_running(child)
    assert only(folder).alive()


def test_the_log_of_the_one_that_ended_is_kept(folder):
    first = processes.start(folder, "server", [sys.executable, "-c", "print('why')"], {})
    processes.wait([psutil.Process(first.pid)], 10)
    supervisor.Supervisor(folder).look(0)
    assert (folder / "server.log.1").read_text() == "why\n"


def test_one_that_ends_again_and_again_comes_back_after_longer_pauses(folder, capsys):
    processes.start(folder, "server", [sys.executable, "-c", "raise SystemExit(1)"], {})
    looking, started = supervisor.Supervisor(folder), []
    for second in range(200):
        process = only(folder)
        if process.alive():
            processes.wait([psutil.Process(process.pid)], 10)
        looking.look(second)
        if only(folder) != process:
            started.append(second)
    pauses = [later - earlier for earlier, later in itertools.pairwise(started)]
    assert pauses[:4] == [2, 5, 15, 60]
    assert min(pauses[4:]) >= 15
    assert capsys.readouterr().out.count("ended. Started again: pid") == len(started)


def test_an_end_long_ago_no_longer_delays(folder):
    process = processes.start(folder, "server", SLEEPS, {})
    looking = supervisor.Supervisor(folder)
    for second in (0, supervisor.WELL_AFTER, 2 * supervisor.WELL_AFTER):
        killed(process)
        looking.look(second)
        process = only(folder)
        assert process.alive()


def test_while_make_up_or_make_down_is_at_work_nothing_is_started(folder):
    killed(processes.start(folder, "server", SLEEPS, {}))
    with processes.alone(supervisor.lock(folder)):
        supervisor.Supervisor(folder).look(0)
        assert not only(folder).alive()
    supervisor.Supervisor(folder).look(0)
    assert only(folder).alive()


def test_what_can_not_be_started_now_is_started_later(folder, capsys):
    killed(processes.start(folder, "server", SLEEPS, {}))
    looking = supervisor.Supervisor(folder)
    (folder / "server.json.part").mkdir()  # as where the disk is full, no record can be written
    looking.look(0)
    assert "It was not started again: [Errno 21] Is a directory" in capsys.readouterr().out
    (folder / "server.json.part").rmdir()
    looking.look(10)
    assert only(folder).alive()


def test_it_runs_beside_the_others_and_ends_by_itself(folder):
    server = processes.start(folder, "server", SLEEPS, {})
    supervisor.start(folder, {"GIVEN": "that"})
    killed(server)
    again = until(
        lambda: next(each for each in processes.recorded(folder) if each.name == "server"),
        "the server to be started again",
        processes.Process.alive,
        30,
    )
    assert psutil.Process(again.pid).environ()["GIVEN"] == "that"
    supervisor.stop(folder)
    assert processes.running(folder) == [again]
    log = (folder / "supervisor.log").read_text()
    assert log == f"server (pid {server.pid}) ended. Started again: pid {again.pid}.\n"
    assert json.loads((folder / "server.json").read_text())["pid"] == again.pid
