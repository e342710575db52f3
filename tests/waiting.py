"""Wait for an outcome, with a deadline that names what was waited for."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

Found = TypeVar("Found")


def until(
    look: Callable[[], Found],
    what: str,
    good: Callable[[Found], Any] = bool,
    seconds: float = 60.0,
    pause: float = 0.05,
) -> Found:
    """Look again and again until what is found is good; return it."""
    deadline = time.monotonic() + seconds
    while not good(found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}; found {found!r}"
        time.sleep(pause)
    return found
