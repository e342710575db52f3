"""A process is known by its birth, whatever its name is and whatever the clock says."""

import os
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from include import births

BOOT = Path("/proc/sys/kernel/random/boot_id")
pytestmark = pytest.mark.skipif(not BOOT.exists(), reason="only Linux counts ticks")


@pytest.fixture
def named(tmp_path):
    """A process with a name that would spoil a line of text."""
    program = os.fsencode(tmp_path) + b"/) \xff 1 2"
    shutil.copy(shutil.which("sleep"), program)
    process = subprocess.Popen([program, "60"])
    yield process
    process.kill()
    process.wait()


def test_a_birth_is_the_boot_and_the_ticks_since_then(named):
    hertz = os.sysconf("SC_CLK_TCK")
    for pid in (os.getpid(), named.pid):
        boot, ticks = births.birth(pid).split(" ")
        assert boot == BOOT.read_text().strip()
        began = psutil.Process(pid).create_time() - psutil.boot_time()
        assert int(ticks) / hertz == pytest.approx(began, abs=0.02)
    assert births.birth(named.pid) == births.birth(named.pid)


def test_a_process_that_is_not_there_has_no_birth(named):
    named.kill()
    named.wait()
    with pytest.raises(psutil.NoSuchProcess) as absent:
        births.birth(named.pid)
    assert absent.value.pid == named.pid


def test_a_process_that_ends_while_it_is_looked_at_has_no_birth(monkeypatch):
    def ended(self):
        raise ProcessLookupError

    monkeypatch.setattr(Path, "read_bytes", ended)
    with pytest.raises(psutil.NoSuchProcess):
        births.birth(os.getpid())


def test_where_there_are_no_ticks_the_time_of_the_day_has_to_do(named, monkeypatch, tmp_path):
    monkeypatch.setattr(births, "BOOT", tmp_path / "boot_id")
    assert births.birth(named.pid) == str(psutil.Process(named.pid).create_time())
