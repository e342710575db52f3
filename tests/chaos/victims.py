"""What can be killed, which of it is, and how: by SIGKILL, as the kernel does without memory."""

import os
import random
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psutil

from include import processes
from include.local_cloud import platforms
from include.tools import supervisor
from tests import outcomes

TASK, SCORER, JOB = "task", "scorer", "job"
TASKS_SHARE = 0.5
"""So many of the kills hit a task, where one runs."""
TITLE = re.compile(r"airflow worker -- ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
"""How Airflow names the process of a task instance."""
RUNNING = "SELECT id, dag_id, run_id, task_id, map_index FROM task_instance WHERE state = 'running'"


@dataclass(frozen=True)
class Task:
    """A task instance that runs."""

    dag_id: str
    run_id: str
    name: str

    def __str__(self) -> str:
        """As a line of progress names it."""
        return f"{self.dag_id} {self.run_id} {self.name}"


@dataclass(frozen=True)
class Victim:
    """A process, or the group that it leads."""

    kind: str
    """A task, a scorer, a job of a platform, or a service by its name."""
    name: str
    pid: int
    group: bool = False
    service: str = ""
    """The service that it works for, where it is none."""
    task: Task | None = None


@dataclass(frozen=True)
class Kill:
    """A victim, when it was killed, and the tasks that ran."""

    at: datetime
    victim: Victim
    running: Sequence[Task] = field(default=())

    def __str__(self) -> str:
        """A line of progress."""
        beside = [str(each) for each in self.running if each != self.victim.task]
        return f"killed {self.victim.name}; at work: {', '.join(beside) or 'no other task'}"


def choose(draw: random.Random, victims: Sequence[Victim]) -> Victim | None:
    """A task or one of the others; each kind of the others is as likely, however many it has."""
    kinds: dict[str, list[Victim]] = {}
    for victim in sorted(victims, key=lambda each: (each.kind, each.name)):
        kinds.setdefault(victim.kind, []).append(victim)
    if not kinds:
        return None
    others = sorted(kinds.keys() - {TASK})
    a_task = draw.random() < TASKS_SHARE
    kind = TASK if TASK in kinds and (a_task or not others) else draw.choice(others)
    return draw.choice(kinds[kind])


def kill(victim: Victim) -> bool:
    """Kill it; whether it was still there."""
    try:
        if victim.group:
            os.killpg(victim.pid, signal.SIGKILL)
        else:
            os.kill(victim.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def running(home: Path) -> dict[str, Task]:
    """The task instances that run, by their ids."""
    return {
        str(number).replace("-", ""): Task(dag_id, run_id, outcomes.named(task_id, map_index))
        for number, dag_id, run_id, task_id, map_index in outcomes.rows(home, RUNNING)
    }


def found(home: Path, tasks: Mapping[str, Task]) -> list[Victim]:
    """All that can be killed now."""
    return [*_services(home / "services"), *_tasks(tasks)]


def _services(folder: Path) -> Iterator[Victim]:
    """Each service, each scorer behind the gateway, each process that works for a platform."""
    of_platforms = {entry.name for entry in platforms.PLATFORMS}
    for process in processes.running(folder):
        if process.name == supervisor.NAME:
            continue
        yield Victim(process.name, process.name, process.pid)
        if process.name == "gateway":
            for child in _children(process.pid):
                yield _helper(SCORER, process.name, child)
        elif process.name in of_platforms:
            for child in _children(process.pid):
                yield _helper(JOB, process.name, child)


def _children(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [each for each in psutil.Process(pid).children() if processes.is_running(each)]
    return []


def _helper(kind: str, service: str, process: psutil.Process) -> Victim:
    return Victim(
        kind, f"{kind} of {service}", process.pid, group=_leads(process.pid), service=service
    )


def _tasks(tasks: Mapping[str, Task]) -> Iterator[Victim]:
    """The process of each task instance, with what it started in its group."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            titled = TITLE.fullmatch(" ".join(process.cmdline()).strip())
            task = tasks.get(titled[1].replace("-", "")) if titled else None
            if task is not None:
                leads = _leads(process.pid)
                yield Victim(TASK, f"task {task}", process.pid, group=leads, task=task)


def _leads(pid: int) -> bool:
    """Whether it is the first of its process group."""
    with suppress(ProcessLookupError):
        return os.getpgid(pid) == pid
    return False
