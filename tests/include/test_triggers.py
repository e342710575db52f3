"""The trigger wakes its task for a reason, blocks nobody, and survives a move."""

import asyncio
import pkgutil
import sys
import time
from types import SimpleNamespace

import pytest

from include import triggers
from include.training.job import Job, Progress

WAITING = """
import sys, time
from pathlib import Path
from include.training.job import Job, Progress
job = Job(Path(sys.argv[1]))
with job.held():
    while not job.asked_to_stop:
        time.sleep(0.01)
    job.tell(Progress("stopped"))
"""
FAR_OFF = 4_000_000_000.0


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path / "job")
    job.prepare({})
    yield job
    job.stop()


@pytest.fixture
def running(job):
    job.start([sys.executable, "-c", WAITING, str(job.folder)])
    return job


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(triggers, "POLL_SECONDS", 0.01)


def watching(job, deadline=FAR_OFF, silence=60.0):
    return triggers.JobTrigger(str(job.folder), deadline, silence)


async def woken_by(trigger):
    event = await anext(trigger.run())
    return event.payload["why"]


def test_it_can_be_rebuilt_in_another_triggerer(job):
    path, values = watching(job, deadline=12.5, silence=3.0).serialize()
    again = pkgutil.resolve_name(path)(**values)
    assert again.serialize() == (path, values)
    assert values == {"folder": str(job.folder), "deadline": 12.5, "silence": 3.0}


@pytest.mark.parametrize("state", ["finished", "stopped", "failed"])
def test_it_wakes_the_task_when_the_job_has_ended(job, state):
    job.tell(Progress(state))
    assert asyncio.run(woken_by(watching(job))) == state


def test_it_wakes_the_task_when_the_job_is_dead(job):
    job.tell(Progress("training", 3, 5, 0.5))
    assert asyncio.run(woken_by(watching(job))) == "died"


def test_it_wakes_the_task_when_the_time_is_over_and_leaves_the_job_to_it(running):
    assert asyncio.run(woken_by(watching(running, deadline=time.time() + 0.1))) == "out of time"
    assert running.alive()


def test_it_wakes_the_task_when_the_job_no_longer_gets_on(running):
    assert asyncio.run(woken_by(watching(running, silence=0.1))) == "silent"


def test_a_step_of_the_clock_does_not_make_a_job_silent(running, monkeypatch):
    an_hour_ago = time.time() - 3600
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: an_hour_ago)
        running.tell(Progress("training", 3, 5, 0.5))

    async def waits():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(woken_by(watching(running)), 0.5)

    asyncio.run(waits())
    assert running.alive()


def test_it_tells_of_each_checkpoint_once(running, monkeypatch):
    told = []
    log = SimpleNamespace(info=lambda line, *values: told.append(line % values))
    monkeypatch.setattr(triggers.JobTrigger, "log", log)

    async def follow():
        waiting = asyncio.create_task(woken_by(watching(running)))
        for epoch in (3, 6):
            running.keep(epoch, b"weights")
            running.tell(Progress("training", epoch, 9, 0.5, 4.0))
            await asyncio.sleep(0.1)
        running.tell(Progress("finished", 9, 9, 0.4, 0.0))
        return await waiting

    assert asyncio.run(follow()) == "finished"
    assert told == [
        "checkpoint at epoch 3; epoch 3 of 9 (33%), loss 0.5000, about 4 s to go",
        "checkpoint at epoch 6; epoch 6 of 9 (67%), loss 0.5000, about 4 s to go",
    ]


def test_a_slow_disk_holds_up_no_other_trigger(running, monkeypatch):
    def slow(self):
        time.sleep(0.4)
        return "finished"

    async def longest_pause():
        waiting = asyncio.create_task(woken_by(watching(running)))
        pauses, before = [], time.monotonic()
        while not waiting.done():
            await asyncio.sleep(0.01)
            pauses.append(time.monotonic() - before)
            before = time.monotonic()
        return max(pauses)

    monkeypatch.setattr(Job, "state", slow)
    assert asyncio.run(longest_pause()) < 0.3


def test_the_job_ends_when_somebody_ends_the_waiting_task(running):
    asyncio.run(watching(running).on_kill())
    assert (running.alive(), running.state()) == (False, "stopped")


def test_the_job_goes_on_when_the_triggerer_stops(running):
    async def stopped():
        waiting = asyncio.create_task(woken_by(watching(running)))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(stopped())
    assert running.alive()
