"""Files with secrets: for their owner alone from the first byte, and whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write(file: Path, content: Any) -> None:
    """Put a document as JSON there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600, exist_ok=False)
    part.write_bytes(json.dumps(content).encode())
    part.replace(file)
