"""What objects say of themselves in their status, and how it is read."""

import time
from datetime import datetime
from typing import Any

from include.local_cloud.kubernetes.objects import Object, now

Status = dict[str, Any]


def condition(status: Status, kind: str) -> Status | None:
    """A condition, if it holds."""
    held = [each for each in status.get("conditions") or [] if each["status"] == "True"]
    return next((each for each in held if each["type"] == kind), None)


def say(status: Status, kind: str, reason: str, message: str, value: str = "True") -> None:
    """Have a condition hold, since now if it did not before."""
    others = [each for each in status.get("conditions") or [] if each["type"] != kind]
    same = [each for each in status.get("conditions") or [] if each["type"] == kind]
    said = {"type": kind, "status": value, "reason": reason, "message": message}
    since = same[0]["lastTransitionTime"] if same and same[0]["status"] == value else now()
    status["conditions"] = [*others, said | {"lastTransitionTime": since}]


def containers(pod: Object) -> list[Status]:
    """How the containers of a pod do."""
    found: list[Status] = pod.get("status", {}).get("containerStatuses") or []
    return found


def ready(pod: Object) -> bool:
    """Whether all containers of a pod run."""
    return bool(containers(pod)) and all(each["ready"] for each in containers(pod))


def age(at: str) -> float:
    """Seconds since a moment that an object names."""
    return time.time() - datetime.fromisoformat(at).timestamp()
