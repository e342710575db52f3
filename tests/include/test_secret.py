"""A file with secrets is its owner's alone at every moment, and whole or not there."""

import json
import os
import stat
from pathlib import Path

import pytest

from include.tools import secret


def mode(file):
    return stat.S_IMODE(file.stat().st_mode)


def test_a_document_is_kept_for_its_owner_alone(tmp_path):
    file = tmp_path / "not" / "there" / "token.json"
    for content in ({"token": "é"}, ["another"]):
        secret.write(file, content)
        assert json.loads(file.read_bytes()) == content
        assert mode(file) == 0o600
        assert list(file.parent.iterdir()) == [file]


def test_nobody_else_can_read_it_while_it_is_written(tmp_path, monkeypatch):
    write_bytes, seen = Path.write_bytes, []

    def noted(self, content):
        seen.append((self.name, mode(self)))
        return write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", noted)
    secret.write(tmp_path / "token.json", "a secret")
    assert seen == [(f"token.json.{os.getpid()}.part", 0o600)]


def test_what_a_killed_process_with_this_number_has_left_is_replaced(tmp_path):
    left = tmp_path / f"token.json.{os.getpid()}.part"
    left.write_text("half a sec")
    left.chmod(0o644)
    secret.write(tmp_path / "token.json", "a secret")
    assert mode(tmp_path / "token.json") == 0o600
    assert not left.exists()


def test_a_file_that_somebody_puts_there_meanwhile_gets_no_secret(tmp_path, monkeypatch):
    put = tmp_path / f"token.json.{os.getpid()}.part"
    put.write_text("")
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok: None)
    with pytest.raises(FileExistsError):
        secret.write(tmp_path / "token.json", "a secret")
    assert put.read_text() == ""
