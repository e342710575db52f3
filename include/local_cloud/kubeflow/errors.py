"""How the API says no: gRPC's codes, and the HTTP status that its gateway makes of each."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

INVALID, NOT_FOUND, EXISTS, EXHAUSTED, PRECONDITION = 3, 5, 6, 8, 9
ABORTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 10, 12, 13, 14, 16
STATUS = {
    INVALID: HTTPStatus.BAD_REQUEST,
    NOT_FOUND: HTTPStatus.NOT_FOUND,
    EXISTS: HTTPStatus.CONFLICT,
    EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    PRECONDITION: HTTPStatus.BAD_REQUEST,
    ABORTED: HTTPStatus.CONFLICT,
    UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
}


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: int, message: str):
        """Say which of gRPC's codes, and why."""
        super().__init__(message)
        self.code = code


def missing(kind: str, name: str) -> Refused:
    """What was asked for isn't there."""
    return Refused(NOT_FOUND, f"{kind} {name} not found")


def invalid(message: str) -> Refused:
    """What was asked makes no sense."""
    return Refused(INVALID, f"Invalid input error: {message}")


def texts(asked: Mapping[str, Any], *fields: str) -> None:
    """Refuse a request in which one of these is given, and is no text."""
    for each in fields:
        if not isinstance(asked.get(each) or "", str):
            raise invalid(f"{each} must be a text")
