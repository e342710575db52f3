"""What the tasks of a run are at, read from what `kfp.local` prints while it runs them.

The lines are those of the pinned version; what a task prints itself is indented there.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LINE = re.compile(
    r"(?P<at>\d\d:\d\d:\d\d\.\d{3}) - \w+ - "
    r"(?:Executing task '(?P<begun>[^']+)'"
    r"|Task '(?P<ended>[^']+)' finished with status (?P<status>\w+))$"
)
STATES = {"SUCCESS": "SUCCEEDED", "FAILURE": "FAILED", "SKIPPED": "SKIPPED"}
NEVER = datetime.fromtimestamp(0, UTC)


@dataclass
class Step:
    """One task of a run."""

    name: str
    began: datetime
    ended: datetime = NEVER
    state: str = "RUNNING"
    lines: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        """What it printed."""
        return "\n".join(self.lines).strip("\n")


def read(text: str, created: datetime) -> list[Step]:
    """The tasks that have begun, in that order."""
    steps: list[Step] = []
    open_step = None
    for line in COLOUR.sub("", text).splitlines():
        found = LINE.match(line)
        if found is None:
            if open_step and line.startswith("    "):
                open_step.lines.append(line.removeprefix("    "))
        elif found["begun"]:
            open_step = Step(found["begun"], _moment(found["at"], created))
            steps.append(open_step)
        elif open_step and open_step.name == found["ended"]:
            open_step.ended = _moment(found["at"], created)
            open_step.state = STATES[found["status"]]
            open_step = None
    return steps


def _moment(clock: str, created: datetime) -> datetime:
    """The day is not printed; a run that goes past midnight goes on on the next one."""
    at = datetime.combine(created.date(), datetime.strptime(clock, "%H:%M:%S.%f").time(), UTC)
    return at if at >= created.replace(microsecond=0) else at + timedelta(days=1)
