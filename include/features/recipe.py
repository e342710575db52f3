"""What makes a feature set this one and no other: the code, the data and the settings behind it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

LIBRARIES = ("numpy", "pandas", "pyarrow", "scikit-learn", "skops")


def recipe(
    code: Sequence[str | Path], data: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that the features depend on; a changed comment counts as well, to be sure."""
    return {
        "code": {Path(file).name: _digest(Path(file).read_bytes()) for file in code},
        "libraries": {library: installed(library) for library in LIBRARIES},
        "data": dict(data),
        "settings": dict(settings),
    }


def version(recipe: Mapping[str, Any]) -> str:
    """The name of whatever comes of this recipe."""
    return _digest(json.dumps(recipe, sort_keys=True).encode())[:12]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
