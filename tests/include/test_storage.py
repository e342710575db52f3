"""An artifact is there whole or not at all, on the disk as in S3, and a changed byte is refused."""

import errno
import os
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.io import attach, store
from fsspec.implementations.memory import MemoryFileSystem
from sklearn.preprocessing import StandardScaler

from include import storage
from tests.include.conftest import PLACE

pytestmark = pytest.mark.usefixtures("here")
SHELF = ("sets/1", "rows.parquet")
OTHER_CONTENT = (
    "{target} is kept already, with other content. Either the file was changed, or sets/1 is not "
    "named after everything that its content depends on."
)


@pytest.fixture
def between_look_and_write(monkeypatch):
    """Have something happen once, after a file was looked for in vain and before it is written."""

    def happens(action):
        waiting, system = [action], storage.store().fs
        look = system.cat_file

        def looked(path, *arguments, **options):
            try:
                return look(path, *arguments, **options)
            except FileNotFoundError:
                if waiting:
                    waiting.pop()()
                raise

        monkeypatch.setattr(system, "cat_file", looked)

    return happens


@pytest.fixture
def full_disk(monkeypatch):
    """Have writes break off before they reach the disk."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    @contextmanager
    def breaks_off():
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", full)
            yield

    return breaks_off


@pytest.fixture
def killed(monkeypatch):
    """Have a process end in the middle of a write, before it can clear anything away."""

    class Killed(BaseException):
        """The end."""

    def end(descriptor):
        raise Killed

    @contextmanager
    def is_killed():
        with monkeypatch.context() as broken, suppress(Killed):
            broken.setattr(os, "fsync", end)
            broken.setattr(Path, "glob", lambda folder, pattern: iter(()))
            yield
            raise AssertionError("the write went on to its end")

    return is_killed


@pytest.fixture(params=[errno.EPERM, errno.ENOTSUP])
def without_links(request, monkeypatch):
    """A disk on which a file has one name, such as that of a USB stick."""

    def refused(source, target, **options):
        raise OSError(request.param, "no hard links here")

    monkeypatch.setattr(os, "link", refused)


def target_on(shelf, name):
    return storage.store() / "a_dag" / shelf / name


def test_what_is_written_is_read_again_and_lies_under_the_name_of_its_run(behind, here):
    reference = storage.write_bytes(b"content", "model.bin")
    assert storage.read_bytes(reference) == b"content"
    here(map_index=0)
    storage.write_bytes(b"content", "model.bin")
    here(map_index=3)
    frame = pd.DataFrame({"city": ["Zürich", "Łódź"], "share": [0.25, float("nan")]})
    pd.testing.assert_frame_equal(
        storage.read_frame(storage.write_frame(frame, "rows.parquet")), frame
    )
    assert storage.read_json(storage.write_json({"b": 1, "a": [None]}, "facts.json")) == {
        "a": [None],
        "b": 1,
    }
    folder = "catalogue/a_dag/20260104T000000/train"
    assert behind.keys() == [
        f"{folder}/0/model.bin",
        f"{folder}/3/facts.json",
        f"{folder}/3/rows.parquet",
        f"{folder}/model.bin",
    ]


def test_a_model_is_read_back_as_it_was_written(disk):
    scaler = StandardScaler().fit([[1.0], [3.0]])
    reference = storage.write_model(scaler, "scaler.skops")
    assert storage.read_model(reference).transform([[5.0]]).tolist() == [[3.0]]
    assert disk.keys() == [f"catalogue/a_dag/{PLACE.key}/train/scaler.skops"]


def test_equal_documents_are_equal_bytes_in_any_order(disk):
    reference = storage.write_json({"b": 1, "a": {"d": 2, "c": None}}, "facts.json")
    expected = b'{\n  "a": {\n    "c": null,\n    "d": 2\n  },\n  "b": 1\n}'
    assert storage.read_bytes(reference) == expected


def test_a_reference_names_the_digest_of_its_content(behind):
    reference = storage.write_bytes(b"content", "model.bin")
    assert storage.digest(reference) == sha256(b"content").hexdigest()
    assert storage.digest(reference) != storage.digest(storage.write_bytes(b"contend", "model.bin"))
    assert storage.digest(reference.partition("#")[0]) == ""


def test_without_the_variable_artifacts_lie_below_the_home_of_airflow(
    disk, tmp_path, monkeypatch, airflow_database
):
    monkeypatch.delenv("AIRFLOW_VAR_ARTIFACT_STORE")
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "home"))
    assert storage.store().path == str(tmp_path / "home" / "artifacts")


def test_a_second_try_writes_over_its_own_first_and_the_first_reference_is_refused(behind, here):
    first = storage.write_bytes(b"first", "model.bin")
    here(try_number=2)
    second = storage.write_bytes(b"second", "model.bin")
    assert storage.read_bytes(second) == b"second"
    assert len(behind.keys()) == 1
    with pytest.raises(storage.DamagedArtifact, match="was changed after it was written"):
        storage.read_bytes(first)


def test_a_flipped_byte_is_refused_with_both_digests(behind):
    reference = storage.write_bytes(b"weights", "model.bin")
    (key,) = behind.keys()
    behind.put(key, b"weightz")
    address, _, digest = reference.partition("#sha256=")
    with pytest.raises(storage.DamagedArtifact) as refused:
        storage.read_bytes(reference)
    assert str(refused.value) == (
        f"{address} was changed after it was written: its SHA-256 is "
        f"{sha256(b'weightz').hexdigest()[:12]}…, expected {digest[:12]}…. Clear the task that "
        "wrote it to make it again."
    )
    with pytest.raises(storage.DamagedArtifact):
        storage.local_path(reference)


def test_a_reference_without_a_digest_is_refused(behind):
    address = storage.write_bytes(b"content", "model.bin").partition("#")[0]
    for reference in (address, f"{address}#sha256="):
        with pytest.raises(storage.DamagedArtifact, match="expected none…"):
            storage.read_bytes(reference)
        with pytest.raises(storage.DamagedArtifact, match="expected none…"):
            storage.local_path(reference)


def test_what_is_gone_is_named_with_the_task_to_clear(behind):
    reference = storage.write_bytes(b"content", "model.bin")
    address = reference.partition("#")[0]
    storage.remove(ObjectStoragePath(address))
    storage.remove(ObjectStoragePath(address))
    assert behind.keys() == []
    with pytest.raises(FileNotFoundError) as gone:
        storage.read_bytes(reference)
    assert str(gone.value) == (
        f"{address} is gone. Artifacts may have been cleared since this run started: clear the "
        "task that wrote it, and everything after it, to make it again."
    )


def test_what_is_kept_is_written_once_and_never_over(behind):
    assert storage.kept(*SHELF) is None
    reference = storage.keep(b"content", *SHELF)
    assert behind.keys() == ["catalogue/a_dag/sets/1/rows.parquet"]
    assert storage.keep(b"content", *SHELF) == storage.kept(*SHELF) == reference
    with pytest.raises(storage.DamagedArtifact) as refused:
        storage.keep(b"other", *SHELF)
    assert str(refused.value) == OTHER_CONTENT.format(target=target_on(*SHELF))
    assert storage.read_bytes(reference) == b"content"


def test_of_two_runs_that_keep_other_content_at_once_the_later_is_refused(
    behind, here, between_look_and_write
):
    def another_run():
        here(key="20260105T000000")
        references.append(storage.keep(b"theirs", *SHELF))
        here()

    references = []
    between_look_and_write(another_run)
    with pytest.raises(storage.DamagedArtifact, match="is kept already, with other content"):
        storage.keep(b"ours", *SHELF)
    assert storage.read_bytes(*references) == b"theirs"
    assert behind.keys() == ["catalogue/a_dag/sets/1/rows.parquet"]


def test_two_runs_that_keep_the_same_content_at_once_both_succeed(behind, between_look_and_write):
    references = []
    between_look_and_write(lambda: references.append(storage.keep(b"content", *SHELF)))
    references.append(storage.keep(b"content", *SHELF))
    assert references == [storage.kept(*SHELF)] * 2
    assert behind.keys() == ["catalogue/a_dag/sets/1/rows.parquet"]


def test_a_disk_without_hard_links_keeps_too(disk, without_links):
    reference = storage.keep(b"content", *SHELF)
    assert storage.keep(b"content", *SHELF) == reference
    assert storage.read_bytes(reference) == b"content"
    assert disk.keys() == ["catalogue/a_dag/sets/1/rows.parquet"]


def test_a_disk_without_hard_links_refuses_what_it_sees(
    disk, without_links, between_look_and_write
):
    between_look_and_write(lambda: storage.keep(b"theirs", *SHELF))
    with pytest.raises(storage.DamagedArtifact):
        storage.keep(b"ours", *SHELF)
    assert disk.get("catalogue/a_dag/sets/1/rows.parquet") == b"theirs"


def test_another_fault_of_a_disk_is_not_taken_for_missing_hard_links(disk, monkeypatch):
    def full(source, target, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        storage.keep(b"content", *SHELF)
    assert disk.keys() == []


def test_a_folder_lists_what_is_there_now_whoever_put_it_there(behind):
    folder = storage.store() / "shelf"
    assert storage.names(folder) == []
    storage.write_to(folder / "two", b"2")
    assert folder.fs.ls(folder.path)  # S3's client remembers what it listed
    behind.put("catalogue/shelf/one", b"1")
    behind.put("catalogue/shelf/.three.part", b"3")
    assert storage.names(folder) == ["one", "two"]


def test_a_file_that_came_after_its_folder_was_listed_is_found(behind):
    folder = storage.store() / "shelf"
    storage.write_to(folder / "one", b"1")
    assert storage.names(folder) == ["one"]
    behind.put("catalogue/shelf/two", b"2")
    reference = f"{folder / 'two'}#sha256={sha256(b'2').hexdigest()}"
    assert storage.read_bytes(reference) == b"2"


def test_another_file_system_of_fsspec_will_do(monkeypatch):
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    attach("memory", fs=MemoryFileSystem())
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", "memory://catalogue")
    reference = storage.keep(b"content", *SHELF)
    assert storage.read_bytes(reference) == b"content"
    assert storage.names(storage.store() / "a_dag" / "sets/1") == ["rows.parquet"]
    storage.remove(target_on(*SHELF))


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_a_folder_of_the_disk_has_three_spellings(scheme, tmp_path):
    target = ObjectStoragePath(f"{scheme}{tmp_path}/new/folder") / "file"
    storage.write_to(target, b"content")
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == b"content"
    assert storage.names(ObjectStoragePath(f"{scheme}{tmp_path}/new/folder")) == ["file"]


def test_a_write_to_the_disk_that_broke_off_leaves_what_was_there(disk, here, full_disk):
    before = storage.write_bytes(b"before", "model.bin")
    with full_disk(), pytest.raises(OSError, match="No space left"):
        storage.write_bytes(b"after" * 1000, "model.bin")
    assert storage.read_bytes(before) == b"before"
    assert storage.names(storage.store() / "a_dag" / PLACE.key / "train") == ["model.bin"]
    assert len(disk.keys()) == 1


def test_the_next_try_clears_away_what_a_killed_one_has_left(disk, here, killed):
    before = storage.write_bytes(b"before", "model.bin")
    with killed():
        storage.write_bytes(b"after" * 1000, "model.bin")
    assert storage.read_bytes(before) == b"before"
    assert storage.names(storage.store() / "a_dag" / PLACE.key / "train") == ["model.bin"]
    assert len(disk.keys()) == 2
    here(try_number=2)
    after = storage.write_bytes(b"after", "model.bin")
    assert storage.read_bytes(after) == b"after"
    assert len(disk.keys()) == 1


def test_each_writer_has_an_unfinished_file_of_its_own(disk, here, killed):
    writers = [{}, {"key": "20260105T000000"}, {"task_id": "tune"}, {"map_index": 0}]
    tries = [*writers, {"try_number": 2}]
    for writer in tries:
        here(**writer)
        with killed():
            storage.write_to(storage.store() / "shared", b"content")
    assert len(disk.keys()) == len(tries)
    here(try_number=3)
    storage.write_to(storage.store() / "shared", b"content")
    assert len(disk.keys()) == len(writers)  # with the file itself, and without its own two


def test_a_file_gets_its_name_once_all_of_it_is_on_the_disk(disk, monkeypatch):
    seen = []

    def synced(descriptor):
        seen.append((os.fstat(descriptor).st_size, storage.names(storage.store())))

    monkeypatch.setattr(os, "fsync", synced)
    storage.write_to(storage.store() / "file", b"content")
    assert seen == [(len(b"content"), [])]


def test_a_leftover_that_is_another_name_of_a_kept_file_does_not_change_it(disk, killed):
    target = storage.store() / "shared"
    with killed():
        storage.write_to(target, b"content")
    (leftover,) = disk.keys()
    disk.put("kept", b"kept")
    (disk.root / leftover).unlink()
    (disk.root / leftover).hardlink_to(disk.root / "kept")
    storage.write_to(target, b"content")
    assert disk.get("kept") == b"kept"


def test_a_leftover_that_another_process_removes_first_is_no_fault(disk, monkeypatch):
    glob = Path.glob

    def found(folder, pattern):
        return [*glob(folder, pattern), folder / ".gone.part"]

    monkeypatch.setattr(Path, "glob", found)
    storage.write_to(storage.store() / "file", b"content")
    assert disk.keys() == ["catalogue/file"]


def test_an_upload_to_s3_that_is_not_complete_is_not_there(bucket):
    before = storage.write_bytes(b"before", "model.bin")
    (key,) = bucket.keys()
    where = {"Bucket": bucket.name, "Key": key}
    begun = bucket.client.create_multipart_upload(**where)["UploadId"]
    bucket.client.upload_part(**where, UploadId=begun, PartNumber=1, Body=b"half of a model")
    assert storage.read_bytes(before) == b"before"
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key=f"{key}.new")
    assert storage.names(storage.store() / "a_dag" / PLACE.key / "train") == ["model.bin"]


def test_a_program_that_only_knows_paths_gets_the_file_itself_from_the_disk(disk):
    path = storage.local_path(storage.write_bytes(b"content", "model.bin"))
    assert path == disk.root / "catalogue" / "a_dag" / PLACE.key / "train" / "model.bin"


@pytest.mark.parametrize("home", ["AIRFLOW_HOME", "HOME"])
def test_a_program_that_only_knows_paths_gets_a_copy_from_a_bucket(
    bucket, tmp_path, monkeypatch, home
):
    reference = storage.write_bytes(b"content", "model.bin")
    monkeypatch.delenv("AIRFLOW_HOME")
    monkeypatch.setenv(home, str(tmp_path))
    assert storage.local_path(reference) == (path := storage.local_path(reference))
    home = tmp_path if home == "AIRFLOW_HOME" else tmp_path / "airflow"
    assert path == home / "copies" / "s3" / bucket.name / bucket.keys()[0]
    assert path.read_bytes() == b"content"


@pytest.mark.parametrize("fault", [FileNotFoundError, PermissionError])
def test_a_bucket_that_takes_nothing_is_named_with_the_setting(bucket, monkeypatch, fault):
    def refused(path, content, **options):
        raise fault("refused")

    target = target_on(*SHELF)
    monkeypatch.setattr(target.fs, "pipe_file", refused)
    for write in (storage.write_to, lambda _, content: storage.keep(content, *SHELF)):
        with pytest.raises(fault) as told:
            write(target, b"content")
        assert str(told.value) == (
            f"{target} can't be written: refused. The bucket must be there, and the connection "
            "aws_default allowed to write to it; the Airflow Variable artifact_store names both."
        )


def test_a_bucket_that_is_not_there_is_said_to_be_missing(bucket, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", "s3://aws_default@not-there")
    with pytest.raises(
        FileNotFoundError, match=r"bucket does not exist\. The bucket must be there"
    ):
        storage.write_bytes(b"content", "model.bin")


def test_without_its_connection_nothing_goes_to_the_vendor(bucket, monkeypatch, airflow_database):
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", f"s3://nobody@{bucket.name}/catalogue")
    with pytest.raises(AirflowNotFoundException, match="nobody"):
        storage.write_bytes(b"content", "model.bin")
    assert bucket.keys() == []
