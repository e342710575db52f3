"""Four parts change together: killed between any two writes, the end is entirely old or new."""

import multiprocessing
import os
import signal
from contextlib import suppress

import pytest

from include import runs, storage, tracking
from include.serving import client, live, release
from include.serving.client import Gateway

NAME = "a_rollback"
OLD, NEW = "2", "1"
WRITES = 6  # the record, four parts, the record again
UNDOING = 10
SLOW_IMPORTS = [
    "airflow.providers.amazon.aws.fs.s3",
    "airflow.providers.google.cloud.fs.gcs",
    "airflow.providers.microsoft.azure.fs.adls",
    "airflow.sdk.io.fs",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
]


def place(key="20260105T000000", try_number=1):
    return runs.Place(NAME, key, "restore.apply", -1, try_number, "")


def change(good):
    """What the tasks of a rollback do, one after the other."""
    live.carry_out(live.begin(live.target(NEW), "it is bad"))
    return live.conclude(good, {})


def dies(cut, good, environ, sources):
    """Do it in a process that is killed behind so many writes."""
    os.environ.update(environ)
    runs.here = place
    release.source = lambda name, number: sources[number]
    done = []

    def counted(write):
        def and_perhaps_die(*given, **named):
            result = write(*given, **named)
            done.append(write.__name__)
            if len(done) == cut:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return and_perhaps_die

    storage.write_to = counted(storage.write_to)
    Gateway.set_route = counted(Gateway.set_route)
    registry = tracking.client().__class__
    registry.set_registered_model_alias = counted(registry.set_registered_model_alias)
    if cut == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    change(good)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *SLOW_IMPORTS])  # once, not in each process
    return context


@pytest.fixture(scope="module")
def released(model_gateway, mlflow_store, exported, tmp_path_factory):
    """Two versions, each with features, settings and golden requests of its own; 2 is live."""
    store = tmp_path_factory.mktemp("store").as_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_MODEL_GATEWAY", model_gateway.connection)
        patch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", store)
        patch.setattr(runs, "here", place)
        patch.setattr(release, "source", lambda name, number: str(exported))
        # Both stay warm: each test would start one of them anew.
        patch.setattr(Gateway, "stop_version", lambda self, model, version: None)
        registry = tracking.client()
        registry.create_registered_model(NAME)
        for number in (NEW, OLD):
            registry.create_model_version(NAME, source=str(exported))
            contents = {part: f"{part} of {number}".encode() for part in live.BELONGINGS}
            live.describe(number, contents)
        yield {number: str(exported) for number in (NEW, OLD)}
        patch.undo()
        patch.setenv("AIRFLOW_CONN_MODEL_GATEWAY", model_gateway.connection)
        patch.setattr(runs, "here", place)
        gateway = client.gateway()
        gateway.remove_route(NAME)
        for number in gateway.versions(NAME):
            gateway.stop_version(NAME, number)


@pytest.fixture
def old(released, monkeypatch):
    """Version 2 is live, and nobody has begun anything."""
    monkeypatch.setattr(runs, "here", place)
    for part, value in live.target(OLD).items():
        live.put(part, value)
    folder = storage.store() / NAME / "changes"
    for name in storage.names(folder):
        storage.remove(folder / name)
    return live.state()


@pytest.fixture
def kill(processes, old, released):
    def kill(cut, good=True):
        child = processes.Process(target=dies, args=(cut, good, dict(os.environ), released))
        child.start()
        child.join(60)
        return child.exitcode

    return kill


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(WRITES + 1))
def test_killed_at_any_point_its_next_try_ends_entirely_new(kill, cut):
    assert kill(cut) == -signal.SIGKILL
    assert change(good=True)["outcome"] == live.DONE
    assert live.state() == live.target(NEW)


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(WRITES + 1))
def test_killed_without_a_next_try_the_next_run_finds_it_entirely_old_or_new(
    kill, old, monkeypatch, cut
):
    kill(cut)
    mixed = live.state() not in (old, live.target(NEW))
    assert mixed == (2 <= cut <= 4)
    monkeypatch.setattr(runs, "here", lambda: place("20260106T000000"))
    live.settle()
    assert live.state() == (live.target(NEW) if cut == WRITES else old)


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(WRITES - 1, UNDOING + 1))
def test_killed_while_it_is_undone_its_next_try_ends_entirely_old(kill, old, cut):
    assert kill(cut, good=False) == -signal.SIGKILL
    if cut < UNDOING:  # as the DAG does: what is open is carried out and judged once more
        assert change(good=False)["outcome"] == live.UNDONE
    assert live.state() == old
    assert live.record()["outcome"] == live.UNDONE


def test_it_takes_as_many_writes_as_were_cut(kill):
    assert kill(WRITES + 1) == 0
    assert live.state() == live.target(NEW)


def test_what_belongs_to_a_version_is_looked_at_before_anything_changes(old, monkeypatch):
    kept = live.belongings(NEW)["golden"].partition("#")[0]
    storage.write_to(storage.ObjectStoragePath(kept), b"other answers")
    with suppress(storage.DamagedArtifact):
        change(good=True)
        pytest.fail("a damaged release was gone back to")
    assert live.record() is None
    assert live.state() == old
    live.describe(
        NEW,
        {part: f"{part} of {NEW}".encode() for part in live.BELONGINGS[:2]}
        | {"golden": b"golden anew"},
    )


def test_a_version_that_was_never_described_is_refused(old, exported):
    tracking.client().create_model_version(NAME, source=str(exported))
    with pytest.raises(ValueError, match="version 3 can't be live: it has no features, settings"):
        live.target("3")


def test_what_nobody_asks_any_more_is_stopped(old, released, monkeypatch):
    stopped = []
    monkeypatch.setattr(Gateway, "stop_version", lambda *given: stopped.append(given[1:]))
    change(good=True)
    assert stopped == [(NAME, OLD)]


def test_before_the_very_first_release_there_is_nothing_to_take_back(released, monkeypatch):
    nobody = runs.Place("b_rollback", "20260105T000000", "settle", -1, 1, "")
    monkeypatch.setattr(runs, "here", lambda: nobody)
    with pytest.raises(ValueError, match="nothing is live yet"):
        live.settle()


def test_a_release_that_another_run_took_for_a_left_one_is_told_who_took_it_back(old, monkeypatch):
    carry_out = live.carry_out

    def meets_another(record):
        carry_out(record)
        with monkeypatch.context() as patch:
            patch.setattr(runs, "here", lambda: place("20260106T000000"))
            live.settle()

    monkeypatch.setattr(live, "carry_out", meets_another)
    with pytest.raises(
        ValueError, match=f"version {NEW} was undone by the run 20260106T000000: let"
    ):
        live.go(NEW, "a release")
    assert live.state() == old


def test_where_nothing_was_begun_nothing_can_be_concluded(old):
    with pytest.raises(ValueError, match="nothing was begun"):
        live.conclude(False, {})
