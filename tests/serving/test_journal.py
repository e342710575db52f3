"""The gateway's log: nobody waits for it, no line is cut, and it keeps within its bounds."""

import errno
import os
import threading
import time
from collections import Counter

import pytest

from include.serving import journal
from include.serving.journal import Journal

WITHIN = 30.0


@pytest.fixture
def dropped():
    return Counter()


@pytest.fixture
def log(tmp_path, dropped):
    opened = Journal(tmp_path, lambda route: dropped.update([route]))
    yield opened
    opened.close()


def lines(log, route="churn"):
    found, after = [], 0
    while True:
        content, after = log.read(route, after)
        if not content:
            return found
        found += content.splitlines()


def test_what_was_noted_is_read_in_its_order_and_by_its_route(log):
    for number in range(100):
        log.note("churn", b"%d\n" % number)
        log.note("churn.other", b"other\n")
    log.flush(WITHIN)
    assert lines(log) == [b"%d" % number for number in range(100)]
    assert lines(log, "churn.other") == [b"other"] * 100
    assert log.read("nobody", 0) == (b"", 0)


def test_offsets_lead_on_and_stay_right_when_old_segments_go(log, monkeypatch, tmp_path):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 100)
    monkeypatch.setattr(journal, "MOST_SEGMENTS", 3)
    _, begin = log.read("churn", 0)
    for number in range(200):
        log.note("churn", b"%09d\n" % number)
    log.flush(WITHIN)
    assert len(list(tmp_path.glob("*.jsonl"))) == 3
    content, after = log.read("churn", 1950)
    assert (content, after) == (b"%09d\n" * 5 % tuple(range(195, 200)), 2000)
    assert log.read("churn", after) == (b"", 2000)
    oldest, _ = log.read("churn", begin)
    assert oldest.startswith(b"%09d\n" % 170)


def test_after_a_kill_half_a_line_is_taken_off_and_the_log_goes_on(tmp_path, dropped):
    first = Journal(tmp_path, dropped.update)
    first.note("churn", b"whole\n")
    first.close()
    (file,) = tmp_path.glob("*.jsonl")
    with file.open("ab") as half:
        half.write(b"half")
    second = Journal(tmp_path, dropped.update)
    second.note("churn", b"next\n")
    second.flush(WITHIN)
    assert lines(second) == [b"whole", b"next"]
    second.close()


def test_half_a_line_at_the_end_is_not_read(log, tmp_path):
    log.note("churn", b"whole\n")
    log.flush(WITHIN)
    (file,) = tmp_path.glob("*.jsonl")
    with file.open("ab") as half:
        half.write(b"half")
    assert log.read("churn", 0) == (b"whole\n", 6)
    assert log.read("churn", 6) == (b"", 6)


def test_on_a_full_disk_lines_are_dropped_whole_and_counted(log, dropped, monkeypatch):
    write, room = os.write, [20]

    def little(number, content):
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "no space left")
        done = write(number, content[: min(room[0], 4)])
        room[0] -= done
        return done

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", little)
        for number in range(5):
            log.note("churn", b"line %d\n" % number)
        log.flush(WITHIN)
    log.note("churn", b"room again\n")
    log.flush(WITHIN)
    assert lines(log) == [b"line 0", b"line 1", b"room again"]
    assert dropped == {"churn": 3}


def test_long_lines_are_bounded_by_their_bytes(log, dropped, monkeypatch):
    monkeypatch.setattr(journal, "MOST_WAITING_BYTES", 1000)
    write, go_on = os.write, threading.Event()

    def slow(number, content):
        go_on.wait(WITHIN)
        return write(number, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", slow)
        for _ in range(5):
            log.note("churn", b"x" * 399 + b"\n")
        go_on.set()
        log.flush(WITHIN)
    assert (len(lines(log)), dropped["churn"]) == (2, 3)
    log.note("churn", b"x" * 999 + b"\n")
    log.flush(WITHIN)
    assert len(lines(log)) == 3


def test_a_slow_disk_makes_nobody_wait_and_the_rest_is_counted(log, dropped, monkeypatch):
    monkeypatch.setattr(log._waiting, "maxsize", 10)
    write, go_on, stuck = os.write, threading.Event(), threading.Event()

    def slow(number, content):
        stuck.set()
        go_on.wait(WITHIN)
        return write(number, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", slow)
        log.note("churn", b"first\n")
        assert stuck.wait(WITHIN)
        began = time.monotonic()
        for _ in range(100):
            log.note("churn", b"next\n")
        assert time.monotonic() - began < 5
        go_on.set()
        log.flush(WITHIN)
    assert lines(log) == [b"first", *[b"next"] * 10]
    assert dropped == {"churn": 90}
