"""How a call of Azure's clients is read, found, answered and refused."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from include.local_cloud import server

SUBSCRIPTION = "97030400-0000-4000-8000-000000000001"
GROUP = "local"
WORKSPACE = "catalogue"
LOCATION = "westeurope"
SCOPE = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
    f"/providers/Microsoft.MachineLearningServices/workspaces/{WORKSPACE}"
)


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body, which must be an object."""
        try:
            content = server.parsed(self.body or b"{}")
        except ValueError as error:
            raise Refused(400, "InvalidRequestContent", f"The body is not JSON: {error}") from None
        if not isinstance(content, dict):
            raise Refused(400, "InvalidRequestContent", "The body must be an object.")
        return content


@dataclass(frozen=True)
class Reply:
    """What it is told: an object as JSON, bytes as they are."""

    content: dict[str, Any] | list[Any] | bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A call that is not done, in the words of Azure Resource Manager."""

    def __init__(self, status: int, code: str, message: str, after: int | None = None):
        """Refuse with a status and a code; `after` so many seconds it may be tried again."""
        super().__init__(message)
        self.status, self.code, self.message, self.after = status, code, message, after

    @property
    def headers(self) -> dict[str, str]:
        """What clients read beside the body: blob storage names its error nowhere else."""
        again = {} if self.after is None else {"Retry-After": str(self.after)}
        return {"x-ms-error-code": self.code} | again


Handler = Callable[..., Reply]


@dataclass(frozen=True)
class Route:
    """A call that is implemented, under the name that faults and refusals know it by."""

    method: str
    template: str
    operation: str
    handler: Handler
    open: bool = False
    """Whether it wants no token: it checks for itself who asks, or anybody may."""

    def match(self, request: Request) -> dict[str, str] | None:
        """The named parts of the path where this is the call."""
        if request.method != self.method:
            return None
        pattern = re.sub(r"\{(\w+)\+\}", r"(?P<\1>.+)", self.template)
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)
        found = re.fullmatch(pattern, request.path, re.IGNORECASE)
        return found.groupdict() if found else None


def missing(kind: str, name: str) -> Refused:
    """The answer for what is not there."""
    return Refused(404, "ResourceNotFound", f"The {kind} '{name}' was not found in {WORKSPACE}.")


def named(kind: str, name: str, pattern: str) -> str:
    """A name that Azure would accept too."""
    if not re.fullmatch(pattern, name):
        raise Refused(400, "BadArgument", f"'{name}' is no name for {kind}: it must fit {pattern}")
    return name
