"""Runs and sweeps of one store meet in every order, and a version has its bytes at any moment.

Each run is stopped before each of its requests to the store, and another one works meanwhile.
"""

from hashlib import sha256
from itertools import product

import pytest
from airflow.sdk.io import attach, store
from fsspec.implementations.memory import MemoryFileSystem
from greenlet import getcurrent, greenlet

from include import model_store, runs, storage

CONTENT = b"a model"
LOOK = runs.Place("a_dag", "20260101T000000", "look", -1, 1, "")
REST = 1000  # requests to the store: more than any run makes


def stop():
    """Let others work before this request."""
    if isinstance(getcurrent(), Run):
        getcurrent().parent.switch()


class Requests(MemoryFileSystem):
    """A store in memory. A run that asks it stops first."""

    cachable = False

    def ls(self, path, detail=True, **options):
        """List a folder."""
        stop()
        return super().ls(path, detail=detail, **options)

    def cat_file(self, path, *arguments, **options):
        """Read a file."""
        stop()
        return super().cat_file(path, *arguments, **options)

    def pipe_file(self, path, value, **options):
        """Write a file."""
        stop()
        super().pipe_file(path, value, **options)

    def rm_file(self, path):
        """Remove a file."""
        stop()
        super().rm_file(path)


class Run(greenlet):
    """A run that makes its requests one at a time."""

    key = ""

    def __init__(self):
        """Stand at the beginning."""
        super().__init__(self.work)
        self.place = runs.Place("a_dag", self.key, "task", -1, 1, "")
        self.reference = None


class Training(Run):
    """A run that trains."""

    key = "20260104T000000"

    def work(self):
        """Put bytes and make them a version."""
        self.reference = model_store.put(CONTENT)
        model_store.add(self.reference, "2026-01-04", {})


class Cleaning(Run):
    """A run that cleans up."""

    key = "20260201T000000"

    def work(self):
        """Retire the version that was there before, and sweep."""
        model_store.retire(model_store.name(LOOK.key, sha256(CONTENT).hexdigest()))
        model_store.sweep()


class AnotherCleaning(Cleaning):
    """A run that cleans up at another date."""

    key = "20260301T000000"


@pytest.fixture
def meet(monkeypatch):
    """Let runs take turns in a store with one version, and look around after each change."""
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    monkeypatch.setattr(runs, "here", lambda: getattr(getcurrent(), "place", LOOK))
    monkeypatch.setattr(Requests, "store", {})
    monkeypatch.setattr(Requests, "pseudo_dirs", [""])
    attach("memory", fs=Requests())
    root = storage.ObjectStoragePath("memory://catalogue")
    monkeypatch.setattr(storage, "store", lambda: root)  # to look it up takes longer than the rest

    def turns(*plan):
        """Each turn is a run with a number of requests; in the end all runs make the rest."""
        Requests.store.clear()
        model_store.add(model_store.put(CONTENT), "2026-01-01", {})
        everybody, made = list(dict.fromkeys(run for run, _ in plan)), 0
        for run, most in [*plan, *((run, REST) for run in everybody)]:
            for _ in range(most):
                if run.dead:
                    break
                before = dict(Requests.store)
                run.switch()
                made += 1
                if Requests.store != before:
                    look_around(everybody)
        return made

    return turns


def look_around(everybody):
    """Whoever has a reference finds the bytes, and so does whoever knows a version."""
    for reference in [run.reference for run in everybody if run.reference]:
        assert storage.read_bytes(reference) == CONTENT
    for version in model_store.versions():
        assert storage.read_bytes(version["reference"]) == CONTENT


def check_the_end():
    """The version of the training is left, and nobody's claim or note."""
    (version,) = model_store.versions()
    assert version["version"].startswith(Training.key)
    models = storage.store() / "a_dag" / "models"
    assert storage.names(models / "claims") + storage.names(models / "sweeps") == []
    model_store.sweep()
    assert storage.read_bytes(version["reference"]) == CONTENT


@pytest.mark.parametrize("order", [(Training, Cleaning), (Cleaning, Training)])
def test_a_training_and_a_cleaning_may_meet_at_any_moment(meet, order):
    lengths = [meet((kind(), REST)) for kind in order]
    for first, then in product(*map(range, lengths)):
        one, other = (kind() for kind in order)
        meet((one, first), (other, then))
        check_the_end()


def test_two_cleanings_and_a_training_may_meet(meet):
    length = meet((Cleaning(), REST))
    for first, then in product(range(0, length, 2), range(1, length, 2)):
        slow, quick, training = Cleaning(), AnotherCleaning(), Training()
        meet((slow, first), (quick, then), (training, REST), (quick, REST))
        check_the_end()
        slow, quick, training = Cleaning(), AnotherCleaning(), Training()
        meet((slow, first), (training, then), (quick, REST), (slow, REST))
        check_the_end()
