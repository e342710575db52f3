"""A version has its bytes at any moment, equal bytes are kept once, and only unwanted ones go."""

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from include import model_store, storage

MODELS = "catalogue/a_dag/models"
KEY = "20260104T000000"
FACTS = {"params": {"trees": 20}}
TODAY = datetime(2026, 11, 28, 12, 30, 15, 42, tzinfo=UTC)
TOKYO = timedelta(hours=9)
NOW = "20261128T123015000042"

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that stands still until it is set; it is in Tokyo, as a worker may be."""

    class Clock(datetime):
        time = TODAY

        @classmethod
        def now(cls, tz=None):
            return cls.time.astimezone(tz) if tz else cls.time.replace(tzinfo=None) + TOKYO

    monkeypatch.setattr(model_store, "datetime", Clock)
    return Clock


def digest(content):
    return sha256(content).hexdigest()


def keys(behind, kind):
    """What is in a folder of the models."""
    shelf, everything = f"{MODELS}/{kind}/", behind.keys()
    return [key.removeprefix(shelf) for key in everything if key.startswith(shelf)]


def reference(content, file=None):
    address = storage.store() / "a_dag" / "models" / "blobs" / (file or f"{digest(content)}.skops")
    return f"{address}#sha256={digest(content)}"


def made(content, created="2026-01-04", **facts):
    """A version of these bytes, made by the run that stands in."""
    return model_store.add(model_store.put(content), created, facts)


def test_bytes_are_named_after_themselves_and_claimed_by_the_run(behind):
    assert model_store.put(b"a model") == reference(b"a model")
    assert behind.keys() == [
        f"{MODELS}/blobs/{digest(b'a model')}.skops",
        f"{MODELS}/claims/{KEY}-{digest(b'a model')[:12]}.{NOW}",
    ]
    assert behind.get(behind.keys()[0]) == b"a model"
    assert behind.get(behind.keys()[1]) == digest(b"a model").encode()


def test_equal_bytes_of_two_runs_are_one_file(disk, here):
    one = model_store.put(b"a model")
    (file,) = (disk.root / MODELS / "blobs").iterdir()
    before = file.stat().st_ino
    here(key="20260105T000000")
    assert model_store.put(b"a model") == one
    assert file.stat().st_ino == before  # it is not even written anew
    assert keys(disk, "blobs") == [file.name]
    assert len(keys(disk, "claims")) == 2
    assert model_store.put(b"another model") != one
    assert len(keys(disk, "blobs")) == 2


def test_a_damaged_file_is_mended_by_the_next_run(disk):
    model_store.put(b"a model")
    (file,) = keys(disk, "blobs")
    disk.put(f"{MODELS}/blobs/{file}", b"a mod")
    assert storage.read_bytes(model_store.put(b"a model")) == b"a model"


def test_a_version_has_a_sidecar_and_needs_its_claim_no_more(behind):
    version = model_store.add(model_store.put(b"a model"), "2026-01-04", FACTS)
    assert version == model_store.name(KEY, digest(b"a model"))
    assert version == f"{KEY}-{digest(b'a model')[:12]}"
    assert behind.keys() == [
        f"{MODELS}/blobs/{digest(b'a model')}.skops",
        f"{MODELS}/versions/{version}.json",
    ]
    sidecar = {
        "blob": f"{digest(b'a model')}.skops",
        "bytes": 7,
        "created": "2026-01-04",
        "params": {"trees": 20},
        "sha256": digest(b"a model"),
        "version": version,
    }
    text = behind.get(f"{MODELS}/versions/{version}.json").decode()
    assert text == json.dumps(sidecar, indent=2)
    assert model_store.read(version) == sidecar | {"reference": reference(b"a model")}


def test_the_same_run_again_makes_the_same_version(disk, clock):
    first, before = made(b"a model"), disk.keys()
    clock.time += timedelta(hours=1)
    assert made(b"a model") == first
    assert disk.keys() == before


def test_a_version_gives_up_its_own_claims_and_no_others(disk, here, clock):
    model_store.put(b"a model")
    clock.time += timedelta(hours=1)  # a second try of the same run
    mine = model_store.put(b"a model")
    model_store.put(b"another model of this run")
    here(key=f"{KEY}-1")
    model_store.put(b"a model")
    here()
    model_store.add(mine, "2026-01-04", {})
    assert [claim.partition(".")[0] for claim in keys(disk, "claims")] == sorted([
        f"{KEY}-{digest(b'another model of this run')[:12]}",
        f"{KEY}-1-{digest(b'a model')[:12]}",
    ])


def test_bytes_that_are_gone_become_no_version(disk):
    gone = model_store.put(b"a model")
    storage.remove(storage.ObjectStoragePath(gone.partition("#")[0]))
    with pytest.raises(FileNotFoundError, match="is gone"):
        model_store.add(gone, "2026-01-04", {})
    assert keys(disk, "versions") == []


def test_a_sidecar_that_is_damaged_is_named_with_the_cure(disk):
    version = made(b"a model")
    file = f"{MODELS}/versions/{version}.json"
    for text, error in (('{"version": ', "JSONDecodeError"), ("{}", "KeyError('sha256')")):
        disk.put(file, text.encode())
        with pytest.raises(storage.DamagedArtifact) as refused:
            model_store.read(version)
        told = str(refused.value)
        assert told.startswith(f"{storage.store()}/a_dag/models/versions/{version}.json is no sid")
        assert f"is no sidecar ({error}" in told
        assert told.endswith("). Run the pipeline again for its date: that writes the same one.")


def test_a_sidecar_that_names_no_file_means_the_first_file_of_its_bytes(disk):
    version = made(b"a model")
    disk.put(f"{MODELS}/versions/{version}.json", f'{{"sha256": "{digest(b"a model")}"}}'.encode())
    assert model_store.read(version)["reference"] == reference(b"a model")


def test_versions_are_listed_newest_first_and_those_of_one_day_by_name(disk, here):
    for key, created in (("1", "2026-01-05"), ("3", "2026-01-04"), ("2", "2026-01-05")):
        here(key=key)
        made(b"a model", created)
    listed = model_store.versions()
    assert [each["version"].partition("-")[0] for each in listed] == ["2", "1", "3"]
    assert listed[0] == model_store.read(listed[0]["version"])


def test_a_version_that_is_retired_while_versions_are_listed_is_left_out(disk, here, monkeypatch):
    made(b"a model")
    here(key="20260105T000000")
    kept = made(b"a model")
    names = storage.names

    def retired(folder):
        found = names(folder)
        model_store.retire(f"{KEY}-{digest(b'a model')[:12]}")
        return found

    monkeypatch.setattr(storage, "names", retired)
    assert [each["version"] for each in model_store.versions()] == [kept]


def test_a_retired_version_leaves_its_bytes_to_the_sweep(disk):
    version = made(b"a model")
    model_store.retire(version)
    model_store.retire(version)
    assert model_store.versions() == []
    assert model_store.blobs() == [digest(b"a model")]
    model_store.sweep()
    assert disk.keys() == []


def test_bytes_are_unwanted_if_no_version_names_them_and_no_run_claims_them(disk, here):
    version, other = made(b"a model"), made(b"another model")
    here(key="20260105T000000")
    model_store.put(b"a claimed model")
    disk.put(f"{MODELS}/blobs/{digest(b'forgotten')}.skops", b"forgotten")
    disk.put(f"{MODELS}/blobs/{digest(b'forgotten')}.2.skops", b"forgotten")
    everything = [b"a model", b"another model", b"a claimed model", b"forgotten"]
    assert model_store.blobs() == sorted(map(digest, everything))
    assert model_store.unwanted() == [digest(b"forgotten")]
    gone = model_store.unwanted(without=[version, other])
    assert gone == sorted(map(digest, [b"a model", b"another model", b"forgotten"]))
    assert model_store.unwanted(without=[f"20260105T000000-{digest(b'a claimed model')[:12]}"]) == [
        digest(b"forgotten")
    ]


def test_a_sweep_removes_what_nobody_wants_and_nothing_else(behind, here):
    here(key="manual-1-0123456789ab")
    version = made(b"a model")
    here(key="manual-2-0123456789ab")
    claimed = model_store.put(b"a claimed model")
    before = behind.keys()
    for number in ("", ".2"):
        behind.put(f"{MODELS}/blobs/{digest(b'forgotten')}{number}.skops", b"forgotten")
    model_store.sweep()
    assert behind.keys() == before
    assert storage.read_bytes(model_store.read(version)["reference"]) == b"a model"
    assert storage.read_bytes(claimed) == b"a claimed model"


def test_a_sweep_writes_nothing_if_nothing_may_go(disk, monkeypatch):
    made(b"a model")
    written = []
    monkeypatch.setattr(storage, "write_to", lambda target, content: written.append(target))
    model_store.sweep()
    assert written == []
    disk.put(f"{MODELS}/blobs/{digest(b'forgotten')}.skops", b"forgotten")
    model_store.sweep()
    assert [str(target) for target in written] == [
        f"{storage.store()}/a_dag/models/sweeps/{KEY}.{NOW}"
    ]


def test_the_claim_of_a_killed_run_holds_its_bytes_for_a_week_and_no_longer(behind, clock):
    model_store.put(b"a model")
    before = behind.keys()
    clock.time += timedelta(days=7)
    model_store.sweep()
    assert behind.keys() == before
    clock.time += timedelta(microseconds=1)
    assert model_store.unwanted() == [digest(b"a model")]
    model_store.sweep()
    assert behind.keys() == []


def test_a_run_that_comes_back_claims_its_bytes_anew(disk, clock):
    model_store.put(b"a model")
    clock.time += timedelta(days=6)
    again = model_store.put(b"a model")
    clock.time += timedelta(days=6)
    model_store.sweep()
    assert storage.read_bytes(again) == b"a model"
    assert [claim.partition(".")[2] for claim in keys(disk, "claims")] == ["20261204T123015000042"]


def test_a_run_that_comes_back_too_late_may_still_meet_a_sweep(disk, here, clock, monkeypatch):
    late = model_store.put(b"a model")
    clock.time += timedelta(days=8)
    write_to = storage.write_to

    def swept(target, content):
        if target.parent.name == model_store.VERSIONS:
            here(key="20260301T000000")
            model_store.sweep()
            here()
        return write_to(target, content)

    monkeypatch.setattr(storage, "write_to", swept)
    version = model_store.add(late, "2026-01-04", {})
    assert storage.read_bytes(model_store.read(version)["reference"]) == b"a model"


def test_while_a_sweep_is_at_work_its_files_get_another_name(disk, here, clock):
    disk.put(f"{MODELS}/blobs/{digest(b'a model')}.skops", b"a model")
    files = [f"{digest(b'a model')}{number}.skops" for number in ("", ".2", ".3")]
    disk.put(f"{MODELS}/sweeps/1.{NOW}", json.dumps(files[:1]).encode())
    assert model_store.put(b"a model") == reference(b"a model", files[1])
    disk.put(f"{MODELS}/sweeps/2.{NOW}", json.dumps(files[1:2]).encode())
    third = model_store.put(b"a model")
    assert third == reference(b"a model", files[2])
    version = model_store.add(third, "2026-01-04", {})
    assert model_store.read(version)["reference"] == third
    assert keys(disk, "blobs") == sorted(files)
    clock.time += timedelta(days=7)
    assert model_store.put(b"a model") == third
    clock.time += timedelta(microseconds=1)  # by now both sweeps were killed
    assert model_store.put(b"a model") == reference(b"a model")
    model_store.sweep()
    assert keys(disk, "sweeps") == []
    assert storage.read_bytes(model_store.read(version)["reference"]) == b"a model"


def test_a_note_of_a_sweep_that_ends_while_it_is_read_is_no_fault(disk, monkeypatch):
    disk.put(f"{MODELS}/sweeps/1.{NOW}", b"[]")
    names = storage.names

    def ended(folder):
        found = names(folder)
        if folder.name == model_store.SWEEPS:
            storage.remove(folder / f"1.{NOW}")
        return found

    monkeypatch.setattr(storage, "names", ended)
    assert model_store.put(b"a model") == reference(b"a model")
