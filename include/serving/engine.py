"""A model that answers: read from the folder that MLflow keeps, without MLflow.

Where the folder has a `model.onnx`, that is what runs: it starts in a second, and a single row
needs no DataFrame. Otherwise the scikit-learn model is built, from reviewed types only. Both give
what `predict` gives, and the score of the last class where the model has scores.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import yaml

from include.serving import protocol

ONNX = "model.onnx"
SKOPS = "model.skops"

Rows = Sequence[Sequence[Any]]
Answers = tuple[list[Any], list[float] | None]


@dataclass(frozen=True)
class Engine:
    """A loaded model and what it wants to be asked."""

    runs_on: str
    columns: list[protocol.Column]
    made_by: str
    """The version of MLflow that wrote the folder."""
    score: Callable[[Rows], Answers]


def load(source: str) -> Engine:
    """Load from a folder, or from `models:/name/version` in MLflow's registry."""
    with _files(source) as folder:
        return _engine(folder)


def _engine(folder: Path) -> Engine:
    if not (folder / "MLmodel").is_file():
        raise FileNotFoundError(f"{folder} is no model: it has no file MLmodel")
    about = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    if not about.get("signature"):
        raise ValueError(f"{folder} has no signature: nobody could tell a bad request from a good")
    columns = protocol.signature(about["signature"]["inputs"])
    if (folder / ONNX).is_file():
        runs_on, score = "onnx", _by_onnx((folder / ONNX).read_bytes(), columns)
    else:
        runs_on, score = "scikit-learn", _by_skops((folder / SKOPS).read_bytes(), columns)
    return Engine(runs_on, columns, str(about.get("mlflow_version", "")), score)


@contextmanager
def _files(source: str) -> Iterator[Path]:
    """The model's files; a copy that MLflow makes of them goes once they are read."""
    if source.startswith("models:/"):
        import mlflow

        with TemporaryDirectory() as copy:
            yield Path(mlflow.artifacts.download_artifacts(source, dst_path=copy))
    elif source.startswith("file:"):
        yield Path(url2pathname(urlsplit(source).path))
    else:
        yield Path(source)


def _by_onnx(content: bytes, columns: Sequence[protocol.Column]) -> Callable[[Rows], Answers]:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one row is too little to share; versions share the machine
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    kinds = {
        "tensor(int64)": np.int64,
        "tensor(float)": np.float32,
        "tensor(double)": np.float64,
        "tensor(string)": object,
        "tensor(bool)": np.bool_,
    }
    wanted = {each.name: kinds[each.type] for each in session.get_inputs()}
    places = [(at, c.name, wanted[c.name]) for at, c in enumerate(columns) if c.name in wanted]
    outputs = [each.name for each in session.get_outputs()]

    def score(rows: Rows) -> Answers:
        fed: dict[str, Any] = {
            name: np.array([row[at] for row in rows], dtype=kind).reshape(-1, 1)
            for at, name, kind in places
        }
        predicted, *scored = session.run(outputs, fed)
        return predicted.ravel().tolist(), scored[0][:, -1].tolist() if scored else None

    return score


def _by_skops(content: bytes, columns: Sequence[protocol.Column]) -> Callable[[Rows], Answers]:
    import pandas as pd

    from include.training import model_format

    model = model_format.loads(content)
    names = [column.name for column in columns]
    has_scores = hasattr(model, "predict_proba")

    def score(rows: Rows) -> Answers:
        frame = pd.DataFrame(rows, columns=names)
        scores = model.predict_proba(frame)[:, -1].tolist() if has_scores else None
        return model.predict(frame).tolist(), scores

    return score
