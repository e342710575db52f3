"""The gateway's log: nobody waits for it, no line is cut, and it keeps within its bounds."""

import errno
import os
import threading
import time
from collections import Counter
from contextlib import contextmanager

import psutil
import pytest

from include.serving import journal, protocol
from include.serving.journal import Journal
from tests.waiting import until

WITHIN = 30.0
HANGS = 5.0


@pytest.fixture
def dropped():
    return Counter()


@pytest.fixture
def log(tmp_path, dropped):
    opened = Journal(tmp_path, lambda route: dropped.update([route]))
    yield opened
    opened.close()


def flush(log):
    """Wait until all is written, or the thread that writes has ended."""
    flushing = threading.Thread(target=log.flush, args=(WITHIN,), daemon=True)
    flushing.start()
    until(lambda: not (flushing.is_alive() and log._thread.is_alive()), "the lines", pause=0.001)
    assert log._thread.is_alive()


@contextmanager
def hanging(monkeypatch):
    """A disk that takes nothing until it may; yields what is set once it was asked, and then."""
    write, go_on, stuck = os.write, threading.Event(), threading.Event()

    def slow(number, content):
        stuck.set()
        if not go_on.wait(HANGS):
            go_on.set()
        return write(number, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", slow)
        try:
            yield stuck, go_on
        finally:
            go_on.set()


def lines(log, route="churn"):
    found, after = [], 0
    while True:
        content, behind = log.read(route, after)
        if not content:
            return found
        assert behind >= after + len(content)
        found, after = found + content.splitlines(), behind


def test_what_was_noted_is_read_in_its_order_and_by_its_route(log):
    for number in range(100):
        log.note("churn", b"%d\n" % number)
        log.note("churn.other", b"other\n")
    flush(log)
    assert lines(log) == [b"%d" % number for number in range(100)]
    assert lines(log, "churn.other") == [b"other"] * 100
    assert log.read("nobody", 0) == (b"", 0)
    for beyond in (2000, 10**18 - 1):  # the second is more than any file can have
        assert log.read("churn", beyond) == (b"", beyond)


def test_offsets_lead_on_and_stay_right_when_old_segments_go(log, monkeypatch, tmp_path):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 100)
    monkeypatch.setattr(journal, "MOST_SEGMENTS", 3)
    _, begin = log.read("churn", 0)
    for number in range(200):
        log.note("churn", b"%09d\n" % number)
    flush(log)
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
    flush(second)
    assert lines(second) == [b"whole", b"next"]
    second.close()


def test_half_a_line_at_the_end_is_not_read(log, tmp_path):
    log.note("churn", b"whole\n")
    flush(log)
    (file,) = tmp_path.glob("*.jsonl")
    with file.open("ab") as half:
        half.write(b"half")
    assert log.read("churn", 0) == (b"whole\n", 6)
    assert log.read("churn", 6) == (b"", 6)


def test_a_page_ends_with_a_whole_line_and_the_next_one_begins_behind_it(log, monkeypatch):
    monkeypatch.setattr(journal, "MOST_READ", 25)
    for number in range(20):
        log.note("churn", b"%09d\n" % number)
    flush(log)
    after = 0
    for number in range(0, 20, 2):
        page, after = log.read("churn", after)
        assert page == b"%09d\n%09d\n" % (number, number + 1)
    assert log.read("churn", after) == (b"", 200)


def test_a_page_has_room_for_the_longest_line():
    """A request of the longest body, and as much again for its answer."""
    assert journal.MOST_READ >= 2 * protocol.MOST_BYTES


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
        flush(log)
    log.note("churn", b"room again\n")
    flush(log)
    assert lines(log) == [b"line 0", b"line 1", b"room again"]
    assert dropped == {"churn": 3}


def test_long_lines_are_bounded_by_their_bytes(log, dropped, monkeypatch):
    monkeypatch.setattr(journal, "MOST_WAITING_BYTES", 1000)
    with hanging(monkeypatch) as (_, go_on):
        for _ in range(5):
            log.note("churn", b"x" * 399 + b"\n")
        go_on.set()
        flush(log)
    assert (len(lines(log)), dropped["churn"]) == (2, 3)
    for length in (1000, 1001, 1000):
        log.note("churn", b"x" * (length - 1) + b"\n")
        flush(log)
    assert (len(lines(log)), dropped["churn"]) == (4, 4)


def test_a_slow_disk_makes_nobody_wait_and_the_rest_is_counted(log, dropped, monkeypatch):
    monkeypatch.setattr(log._waiting, "maxsize", 10)
    monkeypatch.setattr(journal, "STOP_SECONDS", 0.01)
    with hanging(monkeypatch) as (stuck, go_on):
        log.note("churn", b"first\n")
        assert stuck.wait(HANGS)
        began = time.monotonic()
        log.flush(0.01)
        for _ in range(100):
            log.note("churn", b"next\n")
        log.flush(0.01)
        log.close()
        assert time.monotonic() - began < HANGS
        go_on.set()
        flush(log)
    assert lines(log) == [b"first", *[b"next"] * 9]
    assert dropped == {"churn": 91}


def test_the_end_waits_for_what_is_written_but_not_for_a_disk_that_hangs(
    tmp_path, dropped, monkeypatch
):
    log = Journal(tmp_path, dropped.update)
    with hanging(monkeypatch) as (_, go_on):
        log.note("churn", b"the last one\n")
        with monkeypatch.context() as patch:
            patch.setattr(journal, "STOP_SECONDS", 0.01)
            log.close()
        assert log._thread.is_alive()
        assert lines(log) == []
        threading.Timer(0.05, go_on.set).start()
        log.close()
    assert not log._thread.is_alive()
    assert lines(log) == [b"the last one"]


def test_one_thread_writes_and_keeps_no_gateway_from_ending(log):
    assert (log._thread.name, log._thread.daemon) == ("journal", True)
    assert journal.STOP_SECONDS == 5.0


def test_the_log_takes_a_bounded_part_of_the_disk_and_of_memory(log):
    assert journal.MOST_SEGMENTS * journal.SEGMENT_BYTES == 128 * 2**20  # for each route
    assert journal.MOST_WAITING_BYTES == 32 * 2**20
    assert log._waiting.maxsize == journal.MOST_WAITING == 10_000
    assert journal.MOST_READ == 4 * 2**20


def test_a_segment_ends_with_the_line_that_fills_it(log, monkeypatch, tmp_path):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 20)
    for number in range(5):
        log.note("churn", b"%09d\n" % number)
    flush(log)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [f"churn.{start:020}.jsonl" for start in (0, 20, 40)]
    assert [file.stat().st_mode & 0o777 for file in tmp_path.iterdir()] == [0o600] * 3
    assert len(lines(log)) == 5


def test_a_log_of_one_segment_keeps_only_the_newest(log, monkeypatch, tmp_path):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 10)
    monkeypatch.setattr(journal, "MOST_SEGMENTS", 1)
    for number in range(5):
        log.note("churn", b"%09d\n" % number)
    flush(log)
    assert [file.name for file in tmp_path.iterdir()] == ["churn.00000000000000000040.jsonl"]
    assert log.read("churn", 0) == (b"%09d\n" % 4, 50)


def test_a_segment_that_is_removed_meanwhile_is_passed_over(log, monkeypatch, tmp_path):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 10)
    for number in range(3):
        log.note("churn", b"%09d\n" % number)
    flush(log)
    there = log._segments("churn")
    monkeypatch.setattr(log, "_segments", lambda route: there)
    there[0][1].unlink()
    assert log.read("churn", 0) == (b"%09d\n" % 1, 20)


def test_a_segment_that_somebody_else_removed_is_nothing_to_stop_for(log, monkeypatch):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 10)
    monkeypatch.setattr(journal, "MOST_SEGMENTS", 2)
    segments = log._segments

    def and_then_gone(route):
        found = segments(route)
        for _, file in found[:-1]:
            file.unlink()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(log, "_segments", and_then_gone)
        for number in range(5):
            log.note("churn", b"%09d\n" % number)
        flush(log)
    assert lines(log)[-1] == b"%09d" % 4


def test_what_is_no_segment_is_left_alone(log, tmp_path):
    for name in ("churn.notes.jsonl", "churn..jsonl"):
        (tmp_path / name).write_bytes(b"somebody else's\n")
    log.note("churn", b"a line\n")
    flush(log)
    assert lines(log) == [b"a line"]


def test_no_file_stays_open_but_the_one_that_is_written_to(tmp_path, dropped, monkeypatch):
    def held():
        return [each.path for each in psutil.Process().open_files() if str(tmp_path) in each.path]

    monkeypatch.setattr(journal, "SEGMENT_BYTES", 10)
    log = Journal(tmp_path, dropped.update)
    for number in range(3):
        log.note("churn", b"%09d\n" % number)
        log.note("other", b"%09d\n" % number)
    flush(log)
    newest = [str(tmp_path / f"{route}.{20:020}.jsonl") for route in ("churn", "other")]
    assert sorted(held()) == newest
    log.close()
    assert held() == []


@pytest.mark.parametrize(
    ("left", "whole"),
    [
        (b"", []),
        (b"half", []),
        (b"\n" + b"x" * 65535, [b""]),
        (b"\n" + b"x" * 65536, [b""]),
        (b"whole\n" + b"x" * 200_000, [b"whole"]),
        (b"x" * 70_000 + b"\n", [b"x" * 70_000]),
    ],
    ids=["nothing", "half a line", "one step", "a step and a bit", "a long one", "a whole one"],
)
def test_a_restart_goes_on_behind_the_last_whole_line(tmp_path, dropped, left, whole):
    folder = tmp_path / "not" / "there"
    Journal(folder, dropped.update).close()
    (folder / f"churn.{0:020}.jsonl").write_bytes(left)
    log = Journal(folder, dropped.update)
    log.note("churn", b"next\n")
    flush(log)
    assert lines(log) == [*whole, b"next"]
    log.close()


def test_a_restart_goes_on_with_the_newest_segment(tmp_path, dropped):
    for start in (0, 10, 20):
        (tmp_path / f"churn.{start:020}.jsonl").write_bytes(b"%09d\n" % start)
    log = Journal(tmp_path, dropped.update)
    log.note("churn", b"next\n")
    flush(log)
    assert len(list(tmp_path.iterdir())) == 3
    assert log.read("churn", 20) == (b"%09d\nnext\n" % 20, 35)
    log.close()
