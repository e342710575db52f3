"""The process behind a long training: found again, stopped cleanly, and never mistaken."""

import json
import os
import signal
import sys
import time
from contextlib import suppress

import psutil
import pytest

from include.training.job import DamagedCheckpoint, Job, Progress

BEGIN = """
import sys, time
from pathlib import Path
from include.training.job import Job, Progress
job = Job(Path(sys.argv[1]))
with job.held():
"""
UNTIL_ASKED = """
    while not job.asked_to_stop:
        time.sleep(0.01)
    job.tell(Progress("stopped"))
"""
DEAF = "    while True: time.sleep(0.01)"
AT_ONCE = "    job.tell(Progress('finished', 5, 5, 0.5))"


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path / "job")
    job.prepare({"epochs": 5})
    yield job
    if job.alive():
        os.kill(recorded(job)["pid"], signal.SIGKILL)
    assert ended(job)


def recorded(job):
    return json.loads((job.folder / "process.json").read_text())


def ended(job):
    return within(5, lambda: not job.alive())


def within(seconds, holds):
    latest = time.monotonic() + seconds
    while not holds() and time.monotonic() < latest:
        time.sleep(0.01)
    return holds()


def running(body, job):
    return [sys.executable, "-c", BEGIN + body, str(job.folder)]


def test_a_started_job_is_found_by_whoever_knows_its_folder(job):
    assert job.state() == "new"
    job.start(running(UNTIL_ASKED, job))
    again = Job(job.folder)
    assert again.alive()
    assert again.state() == "starting"
    assert os.getsid(recorded(job)["pid"]) != os.getsid(0), "a signal to us would reach it"


def test_it_is_stopped_by_a_word_and_says_so(job):
    job.start(running(UNTIL_ASKED, job))
    job.stop()
    assert (job.alive(), job.state()) == (False, "stopped")


def test_one_that_does_not_listen_is_killed_when_its_grace_is_over(job):
    job.start(running(DEAF, job))
    job.stop(grace=0.2)
    assert (job.alive(), job.state()) == (False, "died")


def test_one_that_ended_before_anybody_looked_has_still_said_how(job):
    job.start(running(AT_ONCE, job))
    assert ended(job)
    assert job.state() == "finished"
    assert str(job.progress()) == "epoch 5 of 5 (100%), loss 0.5000"


def test_a_second_process_is_kept_out_and_the_first_goes_on(job):
    job.start(running(UNTIL_ASKED, job))
    first = recorded(job)
    job.start(running(UNTIL_ASKED, job))
    assert recorded(job) == first
    assert job.alive()
    assert "another process is at work" in job.last_words()


def test_one_that_can_not_start_says_why(job):
    with pytest.raises(RuntimeError, match="ModuleNotFoundError"):
        job.start([sys.executable, "-c", "import nothing_of_that_name"])


def test_a_stranger_that_was_given_the_number_is_left_alone(job):
    job.start(running(UNTIL_ASKED, job))
    mine = recorded(job)
    earlier = {**mine, "born": "another time"}
    (job.folder / "process.json").write_text(json.dumps(earlier))
    assert not job.alive()
    job.stop()
    assert psutil.pid_exists(mine["pid"])
    (job.folder / "process.json").write_text(json.dumps(mine))
    assert job.alive()


def test_another_order_stops_the_job_and_clears_the_folder(job):
    job.start(running(UNTIL_ASKED, job))
    process = psutil.Process(recorded(job)["pid"])
    job.keep(2, b"of another network")
    job.prepare({"epochs": 9})
    with suppress(psutil.NoSuchProcess):
        assert process.status() == psutil.STATUS_ZOMBIE
    assert (job.order(), job.checkpoints(), job.state()) == ({"epochs": 9}, [], "new")


def test_the_same_order_keeps_what_is_there(job):
    job.keep(2, b"two")
    job.prepare({"epochs": 5})
    assert job.reached() == 2


def test_the_last_three_checkpoints_stay(job):
    for epoch in (1, 2, 10, 9, 100):
        job.keep(epoch, f"after {epoch}".encode())
    assert [each.epoch for each in job.checkpoints()] == [9, 10, 100]
    assert job.checkpoints()[-1].read() == b"after 100"


def test_a_checkpoint_that_was_changed_is_refused(job):
    job.keep(1, b"one")
    (kept,) = job.checkpoints()
    kept.path.write_bytes(b"own")
    with pytest.raises(DamagedCheckpoint, match="was changed after it was written"):
        kept.read()


def test_what_is_half_written_is_seen_by_nobody(job):
    job.keep(1, b"one")
    (job.folder / "checkpoints" / ".epoch-000002-abc.pt.1.part").write_bytes(b"tw")
    assert job.reached() == 1
    job.tell(Progress("training", 1, 5, 0.5, 3.2))
    assert str(job.progress()) == "epoch 1 of 5 (20%), loss 0.5000, about 3 s to go"
