"""A change of what callers get: what is written down, in which order, and what is refused."""

import json

import pytest

from include import runs, storage, tracking
from include.serving import client, live, release
from include.storage import DamagedArtifact
from tests.serving.played import PlayedGateway, PlayedRegistry

NAME = "a_rollback"
KEY, LATER = "20260105T000000", "20260106T000000"
OLD, NEW = "2", "1"


def place(key=KEY):
    return runs.Place(NAME, key, "restore.apply", -1, 1, "")


@pytest.fixture
def done(tmp_path, monkeypatch):
    """What was done to the four parts, in its order."""
    done = []
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", tmp_path.as_uri())
    monkeypatch.setattr(runs, "here", place)
    write_to = storage.write_to

    def noted(target, content):
        done.append((target.name, content.decode()))
        return write_to(target, content)

    monkeypatch.setattr(storage, "write_to", noted)
    return done


@pytest.fixture
def gateway(done, monkeypatch):
    played = PlayedGateway(done)
    monkeypatch.setattr(client, "gateway", lambda: played)
    monkeypatch.setattr(release, "source", lambda name, number: f"{name} from {number}")
    return played


@pytest.fixture
def registry(done, gateway, monkeypatch):
    """Two versions, each with features, settings and golden requests of its own; none is live."""
    played = PlayedRegistry(NAME, done)
    played.tags |= {number: {"airflow.run_key": f"run {number}"} for number in (OLD, NEW)}
    monkeypatch.setattr(tracking, "client", lambda: played)
    monkeypatch.setattr(tracking, "champion", played.found)
    for number in (OLD, NEW):
        live.describe(number, contents(number))
    return played


@pytest.fixture
def old(registry, done):
    """Version 2 is live; returns the four parts."""
    for part, value in live.target(OLD).items():
        live.put(part, value)
    done.clear()
    return live.state()


def contents(number):
    return {part: f"{part} of {number}".encode() for part in ("features", "settings", "golden")}


def to(number):
    return {"model": NAME, "weights": {number: 1.0}, "sticky": None, "shadow": None}


def written(change="rollback", key=KEY):
    file = storage.store() / NAME / "changes" / f"{key}.{change}.json"
    return file.fs.cat_file(file.path).decode()


def outcome(change="rollback", key=KEY):
    return json.loads(written(change, key))["outcome"]


def pointer(part):
    file = storage.store() / NAME / "live" / part
    return file.fs.cat_file(file.path).decode()


def test_a_version_is_described_by_what_it_can_not_do_without(registry):
    live.take_back(NEW, "it is bad")
    assert registry.tags[NEW]["taken_back"] == "it is bad"
    live.describe(NEW, contents(NEW))
    tags = registry.tags[NEW]
    assert tags.keys() == {"features", "settings", "golden", "airflow.run_key"}
    for part, content in contents(NEW).items():
        shelf = storage.store() / NAME / part / runs.digest(content) / part
        assert tags[part].partition("#")[0] == str(shelf)
        assert storage.read_bytes(tags[part]) == content
    assert live.belongings(NEW) == {part: tags[part] for part in contents(NEW)}


def test_a_version_without_all_of_it_can_not_be_live(registry):
    registry.tags["3"] = {"features": "somewhere"}
    with pytest.raises(ValueError, match=r"^version 3 can't be live: it has no settings, golden$"):
        live.target("3")


@pytest.mark.parametrize("part", contents(NEW))
def test_a_version_of_which_anything_has_changed_since_can_not_be_live(registry, part):
    file = storage.ObjectStoragePath(registry.tags[NEW][part].partition("#")[0])
    storage.write_to(file, b"something else")
    with pytest.raises(DamagedArtifact):
        live.target(NEW)


def test_before_the_first_release_nothing_is_live(registry):
    assert live.state() == dict.fromkeys(("features", "settings", "route", "alias"))
    assert live.record() is None
    with pytest.raises(
        ValueError, match=r"^nothing is live yet, so there is nothing to take back$"
    ):
        live.settle()


def test_all_four_parts_become_those_of_a_version(registry, gateway, done):
    done.clear()
    live.carry_out({"to": live.target(NEW)})
    features, settings = (registry.tags[NEW][part] for part in ("features", "settings"))
    assert done == [
        ("features", features),
        ("settings", settings),
        ("start", NAME, NEW, f"{NAME} from {NEW}"),
        ("route", NAME, to(NEW)),
        ("alias", NEW),
    ]
    assert (pointer("features"), pointer("settings")) == (features, settings)
    expected = {"features": features, "settings": settings, "route": to(NEW), "alias": NEW}
    assert live.state() == live.target(NEW) == expected


def test_a_version_that_runs_is_not_started_again(old, gateway, done):
    live.put("route", to(OLD))
    assert done == [("route", NAME, to(OLD))]


def test_a_change_is_written_down_before_anything_is_touched(old, done):
    begun = live.begin(live.target(NEW), "it is bad")
    expected = {"reason": "it is bad", "from": old, "to": live.target(NEW), "outcome": "open"}
    assert begun == live.record() == expected
    assert [name for name, *_ in done] == [f"{KEY}.rollback.json"]
    assert written() == json.dumps(expected, indent=2, sort_keys=True)
    assert live.state() == old


def test_the_next_try_goes_on_with_the_record_of_the_first(old, done):
    begun = live.begin(live.target(NEW), "it is bad")
    live.carry_out(begun)
    done.clear()
    assert live.begin(live.target(OLD), "another reason") == begun
    assert done == []
    live.conclude(True, {})
    assert live.begin(live.target(OLD), "back again")["reason"] == "back again"
    assert json.loads(written())["from"] == live.target(NEW)


def test_a_good_change_is_closed_with_what_was_found_and_the_old_version_stopped(
    old, gateway, done
):
    live.carry_out(live.begin(live.target(NEW), "it is bad"))
    done.clear()
    record = live.conclude(True, {"golden": 20})
    assert (record["outcome"], record["golden"]) == ("done", 20)
    assert json.loads(written()) == record
    assert [each[0] for each in done] == [f"{KEY}.rollback.json", "stop"]
    assert done[1] == ("stop", NAME, OLD)
    assert gateway.versions(NAME).keys() == {NEW}
    assert live.state() == live.target(NEW)
    done.clear()
    assert live.conclude(True, {"golden": 0}) == record
    assert done == []


def test_a_bad_change_is_undone_in_reverse_order(old, gateway, done):
    live.carry_out(live.begin(live.target(NEW), "it is bad"))
    done.clear()
    record = live.conclude(False, {"golden": 3})
    assert (record["outcome"], record["golden"]) == ("undone", 3)
    assert json.loads(written()) == record
    names = ["alias", "route", "settings", "features", f"{KEY}.rollback.json", "stop"]
    assert [each[0] for each in done] == names
    assert gateway.versions(NAME).keys() == {OLD}
    assert live.state() == old
    assert live.conclude(False, {}) == record
    assert live.conclude(True, {}) == record


NOT_BEGUN = r"^nothing was begun, so nothing has changed: see the task that failed$"


def test_what_was_not_begun_or_is_done_can_not_be_undone(old):
    for good in (True, False):
        with pytest.raises(ValueError, match=NOT_BEGUN):
            live.conclude(good, {})
    live.carry_out(live.begin(live.target(NEW), "it is bad"))
    live.conclude(True, {})
    with pytest.raises(ValueError, match=NOT_BEGUN):
        live.conclude(False, {})
    assert live.state() == live.target(NEW)


def test_what_nobody_had_before_the_first_release_is_not_put_back(registry, gateway, done):
    live.carry_out(live.begin(live.target(NEW), "the first"))
    done.clear()
    live.conclude(False, {})
    assert done[:-1] == []
    assert live.record()["outcome"] == "undone"


def test_a_release_is_a_change_of_its_own(old, gateway):
    live.begin(live.target(NEW), "a rollback")
    live.go(NEW, "a release")
    record = live.record("release")
    assert (record["reason"], record["from"], record["outcome"]) == ("a release", old, "done")
    assert (outcome("release"), outcome("rollback")) == ("done", "open")
    assert live.state() == live.target(NEW)


def test_a_release_that_was_undone_meanwhile_is_refused(old, monkeypatch):
    carry_out = live.carry_out

    def and_is_undone(record):
        carry_out(record)
        live.conclude(False, {}, change="release")

    monkeypatch.setattr(live, "carry_out", and_is_undone)
    says = rf"^the release of version {NEW} was undone: let one follow the other$"
    with pytest.raises(ValueError, match=says):
        live.go(NEW, "a release")
    assert live.state() == old


def test_what_any_run_has_left_open_is_taken_back_and_says_by_whom(old, gateway, monkeypatch):
    live.go(NEW, "a release")
    before = live.state()
    live.carry_out(live.begin(live.target(OLD), "left half done"))
    left = live.record()
    monkeypatch.setattr(runs, "here", lambda: place(LATER))
    live.settle()
    assert live.state() == before
    assert json.loads(written()) == left | {"outcome": f"undone by the run {LATER}"}
    assert outcome("release") == "done"


def test_what_is_live_answers_again_after_its_route_was_lost(old, gateway, done):
    gateway.remove_route(NAME)
    del gateway.running[NAME][OLD]
    done.clear()
    live.settle()
    assert done == [("start", NAME, OLD, f"{NAME} from {OLD}"), ("route", NAME, to(OLD))]
    assert live.state() == old
    done.clear()
    live.settle()
    assert done == []


def test_the_history_tells_what_speaks_for_and_against_each_version(old, registry):
    registry.tags["3"] = {"golden": "somewhere"}
    live.take_back(NEW, "it is bad")

    def told(number, made_by, complete, is_live, taken_back):
        return {
            "version": number,
            "made_by": made_by,
            "complete": complete,
            "live": is_live,
            "taken_back": taken_back,
        }

    assert live.history() == [
        told("3", None, False, False, None),
        told("2", "run 2", True, True, None),
        told("1", "run 1", True, False, "it is bad"),
    ]
    registry.champion = None
    assert [each["live"] for each in live.history()] == [False] * 3
