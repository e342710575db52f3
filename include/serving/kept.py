"""What a gateway must not forget: written whole or not at all, before anything depends on it."""

import json
import os
from pathlib import Path
from typing import Any


class NotKept(OSError):
    """The disk did not take a change, so nothing has changed."""


def write(file: Path, document: Any) -> None:
    """Replace a document on disk; readers and a restart see the old one or the new one."""
    part, content = file.with_suffix(".part"), json.dumps(document, indent=1).encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise NotKept(f"{file} can't be written: {error.strerror}") from error


def read(file: Path, empty: Any) -> Any:
    """The document on disk, or an empty one where there is none."""
    return json.loads(file.read_bytes()) if file.exists() else empty
