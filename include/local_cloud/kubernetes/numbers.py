"""Numbers in requests: whole, and of a size that clocks and files take."""

from collections.abc import Mapping
from typing import Any

from include.local_cloud.kubernetes.status import bad_request

MOST = 2**63 - 1


def whole(asked: Mapping[str, Any], name: str, least: int = 0, most: int = MOST) -> int | None:
    """The number of that name, from JSON or an address; None where it is not given."""
    value = asked.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        raise bad_request(f"{name}: {value!r:.100} is no whole number from {least} to {most}")
    return value
