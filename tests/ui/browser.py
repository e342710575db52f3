"""Headless Chromium that reaches this machine and nothing else."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from include.tools import environment

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's browser: playwright would download one of its own."""
    if PROGRAM is None:
        raise RuntimeError(f"none of {', '.join(PROGRAMS)} is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=PROGRAM,
            chromium_sandbox=os.geteuid() != 0,  # root has none
            args=[f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {environment.HOST}"],
        )
        yield browser
        browser.close()
