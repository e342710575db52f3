"""When a process began, told so that no step of the clock changes it."""

from pathlib import Path

import psutil

BOOT = Path("/proc/sys/kernel/random/boot_id")
STARTED = 19  # the field of /proc/PID/stat, counted from the one behind the name


def birth(pid: int) -> str:
    """What no other process with this number has; raises psutil.NoSuchProcess where there is none.

    Linux counts ticks since this boot. The time of the day that psutil makes of them moves when
    somebody sets the clock.
    """
    if not BOOT.exists():
        return str(psutil.Process(pid).create_time())
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
    ticks = stat.rpartition(b")")[2].split()[STARTED].decode()
    return f"{BOOT.read_text().strip()} {ticks}"
