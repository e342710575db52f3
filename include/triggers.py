"""What waits in Airflow's triggerer, where thousands of tasks may wait without a worker.

A trigger lives by two rules. It can be rebuilt from its `serialize()`, since it moves to another
triggerer when its own stops: so it holds nothing but plain values, and a deadline as a point in
time. And it never blocks, since all triggers share one thread: so files are read in another one.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from include.training.job import Job

POLL_SECONDS = 1.0
now = time.time


class JobTrigger(BaseTrigger):
    """Wakes its task when a job has ended, no longer gets on, or has used up its time.

    Meanwhile it tells the task's log of every checkpoint. The event says why it woke the task, but
    the task looks for itself: the job may have ended since.
    """

    def __init__(self, folder: str, deadline: float, silence: float):
        """Watch the job in `folder`, until a point in time, for a silence of so many seconds."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.folder = folder
        self.deadline = deadline
        self.silence = silence

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """All that another triggerer needs to go on."""
        return f"{__name__}.{type(self).__name__}", {
            "folder": self.folder,
            "deadline": self.deadline,
            "silence": self.silence,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, tell, and sleep; fire once."""
        job, told = Job(Path(self.folder)), 0
        news, heard = None, time.monotonic()  # which nobody sets, unlike the time of the day
        while True:
            state, progress, reached = await asyncio.to_thread(
                lambda: (job.state(), job.progress(), job.reached())
            )
            if progress != news:
                news, heard = progress, time.monotonic()
            if progress is not None and told < reached <= progress.epoch:
                self.log.info("checkpoint at epoch %d; %s", reached, progress)
                told = reached
            if state not in ("starting", "training"):
                why = state
            elif now() > self.deadline:
                why = "out of time"
            elif progress is not None and time.monotonic() - heard > self.silence:
                why = "silent"
            else:
                await asyncio.sleep(POLL_SECONDS)
                continue
            yield TriggerEvent({"why": why})  # type: ignore[no-untyped-call]
            return

    async def on_kill(self) -> None:
        """Somebody cleared the waiting task or marked it: the job must not go on without it.

        This is not called when the triggerer stops or restarts, when the job shall go on.
        """
        await asyncio.to_thread(Job(Path(self.folder)).stop)
