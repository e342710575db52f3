"""How the API says no: a `Status` object with the reason that its clients look for."""

from typing import Any


class Refused(Exception):
    """A call that gets an answer other than it wanted."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        """With the HTTP status, the machine's word for it and the reader's."""
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details

    def body(self) -> dict[str, Any]:
        """As clients read it."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def not_found(resource: str, name: str) -> Refused:
    """There is no such object."""
    return Refused(404, "NotFound", f'{resource} "{name}" not found', name=name, kind=resource)


def exists(resource: str, name: str) -> Refused:
    """The name is taken."""
    message = f'{resource} "{name}" already exists'
    return Refused(409, "AlreadyExists", message, name=name, kind=resource)


def conflict(resource: str, name: str) -> Refused:
    """Somebody else changed it since it was read."""
    message = (
        f'Operation cannot be fulfilled on {resource} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return Refused(409, "Conflict", message, name=name, kind=resource)


def invalid(kind: str, name: str, field: str, why: str) -> Refused:
    """An object that can't be; `why` begins as theirs do: `Required value`, `Invalid value`."""
    message = f'{kind} "{name}" is invalid: {field}: {why}'
    causes = [{"reason": "FieldValueInvalid", "field": field, "message": why}]
    return Refused(422, "Invalid", message, name=name, kind=kind, causes=causes)


def bad_request(message: str) -> Refused:
    """A call that makes no sense."""
    return Refused(400, "BadRequest", message)


def not_implemented(what: str) -> Refused:
    """Something that a cluster has and this platform hasn't."""
    return Refused(501, "NotImplemented", f"not implemented by the local cloud: {what}")
