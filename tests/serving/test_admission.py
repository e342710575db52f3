"""What comes in is bounded: bytes, requests, time, and where a model may lie."""

import asyncio
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web

from include.serving import admission, protocol
from include.serving.admission import Patience, Room
from tests.clock import Skipping, now, turns


def run(steps):
    with asyncio.Runner(loop_factory=Skipping) as runner:
        return runner.run(steps)


def request(*parts, announced=None, pause=0.0):
    """A request whose body comes in these parts, with a pause before each."""

    async def iter_any():
        for part in parts:
            await asyncio.sleep(pause)
            yield part

    return SimpleNamespace(content_length=announced, content=SimpleNamespace(iter_any=iter_any))


async def taken(room, *given, **more):
    async with room.taken(request(*given, **more)) as body:
        return body, room.requests, room.size


def test_a_body_is_counted_as_long_as_it_is_at_work():
    room = Room()
    assert run(taken(room, b"a", b"", b"bcd", announced=4)) == (b"abcd", 1, 4)
    assert run(taken(room)) == (b"", 1, 0)
    assert (room.requests, room.size) == (0, 0)


def test_what_fails_at_work_leaves_its_room():
    room = Room(requests=2, size=5)

    async def fails():
        async with room.taken(request(b"abc")):
            assert (room.requests, room.size) == (3, 8)
            raise LookupError

    with pytest.raises(LookupError):
        run(fails())

    def fails_too():
        with room.held(7):
            assert (room.requests, room.size) == (3, 12)
            raise LookupError

    with pytest.raises(LookupError):
        fails_too()
    assert (room.requests, room.size) == (2, 5)


@pytest.mark.parametrize("announced", [None, protocol.MOST_BYTES])
def test_the_longest_body_is_taken(announced):
    body, *_ = run(taken(Room(), b"x" * 2**19, b"x" * 2**19, announced=announced))
    assert len(body) == protocol.MOST_BYTES


@pytest.mark.parametrize(
    ("parts", "announced"),
    [([b"x" * 2**19, b"x" * 2**19, b"x"], None), ([], protocol.MOST_BYTES + 1)],
)
def test_a_body_that_is_too_long_is_refused_and_leaves_its_room(parts, announced):
    room = Room()
    with pytest.raises(web.HTTPRequestEntityTooLarge) as refused:
        run(taken(room, *parts, announced=announced))
    assert refused.value.text == "the body is longer than 1048576 bytes"
    assert (room.requests, room.size) == (0, 0)


@pytest.mark.parametrize(
    "room",
    [Room(3, admission.MOST_BYTES_AT_ONCE - 2), Room(500, 7)],
    ids=["too many bytes", "too many requests"],
)
@pytest.mark.parametrize("parts", [[b"ab", b"c"], [b"a", b"b", b"c"]])
def test_where_there_is_no_room_a_request_is_told_to_ask_again(room, parts):
    requests, size = room.requests, room.size
    with pytest.raises(web.HTTPTooManyRequests) as refused:
        run(taken(room, *parts))
    came = 2 if requests == 3 else 0
    assert refused.value.text == (
        f"{requests} requests with {size + came} bytes are at work: ask again"
    )
    assert refused.value.headers["Retry-After"] == "1"
    assert (room.requests, room.size) == (requests, size)


def test_a_request_without_a_body_needs_room_too():
    assert run(taken(Room(499, 0)))[1] == 500
    with pytest.raises(web.HTTPTooManyRequests):
        run(taken(Room(500, 0)))


def test_room_is_there_up_to_the_last_request_and_the_last_byte():
    assert (admission.MOST_REQUESTS_AT_ONCE, admission.MOST_BYTES_AT_ONCE) == (500, 32 * 2**20)
    for requests, size, more, has in (
        (499, 0, 1, True),
        (500, 0, 1, False),
        (0, 2**25 - 9, 9, True),
        (0, 2**25 - 9, 10, False),
        (500, 2**25 - 9, 10, False),
        (0, 0, 2**25, True),
        (0, 9, 2**25, False),
    ):
        assert Room(requests, size).has(more) is has


def test_a_body_is_waited_for_ten_seconds():
    async def in_time():
        await taken(Room(), b"a", b"b", pause=4.9)
        return now()

    async def too_late():
        with pytest.raises(TimeoutError):
            await taken(Room(), b"a", b"b", pause=5.1)
        return now()

    assert run(in_time()) == 9.8
    assert run(too_late()) == 10.0


def test_what_is_at_work_may_take_longer_than_a_body():
    async def works():
        async with Room().taken(request(b"a")):
            await asyncio.sleep(100)
        return now()

    assert run(works()) == 100.0


class Connection:
    """A connection that notes when it is ended."""

    def __init__(self, transport=True):
        """With a transport, or with none any more."""
        self.ended = []
        self.transport = SimpleNamespace(abort=self.note) if transport else None

    def note(self):
        """Note the time."""
        self.ended.append(now())

    force_close = note


def test_a_silent_connection_is_ended_after_75_seconds_and_one_at_work_is_not(monkeypatch):
    silent, gone, working, new = Connection(), Connection(False), Connection(), Connection()
    server = SimpleNamespace(connections=[silent, gone, working])
    patience = Patience()
    monkeypatch.setattr(time, "monotonic", lambda: asyncio.get_running_loop().time())

    async def steps():
        looking = asyncio.create_task(patience.look_after(server))
        with patience.at_work(SimpleNamespace(protocol=working)):
            assert patience.busy == {working}
            await asyncio.sleep(82)
            server.connections.append(new)
            assert (silent.ended, gone.ended) == ([], [])
            await asyncio.sleep(5)
            server.connections.remove(silent)
            server.connections.remove(gone)
            await asyncio.sleep(35)
        assert patience.busy == set()
        await asyncio.sleep(70)
        assert (
            new.ended == [165, 165] + [170, 170] + [175, 175] + [180, 180] + [185, 185] + [190] * 2
        )
        looking.cancel()
        await turns()
        assert looking.cancelled()
        await asyncio.sleep(100)

    run(steps())
    assert silent.ended == [85, 85]  # it is told, and cut off
    assert gone.ended == [85]
    assert working.ended == []


def test_a_connection_may_be_silent_for_75_seconds_and_no_longer(monkeypatch):
    silent, patience = Connection(), Patience()
    monkeypatch.setattr(admission, "LOOK_SECONDS", 1.0)
    monkeypatch.setattr(time, "monotonic", lambda: asyncio.get_running_loop().time())

    async def steps():
        looking = asyncio.create_task(patience.look_after(SimpleNamespace(connections=[silent])))
        await asyncio.sleep(76.5)
        assert silent.ended == []
        await asyncio.sleep(1)
        looking.cancel()

    run(steps())
    assert silent.ended == [77, 77]


def test_an_error_at_work_ends_the_work():
    patience = Patience()
    with pytest.raises(LookupError), patience.at_work(SimpleNamespace(protocol="one")):
        raise LookupError
    assert patience.busy == set()


@pytest.mark.parametrize("value", [None, "x", "x" * 200, "a b~!"])
def test_a_header_is_read_as_it_is(value):
    headers = {} if value is None else {"X-Request-Id": value}
    assert admission.text(SimpleNamespace(headers=headers), "X-Request-Id") == value


@pytest.mark.parametrize("value", ["", "x" * 201, "\xe9", "a\tb", "a\n"])
def test_a_header_that_would_spoil_a_log_is_refused(value):
    with pytest.raises(web.HTTPBadRequest) as refused:
        admission.text(SimpleNamespace(headers={"X-Request-Id": value}), "X-Request-Id")
    assert refused.value.text == "X-Request-Id must be 1 to 200 characters that ASCII can print"


@pytest.mark.parametrize(
    ("query", "offset"), [({}, 0), ({"after": "17"}, 17), ({"after": "9" * 18}, 10**18 - 1)]
)
def test_an_offset_is_a_number_of_bytes(query, offset):
    assert admission.offset(SimpleNamespace(query=query)) == offset


@pytest.mark.parametrize("after", ["", "-1", "1.5", "9" * 19, "\u0663", "x"])
def test_an_offset_that_is_no_number_of_bytes_is_refused(after):
    with pytest.raises(web.HTTPBadRequest) as refused:
        admission.offset(SimpleNamespace(query={"after": after}))
    assert refused.value.text == "'after' must be a number of bytes, as X-Next-Offset says"


def test_the_folders_of_models_are_those_of_the_setting_or_else_those_given(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    given = [Path("link"), Path("b")]
    monkeypatch.delenv("GATEWAY_SOURCES", raising=False)
    assert admission.sources(given) == (tmp_path / "real", tmp_path / "b")
    assert admission.sources([]) == ()
    monkeypatch.setenv("GATEWAY_SOURCES", os.pathsep.join(["", "link", str(tmp_path / "c")]))
    assert admission.sources(given) == (tmp_path / "real", tmp_path / "c")


@pytest.mark.parametrize(
    ("source", "good"),
    [
        ("models:/churn/3", True),
        ("models:/with spaces and-dots.v2/12", True),
        ("models:/churn/latest", False),
        ("models:/churn@champion", False),
        ("models:/../etc/1", False),
        ("models:/" + "c" * 200 + "/" + "1" * 18, True),
        ("models:/" + "c" * 201 + "/1", False),
        ("models:/churn/" + "1" * 19, False),
        ("a models:/churn/3", False),
        ("runs:/abc/model", False),
        ("http://evil.example/model", False),
        ("here/model", True),
        ("file://HERE/model", True),
        ("HERE", True),
        ("HERE/../elsewhere", False),
        ("HERE/link", False),
        ("", False),
        ("HERE/a%20b", True),
        ("file://HERE%2F..%2Felsewhere", False),
        ("HERE-not", False),
        ("THERE/model", True),
        ("loop/model", False),
        ("HERE\0", False),
        ("/\ud800", False),
        ("HERE/\udcff", False),
    ],
)
def test_models_come_from_the_registry_or_from_named_folders(tmp_path, monkeypatch, source, good):
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    there = tmp_path / "there"
    monkeypatch.chdir(tmp_path)
    named = source.replace("THERE", str(there)).replace("HERE", str(folder))
    assert admission.allowed(named, (folder, there)) is good
