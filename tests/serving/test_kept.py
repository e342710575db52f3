"""A document on disk is the old one or the new one, also after a crash or on a full disk."""

import errno
import os
from pathlib import Path

import pytest

from include.serving import kept
from include.serving.kept import NotKept


def test_what_was_written_is_read(tmp_path):
    file = tmp_path / "not" / "there" / "document.json"
    assert kept.read(file, {"nothing": "yet"}) == {"nothing": "yet"}
    for document in ({"a": ["é", None]}, {}):
        kept.write(file, document)
        assert kept.read(file, "empty") == document
    assert list(file.parent.iterdir()) == [file]


def test_a_person_can_read_the_file(tmp_path):
    file = tmp_path / "document.json"
    kept.write(file, {"a": [1]})
    assert file.read_text() == '{\n "a": [\n  1\n ]\n}'


def test_the_new_file_is_whole_on_disk_before_it_takes_the_place_of_the_old_one(
    tmp_path, monkeypatch
):
    file, done = tmp_path / "document.json", []
    kept.write(file, "old")
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(number):
        done.append(("synced", file.with_suffix(".part").read_bytes()))
        fsync(number)

    def noted_replace(self, target):
        done.append(("replaced", self.name, target.read_bytes()))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    kept.write(file, "new")
    assert done == [("synced", b'"new"'), ("replaced", "document.part", b'"old"')]


def test_on_a_full_disk_the_old_document_stays_and_nothing_else(tmp_path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "document.json"
    kept.write(file, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotKept) as refused:
        kept.write(file, "new")
    assert str(refused.value) == f"{file} can't be written: No space left on device"
    assert kept.read(file, None) == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_not_there_and_can_not_be_made_is_named(tmp_path):
    (tmp_path / "folder").symlink_to(tmp_path / "unmounted" / "disk")
    file = tmp_path / "folder" / "document.json"
    with pytest.raises(NotKept) as refused:
        kept.write(file, "new")
    assert str(refused.value) == f"{file} can't be written: File exists"


def test_what_is_no_document_leaves_the_old_one(tmp_path):
    file = tmp_path / "document.json"
    kept.write(file, "old")
    with pytest.raises(TypeError):
        kept.write(file, {"a": object()})
    assert kept.read(file, None) == "old"
    assert list(tmp_path.iterdir()) == [file]
