"""What all platforms of the local cloud stand on: trouble on demand, memory, work, certificates."""

import json
import ssl
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil
import pytest

from include import processes
from include.local_cloud import platforms, server
from include.local_cloud.certificates import certificates
from include.local_cloud.jobs import Jobs, last_words
from include.local_cloud.server import Fault, Faults
from include.local_cloud.state import Table
from tests.waiting import until

TINY = """
from include.local_cloud import server
from include.local_cloud.state import Table

class Tiny:
    def __init__(self, folder, faults):
        self.visits = Table(folder / "visits")
        self.visits.put(str(len(list(self.visits))), {})
        self.closed = folder / "closed"
    def redirect(self):
        return server.Redirect({"tiny_default": {"conn_type": "http"}}, {"TINY": "here"})
    def resources(self):
        return {"visits": list(self.visits)}
    def close(self):
        self.closed.touch()

server.main(Tiny)
"""


def test_a_fault_happens_as_often_as_asked_and_only_to_what_it_names():
    faults = Faults()
    faults.add(Fault("throttled", "Create*", times=2))
    assert faults.meet("DescribeJob") is None
    assert [bool(faults.meet("CreateJob")) for _ in range(3)] == [True, True, False]


def test_a_job_that_will_fail_is_accepted_first():
    faults = Faults()
    faults.add(Fault("job_fails", "Train", reason="out of luck"))
    assert faults.meet("Train") is None
    failed = faults.of_job("Train")
    assert failed
    assert failed.reason == "out of luck"


def test_a_slow_answer_is_waited_for_but_keeps_no_platform_from_ending():
    faults = Faults()
    faults.add(Fault("slow", seconds=60))
    waiting = threading.Thread(target=faults.meet, args=("Any",))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    faults.end()
    waiting.join(10)
    assert not waiting.is_alive()


def test_an_unknown_kind_of_fault_is_refused():
    with pytest.raises(ValueError, match="'thunder' is no kind of fault; there are: throttled"):
        Fault("thunder")


def test_of_two_who_add_one_name_at_once_one_succeeds(tmp_path):
    table = Table(tmp_path / "jobs")
    won = []
    racers = [
        threading.Thread(target=lambda number=n: won.append(table.add("job", {"by": number})))
        for n in range(8)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert won.count(True) == 1


def test_a_table_remembers_any_name_and_finds_it_after_a_restart(tmp_path):
    Table(tmp_path / "t").put("projects/a/b: c", {"state": "new"})
    again = Table(tmp_path / "t")
    assert list(again) == ["projects/a/b: c"]
    assert again.change("projects/a/b: c", state="done") == {"state": "done"}
    assert again.drop("projects/a/b: c")
    assert again.get("projects/a/b: c") is None
    assert again.change("projects/a/b: c", state="late") is None


def test_a_job_leaves_its_words_and_no_process(tmp_path):
    script = (
        "import subprocess, sys; "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "print(p.pid); sys.exit('no such column: age')"
    )
    log = tmp_path / "log"
    assert Jobs().run("job", [sys.executable, "-c", script], {}, tmp_path, log) == 1
    assert "no such column: age" in last_words(log)
    child = int(next(line for line in log.read_text().splitlines() if line.isdigit()))
    _gone(child)


def test_a_job_that_runs_is_ended_with_its_platform(tmp_path):
    jobs, codes = Jobs(), []
    command = [sys.executable, "-c", "print('here', flush=True); import time; time.sleep(600)"]
    log = tmp_path / "log"
    jobs.start("job", lambda: codes.append(jobs.run("job", command, {}, tmp_path, log)))
    until(lambda: last_words(log), "the job's first words")
    jobs.close()
    assert len(codes) == 1
    assert codes[0] < 0
    assert jobs.run("late", command, {}, tmp_path, log) < 0


def test_the_certificate_is_trusted_by_who_knows_the_authority_and_by_nobody_else(tmp_path):
    made = certificates(tmp_path, ["localhost", "127.0.0.1"])

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer((server.HOST, 0), Answer) as listening:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.server, made.key)
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True).start()
        url = f"https://localhost:{listening.server_port}"
        with urlopen(url, context=ssl.create_default_context(cafile=made.authority)) as answer:
            assert answer.status == 204
        with pytest.raises(URLError, match="certificate verify failed"):
            urlopen(url, context=ssl.create_default_context())
        listening.shutdown()
    assert made.key.stat().st_mode & 0o077 == 0
    before = made.server.read_bytes()
    assert certificates(tmp_path, ["localhost", "127.0.0.1"]).server.read_bytes() == before


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A platform that does nothing, in the place of a vendor's."""
    (tmp_path / "tiny.py").write_text(TINY)
    entry = platforms.Entry("tiny", frozenset({"tiny_default"}))
    monkeypatch.setattr(platforms, "PLATFORMS", [entry])
    monkeypatch.setattr(platforms, "_module", lambda entry: entry.name)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(server.__file__).parents[2]}")
    return entry


def test_a_platform_says_what_leads_to_it_remembers_and_ends(tiny, tmp_path):
    records = tmp_path / "records"
    for visit in range(2):
        process = platforms.start(tiny, tmp_path, records, {})
        door = f"http://{server.HOST}:{process.port}"
        leads = platforms.redirects(tmp_path, [process.name])
        assert leads.connections == {"tiny_default": {"conn_type": "http"}}
        assert leads.env == {"TINY": "here"}
        token = server.token_file(tiny.folder(tmp_path)).read_text()
        shown = {"Authorization": f"Bearer {token}"}
        with urlopen(Request(f"{door}/resources", headers=shown)) as answer:
            assert len(json.load(answer)["visits"]) == visit + 1
        for wrong, told in (
            ({"kind": "thunder"}, "thunder"),
            ({"kind": "slow", "times": "two"}, "are numbers"),
            ({"kind": "slow", "operation": 5}, "are texts"),
        ):
            with pytest.raises(HTTPError) as refused:
                urlopen(Request(f"{door}/faults", json.dumps(wrong).encode(), shown))
            assert told in json.load(refused.value)["error"]
        processes.stop(records, [process])
        assert not process.family()
        assert (tiny.folder(tmp_path) / "closed").exists()


def test_local_cloud_names_the_platforms_that_stand_for_a_vendor(tiny, monkeypatch):
    assert platforms.wanted() == [tiny]
    monkeypatch.setenv("LOCAL_CLOUD", "none")
    assert platforms.wanted() == []
    monkeypatch.setenv("LOCAL_CLOUD", "tiny,huge")
    with pytest.raises(SystemExit, match="there is no huge; there are: tiny, all, none"):
        platforms.wanted()


def _gone(pid):
    with suppress(psutil.NoSuchProcess):
        for _ in range(500):
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(0.02)
        raise AssertionError(f"{pid} still lives")
