"""An artifact is there whole or not at all, on the disk as in S3, and a changed byte is refused."""

import os
from pathlib import Path

import pandas as pd
import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.exceptions import AirflowNotFoundException

from include import runs, storage

PLACE = runs.Place("a_dag", "20260104T000000", "train", -1, 1, "")


class Disk:
    """The folder that artifacts are in, as a bucket is looked at."""

    def __init__(self, root):
        """Everything below this folder."""
        self.root = root

    def put(self, key, content):
        """Write past the code under test."""
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_bytes(content)

    def keys(self):
        """Everything in it, unfinished files too."""
        found = [path for path in self.root.rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(self.root)) for path in found)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    store = tmp_path / "a store" / "catalogue"
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", store.as_uri())
    return Disk(store.parent)


@pytest.fixture(params=["disk", "bucket"])
def behind(request):
    """What is really there, on either kind of store."""
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Stand in for a running task."""

    def stand(**changes):
        place = runs.Place(**{**vars(PLACE), **changes})
        monkeypatch.setattr(runs, "here", lambda: place)

    stand()
    return stand


def test_what_is_written_is_read_again_and_lies_under_the_name_of_its_run(behind, here):
    reference = storage.write_bytes(b"content", "model.bin")
    assert storage.read_bytes(reference) == b"content"
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
        f"{folder}/3/facts.json",
        f"{folder}/3/rows.parquet",
        f"{folder}/model.bin",
    ]


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
    with pytest.raises(storage.DamagedArtifact) as refused:
        storage.read_bytes(reference)
    told = str(refused.value)
    assert reference.partition("#")[0] in told
    assert f"expected {reference.partition('#sha256=')[2][:12]}" in told
    with pytest.raises(storage.DamagedArtifact):
        storage.local_path(reference)


def test_what_is_gone_is_named_with_the_task_to_clear(behind):
    reference = storage.write_bytes(b"content", "model.bin")
    storage.remove(ObjectStoragePath(reference.partition("#")[0]))
    storage.remove(ObjectStoragePath(reference.partition("#")[0]))
    assert behind.keys() == []
    with pytest.raises(FileNotFoundError, match=r"model\.bin is gone\..* clear the task"):
        storage.read_bytes(reference)


def test_what_is_kept_is_written_once_and_never_over(behind):
    reference = storage.keep(b"content", "sets/1", "rows.parquet")
    assert storage.keep(b"content", "sets/1", "rows.parquet") == reference
    with pytest.raises(storage.DamagedArtifact, match="is kept already, with other content"):
        storage.keep(b"other", "sets/1", "rows.parquet")
    assert storage.read_bytes(reference) == b"content"


def test_a_folder_lists_what_is_there_now_whoever_put_it_there(behind):
    folder = storage.store() / "shelf"
    assert storage.names(folder) == []
    storage.write_to(folder / "one", b"1")
    assert storage.names(folder) == ["one"]
    behind.put("catalogue/shelf/two", b"2")
    assert storage.names(folder) == ["one", "two"]


def test_a_write_to_the_disk_that_broke_off_leaves_what_was_there(disk, here, monkeypatch):
    before = storage.write_bytes(b"before", "model.bin")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            storage.write_bytes(b"after" * 1000, "model.bin")
    assert storage.read_bytes(before) == b"before"
    assert storage.names(storage.store() / "a_dag" / PLACE.key / "train") == ["model.bin"]
    assert len(disk.keys()) == 2
    here(try_number=2)
    after = storage.write_bytes(b"after", "model.bin")
    assert storage.read_bytes(after) == b"after"
    assert len(disk.keys()) == 1


def test_an_upload_to_s3_that_is_not_complete_is_not_there(bucket):
    before = storage.write_bytes(b"before", "model.bin")
    (key,) = bucket.keys()
    where = {"Bucket": bucket.name, "Key": key}
    begun = bucket.client.create_multipart_upload(**where)["UploadId"]
    bucket.client.upload_part(**where, UploadId=begun, PartNumber=1, Body=b"half of a model")
    assert storage.read_bytes(before) == b"before"
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key=f"{key}.new")
    assert storage.names(storage.store() / "a_dag" / PLACE.key / "train") == ["model.bin"]


def test_a_program_that_only_knows_paths_gets_a_verified_file(behind, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "home"))
    path = storage.local_path(storage.write_bytes(b"content", "model.bin"))
    assert path.read_bytes() == b"content"
    assert isinstance(path, Path)


def test_a_bucket_that_is_not_there_is_named_with_the_setting(bucket, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", "s3://aws_default@not-there")
    with pytest.raises(FileNotFoundError) as refused:
        storage.write_bytes(b"content", "model.bin")
    told = str(refused.value)
    assert "s3://aws_default@not-there/a_dag" in told
    assert "the connection aws_default" in told
    assert "Variable artifact_store" in told


def test_without_its_connection_nothing_goes_to_the_vendor(bucket, monkeypatch, airflow_database):
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", f"s3://nobody@{bucket.name}/catalogue")
    with pytest.raises(AirflowNotFoundException, match="nobody"):
        storage.write_bytes(b"content", "model.bin")
    assert bucket.keys() == []
