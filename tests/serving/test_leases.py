"""One owner releases a model at a time; a lease ends by itself and outlives a restart."""

import json
import os
import time

import pytest

from include.serving import leases
from include.serving.kept import NotKept
from include.serving.leases import Held, Lease, Leases


@pytest.fixture
def now(monkeypatch):
    """The monotonic clock, which stands until it is set."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def file(tmp_path):
    return tmp_path / "kept" / "leases.json"


@pytest.fixture
def held(now, file):
    """The leases, one of which is held for ten seconds."""
    held = Leases(file)
    assert held.take("churn", "one", 10) == Lease("one", 10, 110.0)
    return held


def test_a_second_owner_is_told_who_releases_and_for_how_long(held, now):
    now[0] = 103.6
    for change in (held.check, held.release, lambda *given: held.take(*given, 5)):
        with pytest.raises(Held) as refused:
            change("churn", "other")
        assert str(refused.value) == (
            "churn is being released by 'one', which has not been heard of for 4 s; "
            "its lease ends in 6 s"
        )
    assert held.known() == {"churn": {"owner": "one", "seconds_left": 6.4}}


def test_another_model_is_free(held, file):
    held.check("fraud", "other")
    held.take("fraud", "other", 5)
    held.release("free", "other")
    assert held.known() == {
        "churn": {"owner": "one", "seconds_left": 10.0},
        "fraud": {"owner": "other", "seconds_left": 5.0},
    }
    assert json.loads(file.read_text()) == {"churn": ["one", 10], "fraud": ["other", 5]}


def test_a_lease_goes_on_while_its_owner_is_heard_of(held, now):
    now[0] = 109
    held.check("churn", "one")
    now[0] = 118.46
    assert held.known() == {"churn": {"owner": "one", "seconds_left": 0.5}}
    with pytest.raises(Held):
        held.check("churn", "other")
    held.take("churn", "one", 20)
    assert held.known() == {"churn": {"owner": "one", "seconds_left": 20.0}}


def test_a_lease_ends_by_itself_at_its_end(held, now):
    now[0] = 109.5
    with pytest.raises(Held):
        held.check("churn", "other")
    now[0] = 110
    assert held.known() == {}
    held.check("churn", "other")
    now[0] = 105  # it is gone, not only over
    assert held.known() == {}
    held.take("churn", "other", 3)
    assert held.known() == {"churn": {"owner": "other", "seconds_left": 3.0}}


def test_an_owner_that_comes_back_too_late_has_no_lease(held, now):
    now[0] = 111
    held.check("churn", "one")
    assert held.known() == {}


def test_a_lease_that_was_given_back_is_free(held, file):
    held.take("fraud", "one", 5)
    held.release("churn", "one")
    held.release("churn", "one")
    held.take("churn", "other", 5)
    assert held.known().keys() == {"churn", "fraud"}
    assert held.known()["churn"]["owner"] == "other"


def test_after_a_restart_a_lease_lasts_as_long_as_was_asked_for(held, now, file):
    now[0] = 5.0  # a machine that has started anew
    restarted = Leases(file)
    assert restarted.known() == {"churn": {"owner": "one", "seconds_left": 10.0}}
    with pytest.raises(Held, match="being released by 'one'"):
        restarted.check("churn", "other")
    restarted.release("churn", "one")
    assert Leases(file).known() == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held.take("fraud", "other", 5),
        lambda held: held.release("churn", "one"),
    ],
    ids=["take", "release"],
)
def test_what_is_not_on_disk_is_not_held_or_given_back(held, file, monkeypatch, change):
    def full(number):
        raise OSError(28, "No space left on device")

    before, on_disk = held.known(), file.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotKept):
        change(held)
    assert (held.known(), file.read_bytes()) == (before, on_disk)


def test_a_lease_lasts_a_day_at_most():
    assert leases.MOST_SECONDS == 86400
