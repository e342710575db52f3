"""What a fleet says of its versions: a hung one is out, and back once it answers again."""

import asyncio
import json
import logging
import os
import signal
import sys
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import ClientTimeout, web

from include.serving import fleet
from include.serving.fleet import DidNotStart, Fleet, NoAnswer, NotNow, TooSlow, Version
from tests.clock import Skipping, now, turns
from tests.waiting import until

MADE_OF = {"source": "x", "error_every": 0, "delay_seconds": 0.0}
WITHIN = 30.0
# Stands in for a scorer: answers on the socket that it is given, with the status in a file.
SCORER = """#!{python} -IS
import json, os, socket, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(int(open("{status}").read()) if self.path == "/ping" else 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        known = self.headers["Authorization"] == "Bearer " + os.environ["SCORER_TOKEN"]
        self.answer(200 if known else 401, json.dumps(dict(
            arguments=sys.argv[1:], path=self.path, body=body, id=self.headers["X-Request-Id"],
            setting=os.environ.get("A_SETTING"), input=sys.stdin.read(),
        )).encode())

    def answer(self, status, content=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass

print("on its output", flush=True)
print("on its errors", file=sys.stderr, flush=True)
server = HTTPServer(("127.0.0.1", 0), Answers, bind_and_activate=False)
server.socket = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
server.serve_forever()
"""
NEVER_ANSWERS = "#!{python} -IS\nimport signal; signal.pause()\n"
ENDS = "#!{python} -IS\nraise SystemExit('the model is damaged')\n"


@pytest.fixture
def status(tmp_path):
    """The file with the status that each ping gets."""
    file = tmp_path / "status"
    file.write_text("200")
    return file


@pytest.fixture
def scorers_are(tmp_path, status, monkeypatch):
    """Has this program run in place of each scorer; checks follow each other quickly."""

    def scorers_are(program):
        file = tmp_path / "scorer"
        file.write_text(program.format(python=sys.executable, status=status))
        file.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(file))

    monkeypatch.setattr(fleet, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(fleet, "PING_SECONDS", 0.2)
    return scorers_are


def in_a_fleet(folder, steps, new_loop=None):
    """Run these steps with a fleet, and stop whatever they started."""

    async def live():
        started = Fleet(folder)
        try:
            await steps(started)
        finally:
            await started.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(live(), 2 * WITHIN if new_loop is None else 1000))


class Process:
    """A process that ends when it is told to, by a test or by a signal."""

    pid = 4711

    def __init__(self, ends_by=("TERM", "KILL")):
        """Live on, until one of these signals comes."""
        self.returncode, self.signals, self.ends_by = None, [], ends_by
        self.ended = asyncio.Event()

    def end(self, status):
        """End by itself."""
        self.returncode = status
        self.ended.set()

    async def wait(self):
        """Wait for its end."""
        await self.ended.wait()
        return self.returncode

    def terminate(self):
        """Get the signal that asks."""
        self.take("TERM", -15)

    def kill(self):
        """Get the signal that insists."""
        self.take("KILL", -9)

    def take(self, sign, status):
        """Note a signal, and end if it is one that ends it."""
        self.signals.append((now(), sign))
        if sign in self.ends_by:
            self.end(status)


@pytest.fixture
def played(monkeypatch):
    """Scorers without processes, whose pings are answered as the test says; time is skipped."""
    play = SimpleNamespace(spawned=[], asked=[], answer=lambda process: True, process=Process)

    async def spawn(self, version):
        process = play.process()
        play.spawned.append((now(), process))
        version.process, version.address = process, "http://scorer"
        return process

    async def answers(self, version, seconds):
        play.asked.append((now(), seconds))
        return play.answer(version.process)

    monkeypatch.setattr(Fleet, "_spawn", spawn)
    monkeypatch.setattr(Fleet, "_answers", answers)
    return play


def test_a_version_has_a_minute_to_answer_and_is_then_asked_each_second(played, tmp_path):
    async def steps(started):
        ready = started.put("churn", "1", MADE_OF)
        assert started.healthy("churn") == set()
        assert await ready is None
        assert started.healthy("churn") == {"1"}
        await asyncio.sleep(3.5)
        assert started.healthy("churn") == {"1"}

    in_a_fleet(tmp_path, steps, Skipping)
    assert played.asked == [(0.0, 60.0), (1.0, 5.0), (2.0, 5.0), (3.0, 5.0)]
    ((_, process),) = played.spawned
    assert process.signals == [(3.5, "TERM")]


def test_a_version_that_ended_is_out_at_once_and_started_again_after_a_tenth_of_a_second(
    played, tmp_path
):
    async def steps(started):
        await started.put("churn", "1", MADE_OF)
        await asyncio.sleep(1.25)
        played.spawned[0][1].end(1)
        await asyncio.sleep(0.05)
        assert started.healthy("churn") == set()
        await asyncio.sleep(0.1)
        assert started.healthy("churn") == {"1"}
        played.spawned[1][1].end(0)
        await asyncio.sleep(0.15)

    in_a_fleet(tmp_path, steps, Skipping)
    assert [at for at, _ in played.spawned] == [0.0, 1.35, 1.5]


def test_a_version_that_answered_before_is_tried_again_and_again_at_most_five_seconds_apart(
    played, tmp_path
):
    def answer(process):
        good = len(played.spawned) == 10
        if not good:
            process.end(1)
        return good

    played.answer = answer

    async def steps(started):
        started.restore("churn", "1", MADE_OF)
        await asyncio.sleep(21.2)
        assert (list(started.versions), started.healthy("churn")) == ([("churn", "1")], set())
        await asyncio.sleep(10)
        assert started.healthy("churn") == {"1"}
        played.spawned[-1][1].end(-9)
        await asyncio.sleep(0.8)

    in_a_fleet(tmp_path, steps, Skipping)
    tries = [at for at, _ in played.spawned]
    assert tries[:10] == [0.0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3, 16.3, 21.3]
    assert tries[10:] == [31.3, 31.5, 31.9]  # it has answered, so this begins anew


def test_a_process_that_does_not_answer_is_ended_before_the_next_one_starts(played, tmp_path):
    played.answer = lambda process: False

    async def steps(started):
        started.restore("churn", "1", MADE_OF)
        await asyncio.sleep(0.15)

    in_a_fleet(tmp_path, steps, Skipping)
    assert [process.signals for _, process in played.spawned] == [[(0.0, "TERM")], [(0.1, "TERM")]]


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (-9, NotNow, "its process was ended by signal 9"),
        (-1, NotNow, "its process was ended by signal 1"),
        (0, DidNotStart, "the last thing that it said"),
        (1, DidNotStart, "the last thing that it said"),
        (None, DidNotStart, "the last thing that it said"),
    ],
)
def test_a_new_version_that_does_not_answer_is_given_up_with_the_reason(
    played, tmp_path, status, kind, says
):
    def answer(process):
        if status is not None:
            process.end(status)
        return False

    played.answer = answer
    (tmp_path / "churn@1.log").write_text("the last thing that it said")

    async def steps(started):
        with pytest.raises(kind, match=f"^{says}$"):
            await started.put("churn", "1", MADE_OF)
        assert started.versions == {}
        await asyncio.sleep(10)

    in_a_fleet(tmp_path, steps, Skipping)
    ((_, process),) = played.spawned
    assert process.signals == ([] if status is not None else [(0.0, "TERM")])


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (OSError("no file descriptor"), NotNow),
        (ValueError("an embedded null byte"), DidNotStart),
    ],
)
def test_a_process_that_can_not_be_started_is_told_and_logged(
    tmp_path, monkeypatch, caplog, fault, kind
):
    async def spawn(self, version):
        raise fault

    monkeypatch.setattr(Fleet, "_spawn", spawn)

    async def steps(started):
        with pytest.raises(kind, match=f"^{type(fault).__name__}: {fault}$"):
            await started.put("churn", "1", MADE_OF)

    with caplog.at_level(logging.ERROR):
        in_a_fleet(tmp_path, steps, Skipping)
    (record,) = caplog.records
    assert record.getMessage() == "version 1 of churn"
    assert record.exc_info[1] is fault


def test_a_version_is_out_once_looking_after_it_fails(played, tmp_path, monkeypatch):
    async def fails(self, version, process):
        await asyncio.sleep(1)
        raise OSError("no memory")

    monkeypatch.setattr(Fleet, "_look_after", fails)

    async def steps(started):
        await started.put("churn", "1", MADE_OF)
        await asyncio.sleep(1.05)
        assert started.healthy("churn") == set()
        await asyncio.sleep(0.1)
        assert started.healthy("churn") == {"1"}

    in_a_fleet(tmp_path, steps, Skipping)
    assert [at for at, _ in played.spawned] == [0.0, 1.1]


def test_what_a_process_does_not_end_by_is_followed_by_what_ends_it(tmp_path):
    async def steps(_):
        ended, polite, stubborn, gone = Process(), Process(), Process(["KILL"]), Process()
        ended.end(0)
        gone.terminate = gone.kill = lambda: gone.signals.append("gone") or os.kill(2**22 + 1, 0)
        for process in (ended, polite, stubborn, gone):
            began = now()
            await fleet._end(process)
            process.signals.append(now() - began)
        assert ended.signals == [0]
        assert polite.signals == [(0, "TERM"), 0]
        assert stubborn.signals == [(0, "TERM"), (5, "KILL"), 5]
        assert gone.signals == ["gone", "gone", 10]

    in_a_fleet(tmp_path, steps, Skipping)


@pytest.fixture
def slow():
    """Answers in place of a scorer, once it may; it knows what it is asked meanwhile."""
    seen = SimpleNamespace(asked=[], go_on=asyncio.Event())

    async def answer(request):
        seen.asked.append(request.path)
        await seen.go_on.wait()
        return web.Response(body=b"late")

    seen.answer = answer
    return seen


async def served(answer):
    """A server of this loop, and its address."""
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, "http://127.0.0.1:{1}".format(*runner.addresses[0])


async def soon(look):
    """Wait until this is so; other tasks go on meanwhile."""
    async with asyncio.timeout(WITHIN):
        while not look():
            await asyncio.sleep(0.001)


def test_a_version_that_is_taken_away_answers_first_what_it_was_asked(played, tmp_path, slow):
    async def steps(started):
        runner, address = await served(slow.answer)
        await started.put("churn", "1", MADE_OF)
        version = started.versions["churn", "1"]
        version.address = address
        asked = [asyncio.create_task(started.ask("churn", "1", b"", {})) for _ in range(2)]
        await turns()
        assert version.in_flight == 2
        await soon(lambda: len(slow.asked) == 2)
        removing = asyncio.create_task(started.remove("churn", "1", WITHIN))
        await turns()
        assert (started.versions, removing.done(), version.in_flight) == ({}, False, 2)
        assert version.process.returncode is None
        asked[0].cancel()
        await soon(lambda: version.in_flight < 2)
        await turns()
        assert (removing.done(), version.in_flight) == (False, 1)
        assert not version.idle.is_set()
        slow.go_on.set()
        assert await asked[1] == (200, b"late")
        assert (version.in_flight, version.idle.is_set()) == (0, True)
        await removing
        assert version.keeper.done()
        assert (version.process.returncode, version.healthy) == (-15, False)
        await runner.cleanup()

    in_a_fleet(tmp_path, steps)
    assert slow.asked == ["/invocations"] * 2


def test_a_version_is_waited_for_no_longer_than_it_is_granted(played, tmp_path):
    async def steps(started):
        for number in "123":
            await started.put("churn", number, MADE_OF)
            started.versions["churn", number].idle.clear()
        await started.remove("churn", "1", 7.0)
        assert now() == 7.0
        await started.close()
        assert (now(), started.versions, started.session.closed) == (7.0, {}, True)

    in_a_fleet(tmp_path, steps, Skipping)
    assert [process.signals for _, process in played.spawned] == [[(7.0, "TERM")] for _ in range(3)]


def test_an_unused_version_is_taken_away_at_once(played, tmp_path):
    async def steps(started):
        await started.put("churn", "1", MADE_OF)
        await started.remove("churn", "1", 30.0)
        assert now() == 0.0

    in_a_fleet(tmp_path, steps, Skipping)
    ((_, process),) = played.spawned
    assert process.signals == [(0.0, "TERM")]


def test_a_version_that_never_had_a_process_can_be_taken_away(tmp_path, monkeypatch):
    async def spawn(self, version):
        raise OSError("no memory")

    monkeypatch.setattr(Fleet, "_spawn", spawn)

    async def steps(started):
        started.restore("churn", "1", MADE_OF)
        await asyncio.sleep(1)
        await started.remove("churn", "1", 0.0)
        assert started.versions == {}

    in_a_fleet(tmp_path, steps, Skipping)


@pytest.mark.parametrize("fault", [aiohttp.ClientPayloadError(), OSError("no route to it")])
def test_a_version_that_can_not_be_reached_is_named_with_the_kind_of_fault(
    played, tmp_path, monkeypatch, fault
):
    def post(*given, **more):
        raise fault

    async def steps(started):
        await started.put("churn", "1", MADE_OF)
        monkeypatch.setattr(started.session, "post", post)
        with pytest.raises(NoAnswer, match=f"^version 1 of churn: {type(fault).__name__}$"):
            await started.ask("churn", "1", b"{}", {})
        assert started.versions["churn", "1"].in_flight == 0

    in_a_fleet(tmp_path, steps, Skipping)


def test_an_answer_is_waited_for_ten_seconds(played, tmp_path, slow):
    async def steps(started):
        runner, address = await served(slow.answer)
        await started.put("churn", "1", MADE_OF)
        started.versions["churn", "1"].address = address
        began = now()
        with pytest.raises(TooSlow, match=r"^version 1 of churn did not answer in time$"):
            await started.ask("churn", "1", b"{}", {})
        assert 10 <= now() - began < 11
        began = now()
        assert await started._ping(address, 3.0) is False
        assert 3 <= now() - began < 4
        await runner.cleanup()

    in_a_fleet(tmp_path, steps, Skipping)


@pytest.mark.parametrize("fault", [aiohttp.ClientPayloadError(), OSError(), TimeoutError()])
def test_a_ping_that_fails_is_no_answer(tmp_path, monkeypatch, fault):
    def get(*given, **more):
        raise fault

    async def steps(started):
        monkeypatch.setattr(started.session, "get", get)
        assert await started._ping("http://scorer", 1.0) is False

    in_a_fleet(tmp_path, steps)


def test_any_number_of_requests_is_on_its_way_at_once(tmp_path):
    async def steps(started):
        assert started.session.connector.limit == 0

    in_a_fleet(tmp_path, steps)


def test_a_ping_is_answered_only_by_a_process_that_lives(tmp_path, monkeypatch):
    pinged = []

    async def ping(self, address, seconds):
        pinged.append((address, seconds))
        await asyncio.sleep(2)
        return "an answer"

    monkeypatch.setattr(Fleet, "_ping", ping)

    async def steps(started):
        version = Version("churn", "1", MADE_OF, tmp_path, Process(), "http://scorer")
        before = asyncio.all_tasks()
        assert await started._answers(version, 9.0) == "an answer"
        assert (now(), pinged) == (2.0, [("http://scorer", 9.0)])
        await turns()
        assert asyncio.all_tasks() == before
        asyncio.get_running_loop().call_later(1, version.process.end, 1)
        assert await started._answers(version, 9.0) is False
        assert now() == 3.0
        await turns()
        assert asyncio.all_tasks() == before

    in_a_fleet(tmp_path, steps, Skipping)


def test_the_last_five_lines_of_a_log_are_the_last_words(tmp_path):
    version = Version("churn", "1", MADE_OF, tmp_path)
    assert version.last_words() == "its log can't be read: No such file or directory"
    version.log.write_bytes(b"")
    assert version.last_words() == "it said nothing"
    version.log.write_bytes(b"1\n2\n3\n4\n5 \xc3\xa9 \xff\n6\n")
    assert version.last_words() == "2\n3\n4\n5 \xe9 \ufffd\n6"
    assert version.log == tmp_path / "churn@1.log"


def test_a_new_version_is_idle_and_not_well_and_shows_a_token_of_its_own(tmp_path):
    one, other = (Version("churn", number, MADE_OF, tmp_path) for number in "12")
    assert (one.process, one.address, one.healthy, one.in_flight) == (None, "", False, 0)
    assert one.keeper is None
    assert one.shown == {"Authorization": f"Bearer {one.token}"}
    assert one.token != other.token


@pytest.mark.parametrize(
    ("answered", "healthy"), [("YNYNNNY", "YYYYYNNY"), ("NNY", "YYNY"), ("NYN", "YYYY")]
)
def test_one_missed_check_is_forgiven_and_the_second_in_a_row_is_not(
    tmp_path, monkeypatch, answered, healthy
):
    checks = iter([check == "Y" for check in answered])
    seen = []
    version = fleet.Version("churn", "1", MADE_OF, tmp_path, healthy=True)
    process = SimpleNamespace(returncode=None, wait=lambda: asyncio.sleep(WITHIN))

    async def answers(self, asked, seconds):
        seen.append(version.healthy)
        answer = next(checks, None)
        if answer is None:
            process.returncode = 0
        return answer

    async def steps(started):
        await started._look_after(version, process)

    monkeypatch.setattr(fleet, "CHECK_SECONDS", 0.001)
    monkeypatch.setattr(Fleet, "_answers", answers)
    in_a_fleet(tmp_path, steps)
    assert "".join("Y" if good else "N" for good in seen) == healthy


async def healthy(started, expected):
    """Wait until the fleet takes just these versions for healthy."""
    await asyncio.to_thread(
        until, lambda: started.healthy("churn"), "healthy versions", expected.__eq__, WITHIN
    )


def test_a_version_that_hangs_is_out_until_it_answers_again(tmp_path, scorers_are, monkeypatch):
    scorers_are(SCORER)

    async def steps(started):
        await started.put("churn", "1", MADE_OF)
        assert started.healthy("churn") == {"1"}
        process = started.versions["churn", "1"].process
        os.kill(process.pid, signal.SIGSTOP)  # the system still accepts its connections
        await healthy(started, set())
        with monkeypatch.context() as patch:
            patch.setattr(fleet, "ANSWER", ClientTimeout(total=0.1))
            with pytest.raises(TooSlow, match="version 1 of churn did not answer in time"):
                await started.ask("churn", "1", b"{}", {})
        os.kill(process.pid, signal.SIGCONT)
        await healthy(started, {"1"})
        assert started.versions["churn", "1"].process is process
        assert (await started.ask("churn", "1", b"{}", {}))[0] == 200

    in_a_fleet(tmp_path, steps)


def test_a_version_whose_ping_fails_is_out_until_it_is_well(tmp_path, scorers_are, status):
    scorers_are(SCORER)

    async def steps(started):
        await started.put("churn", "1", MADE_OF)
        status.write_text("500")
        await healthy(started, set())
        status.write_text("200")
        await healthy(started, {"1"})

    in_a_fleet(tmp_path, steps)


def test_a_version_that_is_killed_is_started_again(tmp_path, scorers_are):
    scorers_are(SCORER)

    async def steps(started):
        await started.put("churn", "1", MADE_OF)
        version = started.versions["churn", "1"]
        killed = version.process
        killed.kill()
        await killed.wait()
        with pytest.raises(NoAnswer, match="version 1 of churn: Client"):
            await started.ask("churn", "1", b"{}", {})
        await asyncio.to_thread(
            until, lambda: version.process is not killed, "another process", seconds=WITHIN
        )
        await healthy(started, {"1"})

    in_a_fleet(tmp_path, steps)


@pytest.mark.parametrize(
    ("source", "told"), [("models:/churn/1", True), ("file:///kept/models:/", False)]
)
def test_a_scorer_is_told_nothing_that_it_has_no_use_for(tmp_path, monkeypatch, source, told):
    logins = {f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN")}
    never = {"GATEWAY_TOKEN", "MLFLOW_PASSWORD", "AIRFLOW__API__SECRET_KEY", "AIRFLOW_CONN_BANK"}
    never |= {"AIRFLOW_VAR_KEY"}
    for name in {"A_SETTING", "NOT_AIRFLOW__", *logins, *never}:
        monkeypatch.setenv(name, name)
    version = Version("churn", "1", {"source": source}, tmp_path)
    found = fleet._environment(version)
    assert found["SCORER_TOKEN"] == version.token
    assert (found["A_SETTING"], found["NOT_AIRFLOW__"]) == ("A_SETTING", "NOT_AIRFLOW__")
    assert found.keys() & (never | logins) == (logins if told else set())


def test_a_version_that_never_answers_does_not_start(tmp_path, scorers_are, monkeypatch):
    scorers_are(NEVER_ANSWERS)
    monkeypatch.setattr(fleet, "START_SECONDS", 0.2)

    async def steps(started):
        with pytest.raises(DidNotStart, match="it said nothing"):
            await started.put("churn", "1", MADE_OF)
        assert started.versions == {}

    in_a_fleet(tmp_path, steps)


def test_a_version_that_ends_before_it_answers_says_why(tmp_path, scorers_are, monkeypatch):
    scorers_are(ENDS)
    monkeypatch.setattr(Fleet, "_ping", lambda self, address, seconds: asyncio.sleep(seconds, True))

    async def steps(started):
        with pytest.raises(DidNotStart, match=r"^the model is damaged$"):
            await started.put("churn", "1", MADE_OF)
        assert started.versions == {}

    in_a_fleet(tmp_path, steps)


@pytest.fixture
def typed():
    """Something stands on the gateway's standard input."""
    before = os.dup(0)
    reader, writer = os.pipe()
    os.write(writer, b"typed")
    os.dup2(reader, 0)
    for number in (reader, writer):
        os.close(number)
    yield
    os.dup2(before, 0)
    os.close(before)


@pytest.mark.usefixtures("typed")
def test_a_scorer_is_told_what_its_version_is_made_of_and_gets_requests_as_they_are(
    tmp_path, scorers_are, monkeypatch
):
    scorers_are(SCORER)
    monkeypatch.setenv("A_SETTING", "of the gateway")
    told = []

    async def steps(started):
        made_of = {"source": "models:/churn/1", "error_every": 7, "delay_seconds": 0.5}
        await started.put("churn", "1", made_of)
        made_of["source"] = "changed later"
        version = started.versions["churn", "1"]
        assert version.made_of["source"] == "models:/churn/1"
        assert version.address.startswith("http://127.0.0.1:")
        status, answer = await started.ask("churn", "1", b"a row", {"X-Request-Id": "mine"})
        told.append(json.loads(answer))
        assert status == 200
        assert await started._ping(version.address, 9) is True
        assert version.log.read_text().splitlines() == ["on its output", "on its errors"]

    in_a_fleet(tmp_path / "not" / "there", steps)
    (scorer,) = told
    arguments = scorer["arguments"]
    fd = arguments[arguments.index("--fd") + 1]
    assert arguments == [
        *("-m", "include.serving.scorer", "--model", "models:/churn/1", "--name", "churn"),
        *("--version", "1", "--error-every", "7", "--delay-seconds", "0.5"),
        *("--fd", fd, "--parent", str(os.getpid())),
    ]
    assert (scorer["path"], scorer["body"], scorer["id"]) == ("/invocations", "a row", "mine")
    assert (scorer["setting"], scorer["input"]) == ("of the gateway", "")


def test_each_model_has_its_own_healthy_versions(tmp_path, scorers_are):
    scorers_are(SCORER)

    async def steps(started):
        await started.put("churn", "1", MADE_OF)
        await started.put("fraud", "2", MADE_OF)
        await asyncio.to_thread(
            until,
            lambda: (started.healthy("churn"), started.healthy("fraud")),
            "a healthy version of each model",
            ({"1"}, {"2"}).__eq__,
            WITHIN,
        )

    in_a_fleet(tmp_path, steps)
