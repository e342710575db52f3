"""Fitted models as bytes that run no code when they are read, equal for equal trainings.

A pickle can run anything on the machine that opens it, so models are kept in the skops format: a
zip of arrays and a schema, in which only known types are built again. Two things are added to it
here. *We* say which types may be built (a file that names its own is no protection), and the
object addresses and clock times that skops writes are replaced by counters, so that training again
on the same data gives the same digest.
"""

import json
import warnings
from io import BytesIO
from pathlib import PurePath
from types import ModuleType
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

# Reviewed: they hold nothing but numbers (compiled parts of scikit-learn's own trees), or the name
# of a kind of number (what an imputer was fitted on).
TRUSTED_TYPES = [
    "numpy.dtype",
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
]
SCHEMA = "schema.json"


class UntrustedModel(ValueError):
    """The bytes are no model, or one that asks for types that nobody has reviewed."""


def dumps(model: Any) -> bytes:
    """Serialise a fitted scikit-learn object."""
    return _with_counters(_skops().dumps(model))


def loads(content: bytes) -> Any:
    """Build the object again, unless it contains a type that is not on the reviewed list."""
    skops = _skops()
    try:
        unknown = set(skops.get_untrusted_types(data=content)) - set(TRUSTED_TYPES)
    except (BadZipFile, KeyError, ValueError) as error:
        raise UntrustedModel(f"these {len(content)} bytes are not a skops file: {error}") from error
    if unknown:
        raise UntrustedModel(
            f"the model asks for types that are not trusted: {', '.join(sorted(unknown))}. Review "
            f"them, then add them to TRUSTED_TYPES in {__name__}."
        )
    return skops.loads(content, trusted=TRUSTED_TYPES)


def _skops() -> ModuleType:
    with warnings.catch_warnings():
        # Its SciPy shim asks every loaded module for attributes, which sets off Airflow's own
        # deprecation notices; none of them is about us.
        warnings.simplefilter("ignore")
        import skops.io
    module: ModuleType = skops.io
    return module


def _with_counters(content: bytes) -> bytes:
    with ZipFile(BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(files.pop(SCHEMA))
    numbers: dict[Any, int] = {}
    names: dict[str, str] = {}
    _renumber(schema, numbers, names)

    buffer = BytesIO()
    with ZipFile(buffer, "w") as archive:
        for old, new in names.items():
            archive.writestr(ZipInfo(new), files[old])
        archive.writestr(ZipInfo(SCHEMA), json.dumps(schema))
    return buffer.getvalue()


def _renumber(node: Any, numbers: dict[Any, int], names: dict[str, str]) -> None:
    if isinstance(node, dict):
        if "__id__" in node:
            # Whether two equal strings are one object is chance: plain values get a number each.
            identity = (len(numbers),) if node.get("is_json") else node["__id__"]
            node["__id__"] = numbers.setdefault(identity, len(numbers) + 1)
        if node.get("file") is not None:
            old = node["file"]
            node["file"] = names.setdefault(old, f"{len(names) + 1}{PurePath(old).suffix}")
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, dict | list):
            _renumber(child, numbers, names)
