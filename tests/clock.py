"""A loop that skips the time in which nothing happens: minutes of waiting take no time."""

import asyncio


class Skipping(asyncio.SelectorEventLoop):
    """Its clock stands at 0 in the beginning, and jumps to what comes next."""

    def __init__(self) -> None:
        """Begin at 0."""
        super().__init__()
        self.passed, self.select = 0.0, self._selector.select
        self._selector.select = self.skip

    def skip(self, seconds: float | None) -> list:
        """Look what has come; wait for nothing."""
        found = self.select(0)
        if not found:
            assert seconds is not None, "nobody will ever do anything again"
            self.passed += seconds
        return found

    def time(self) -> float:
        """The seconds that were skipped."""
        return self.passed


def now() -> float:
    """The time of the loop, in seconds."""
    return round(asyncio.get_running_loop().time(), 3)


async def turns() -> None:
    """Let all other tasks go on as far as they can without waiting."""
    for _ in range(20):
        await asyncio.sleep(0)
