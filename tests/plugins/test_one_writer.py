"""Requests that write follow one another; who reads or sends slowly keeps nobody waiting."""

import asyncio

import pytest

from plugins import one_writer
from plugins.one_writer import InTurn


class Airflow:
    """Answers nobody until it is told to, and knows how many were there at once."""

    def __init__(self):
        """Nobody is there."""
        self.inside, self.most, self.heard = 0, 0, []
        self.told = asyncio.Event()

    async def __call__(self, scope, receive, send):
        """Hear what is sent."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            message = await receive()
            body = message["body"]
            while message["more_body"]:
                message = await receive()
                body += message["body"]
            await self.told.wait()
            if body == b"broken":
                raise ValueError("broken")
            self.heard.append(body)
        finally:
            self.inside -= 1


def asks(app, method, *parts, whole=True):
    """A client that sends its body in parts; one that is not whole stops in the middle."""
    left = list(parts)

    async def receive():
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or not whole}

    return asyncio.ensure_future(app({"type": "http", "method": method}, receive, None))


async def settled(airflow):
    """Everybody has come as far as possible; then all are let through."""
    for _ in range(20):
        await asyncio.sleep(0)
    airflow.told.set()


@pytest.mark.parametrize(("method", "most"), [("POST", 1), ("PATCH", 1), ("DELETE", 1), ("GET", 3)])
def test_who_writes_is_alone_and_who_reads_is_not(method, most):
    async def three():
        app = InTurn(airflow := Airflow())
        clients = [asks(app, method, b"one ", b"and two") for _ in range(3)]
        await settled(airflow)
        await asyncio.wait_for(asyncio.gather(*clients), 10)
        return airflow

    airflow = asyncio.run(three())
    assert airflow.most == most
    assert airflow.heard == [b"one and two"] * 3


def test_who_sends_slowly_or_breaks_keeps_nobody_waiting():
    async def three():
        app = InTurn(airflow := Airflow())
        slow = asks(app, "POST", b"the first half", whole=False)
        broken, usual = asks(app, "POST", b"broken"), asks(app, "POST", b"usual")
        await settled(airflow)
        with pytest.raises(ValueError, match="broken"):
            await asyncio.wait_for(broken, 10)
        await asyncio.wait_for(usual, 10)
        slow.cancel()
        return airflow.heard

    assert asyncio.run(three()) == [b"usual"]


@pytest.mark.parametrize("parts", [[b"x" * 101], [b"x" * 60] * 3])
def test_a_body_that_is_too_long_to_wait_with_is_refused(monkeypatch, parts):
    monkeypatch.setattr(one_writer, "MOST_BYTES", 100)
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    airflow = Airflow()
    asyncio.run(InTurn(airflow)({"type": "http", "method": "POST"}, receive, send))
    assert sent[0]["status"] == 413
    assert (airflow.inside, airflow.heard) == (0, [])
