"""Jobs: what is asked for, what state it is in, and the work itself beside the API."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.local_cloud.jobs import last_words
from include.local_cloud.sagemaker.account import Account, JobFailed, arn, now, page, shown
from include.local_cloud.sagemaker.protocol import Operation, Refused, invalid
from include.local_cloud.server import Fault
from include.local_cloud.state import Table

UNFINISHED = ("InProgress", "Stopping")
INTERNAL = "InternalServerError: We encountered an internal error. Please try again."
LONGEST_REASON = 1024


def no_job(name: str) -> Refused:
    """What the vendor says of most kinds of jobs where there is none of this name."""
    return invalid(f"Could not find requested job with name: {name}")


class Stopped(Exception):
    """Somebody asked for the end of a job."""


@dataclass
class Kind:
    """Jobs of one kind. Their API differs in names only, and in what it says of unknown ones."""

    account: Account
    prefix: str
    """`TrainingJob` for `CreateTrainingJob`, `TrainingJobName` and so on."""
    address: str
    """`training-job`, in ARNs."""
    times: str
    """`Training`, for `TrainingStartTime`."""
    unknown: Callable[[str], Refused]
    work: Callable[["Kind", str, Path], dict[str, Any]]
    """What a job does in its folder; returns what it adds to its description."""
    can_be_deleted: bool = True

    def __post_init__(self) -> None:
        """What was running when the last process ended is over."""
        self.table: Table = self.account.table(self.address)
        for job in self.table.all():
            if job[self.status] in UNFINISHED:
                self._end(job[self.name], "Failed", FailureReason=INTERNAL)

    @property
    def name(self) -> str:
        """The field with the name."""
        return f"{self.prefix}Name"

    @property
    def status(self) -> str:
        """The field with the state."""
        return f"{self.prefix}Status"

    @property
    def creation(self) -> str:
        """The call that begins one."""
        return f"Create{self.prefix}"

    def operations(self) -> dict[str, Operation]:
        """What callers can ask."""
        found: dict[str, Operation] = {
            self.creation: self.create,
            f"Describe{self.prefix}": lambda asked: shown(self.get(asked[self.name])),
            f"Stop{self.prefix}": self.stop,
            f"List{self.prefix}s": self.summaries,
        }
        return found | ({f"Delete{self.prefix}": self.delete} if self.can_be_deleted else {})

    def get(self, name: str) -> dict[str, Any]:
        """A job, or the vendor's word for that there is none."""
        found = self.table.get(name)
        if found is None:
            raise self.unknown(name)
        return found

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Take on a job and begin with it."""
        job = self.add(asked)
        fault = self.account.faults.of_job(self.creation)
        name = f"{self.address}/{job[self.name]}"

        def work() -> None:
            self.do(job[self.name], fault)

        self.account.jobs.start(name, work)
        return {f"{self.prefix}Arn": job[f"{self.prefix}Arn"]}

    def add(self, asked: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Write down a job that begins."""
        name, moment = asked[self.name], now()
        job = asked | {
            f"{self.prefix}Arn": arn(self.address, name),
            self.status: "InProgress",
            "CreationTime": moment,
            "LastModifiedTime": moment,
            **more,
        }
        if not self.table.add(name, job):
            raise Refused(
                "ResourceInUse",
                "Job name must be unique within an AWS account and region, and a job with this "
                f"name already exists ({arn(self.address, name)})",
            )
        return job

    def do(self, name: str, fault: Fault | None = None) -> dict[str, Any]:
        """Work at a job until it is over, however it ends; returns its description."""
        folder = self.account.folder / "work" / self.address / name
        folder.mkdir(parents=True, exist_ok=True)
        self.table.change(name, **{f"{self.times}StartTime": now()})
        try:
            if fault:
                raise JobFailed(fault.reason)
            made = self.work(self, name, folder)
            self.go_on(name)
            return self._end(name, "Completed", **made)
        except JobFailed as failed:
            return self._end(name, "Failed", FailureReason=str(failed)[:LONGEST_REASON])
        except Stopped:
            return self._end(name, "Stopped")
        finally:
            if (self.table.get(name) or {}).get(self.status) in UNFINISHED:
                # A mistake of this platform's own: its traceback is in the platform's log.
                self._end(name, "Failed", FailureReason=INTERNAL)
            shutil.rmtree(folder, ignore_errors=True)

    def go_on(self, name: str) -> None:
        """Raise where the job is to end."""
        if self.account.closing.is_set():
            raise JobFailed(INTERNAL)
        if self.get(name)[self.status] == "Stopping":
            raise Stopped

    def run(
        self, name: str, command: list[str], env: dict[str, str], folder: Path, group: str
    ) -> str:
        """Run a job's process to its end; returns what it printed."""
        self.go_on(name)
        home = folder / "home"
        home.mkdir()
        limit = self.get(name).get("StoppingCondition", {}).get("MaxRuntimeInSeconds", 86_400)
        with self._limited(name, limit) as late:
            status = self.account.run(f"{self.address}/{name}", command, env, home)
        self.go_on(name)
        printed = (home / "log").read_text(encoding="utf-8", errors="replace")
        self.account.log(f"/aws/sagemaker/{group}", f"{name}/algo-1-1", printed)
        if late.is_set():
            raise Stopped
        if status:
            code = status if status > 0 else 128 - status
            raise JobFailed(
                f"AlgorithmError: ExecuteUserScriptError:\nExitCode {code}\n"
                f'ErrorMessage "{last_words(home / "log")[-700:]}"\n'
                f'Command "{" ".join(command)[:200]}", exit code: {code}'
            )
        return printed

    @contextmanager
    def _limited(self, name: str, seconds: float) -> Iterator[threading.Event]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self.account.jobs.stop(f"{self.address}/{name}")

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()

    def stop(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Ask for the end of a job; its last state comes a little later."""
        name = asked[self.name]
        if self.get(name)[self.status] != "InProgress":
            raise invalid(f"The request was rejected because the {self.address} is not running.")
        self.table.change(name, **{self.status: "Stopping"})
        self.account.jobs.stop(f"{self.address}/{name}")
        return {}

    def delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Forget a job that is over."""
        name = asked[self.name]
        if self.get(name)[self.status] in UNFINISHED:
            raise Refused("ResourceInUse", f"{arn(self.address, name)} is still in progress")
        self.table.drop(name)
        return {}

    def summaries(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Summaries of those that are asked for, a page at a time."""
        wanted = asked.get("StatusEquals")
        found = [
            {
                field: job[field]
                for field in (self.name, f"{self.prefix}Arn", self.status, "CreationTime")
            }
            for job in self.table.all()
            if asked.get("NameContains", "") in job[self.name]
            and wanted in (None, job[self.status])
        ]
        return page(found, asked, f"{self.prefix}Summaries")

    def left(self) -> list[str]:
        """What users could take away: where nothing can be deleted, only what still runs."""
        return [
            job[self.name]
            for job in self.table.all()
            if self.can_be_deleted or job[self.status] in UNFINISHED
        ]

    def _end(self, name: str, status: str, **more: Any) -> dict[str, Any]:
        moment = now()
        job = self.table.get(name) or {}
        if "SecondaryStatusTransitions" in job:
            more |= secondary(job, status, more.get("FailureReason", ""))
        ended = {f"{self.times}EndTime": moment, "LastModifiedTime": moment}
        return self.table.change(name, **{self.status: status}, **ended, **more) or {}


def secondary(job: dict[str, Any], status: str, message: str = "") -> dict[str, Any]:
    """A training's finer states, with the times between them."""
    moment = now()
    past = [{"EndTime": moment} | each for each in job["SecondaryStatusTransitions"]]
    current = {"Status": status, "StartTime": moment, "StatusMessage": message}
    return {"SecondaryStatus": status, "SecondaryStatusTransitions": [*past, current]}
