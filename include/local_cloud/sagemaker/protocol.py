"""AWS's JSON protocol: requests checked against the vendor's own model, errors in its shape."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import botocore.session
from botocore.model import ListShape, ServiceModel, Shape, StringShape, StructureShape

from include.local_cloud.server import Fault, Faults, parsed

Operation = Callable[[dict[str, Any]], dict[str, Any]]
LONGEST_SHOWN = 100


@dataclass(frozen=True)
class Refused(Exception):
    """A request is not done, and this is why."""

    code: str
    message: str
    status: int = 400

    def body(self) -> bytes:
        """As the vendor's clients read it."""
        return json.dumps({"__type": self.code, "message": self.message}).encode()


def invalid(message: str) -> Refused:
    """What the vendor says to most of what can't be done."""
    return Refused("ValidationException", message)


def of_fault(fault: Fault, operation: str) -> Refused:
    """The vendor's way of saying what a fault asks for."""
    if fault.kind == "throttled":
        return Refused("ThrottlingException", "Rate exceeded")
    if fault.kind == "quota":
        return Refused(
            "ResourceLimitExceeded",
            f"The account-level service limit for {operation} is 0 Instances, with current "
            "utilization of 0 Instances and a request delta of 1 Instances. Please use AWS "
            "Service Quotas to request an increase for this quota.",
        )
    return Refused("ServiceUnavailable", "Service is unavailable. Please try again.", 503)


@dataclass
class Protocol:
    """From an operation's name and the bytes of a request to the bytes of the answer."""

    operations: Mapping[str, Operation]
    faults: Faults

    @cached_property
    def model(self) -> ServiceModel:
        """The service as the vendor's SDK describes it."""
        return botocore.session.get_session().get_service_model("sagemaker")

    def answer(self, operation: str, body: bytes) -> bytes:
        """Do what is asked, or raise Refused."""
        if fault := self.faults.meet(operation):
            raise of_fault(fault, operation)
        if operation not in self.model.operation_names:
            raise Refused("UnknownOperationException", f"{operation} is no SageMaker operation")
        if operation not in self.operations:
            raise Refused("NotImplemented", f"{operation} is not implemented here", 501)
        try:
            asked = parsed(body or b"{}")
        except (ValueError, RecursionError) as error:
            raise Refused("SerializationException", str(error)) from None
        shape = self.model.operation_model(operation).input_shape
        if shape and (found := list(_faults(shape, asked, ""))):
            count = f"{len(found)} validation error{'s' if len(found) > 1 else ''} detected: "
            raise invalid(count + "; ".join(found))
        return json.dumps(self.operations[operation](asked)).encode()


def _faults(shape: Shape, value: Any, path: str) -> Iterator[str]:
    """What the vendor's model says against a value, in the vendor's words."""
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        for name in shape.required_members:
            if value.get(name) is None:
                yield _fault(None, _below(path, name), "Member must not be null")
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from _faults(member, value[name], _below(path, name))
    elif isinstance(shape, ListShape) and isinstance(value, list):
        yield from _outside(shape, len(value), value, path, "have length")
        for place, each in enumerate(value, start=1):
            yield from _faults(shape.member, each, f"{path}.{place}.member")
    elif shape.type_name == "map" and isinstance(value, dict):
        for name, each in value.items():
            yield from _faults(shape.key, name, f"{path}.key")
            yield from _faults(shape.value, each, f"{path}.{name}.member")
    elif isinstance(shape, StringShape) and isinstance(value, str):
        yield from _outside(shape, len(value), value, path, "have length")
        pattern = shape.metadata.get("pattern", "")
        if shape.enum and value not in shape.enum:
            known = ", ".join(shape.enum)
            yield _fault(value, path, f"Member must satisfy enum value set: [{known}]")
        elif r"\p" not in pattern and pattern and not re.fullmatch(pattern, value, re.DOTALL):
            yield _fault(value, path, f"Member must satisfy regular expression pattern: {pattern}")
    elif shape.type_name in ("integer", "long") and isinstance(value, int):
        yield from _outside(shape, value, value, path, "have value")
    elif not _is_a(shape.type_name, value):
        yield _fault(value, path, f"Member must be of type {shape.type_name}")


def _outside(shape: Shape, measure: int, value: Any, path: str, what: str) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and measure < least:
        yield _fault(value, path, f"Member must {what} greater than or equal to {least}")
    if most is not None and measure > most:
        yield _fault(value, path, f"Member must {what} less than or equal to {most}")


def _is_a(kind: str, value: Any) -> bool:
    if kind in ("float", "double", "timestamp"):
        return isinstance(value, int | float)
    return isinstance(value, bool) if kind == "boolean" else False


def _fault(value: Any, path: str, constraint: str) -> str:
    shown = "null" if value is None else f"'{str(value)[:LONGEST_SHOWN]}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {constraint}"


def _below(path: str, name: str) -> str:
    return ".".join(filter(None, [path, name[0].lower() + name[1:]]))
