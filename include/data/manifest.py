"""What a version of a data set is: a document that names every file by its content.

A version is called after the digest of what the document says of the data. The same data made in
the same way therefore has the same name, whenever it is made. The parent is written beside it and
is no part of the name: where a version came from does not change what it is.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


class DamagedManifest(ValueError):
    """A manifest no longer says what it said: trying again won't mend it."""


def write(content: dict[str, Any], parent: dict[str, Any] | None) -> bytes:
    """Describe a version that follows another, or is the first."""
    described = {
        "version": version(content),
        "parent": parent["version"] if parent else None,
        "generation": parent["generation"] + 1 if parent else 1,
        "content": content,
    }
    return json.dumps(described, indent=2, sort_keys=True).encode()


def read(document: bytes, address: str) -> dict[str, Any]:
    """Take a manifest only if it is what its name promises."""
    try:
        manifest: dict[str, Any] = json.loads(document)
        named, actual = manifest["version"], version(manifest["content"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedManifest(f"{address} is no manifest: {error!r}") from error
    if named != actual:
        raise DamagedManifest(
            f"{address} was changed after it was written: it is called {named}, and its content "
            f"is that of version {actual}"
        )
    return manifest


def version(content: dict[str, Any]) -> str:
    """Call equal content by equal names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def newest(known: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The end of the longest line of versions; of two that branched off together, one for good."""
    return max(known, key=lambda each: (each["generation"], each["version"]), default=None)
