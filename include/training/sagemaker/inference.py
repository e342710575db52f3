"""What a model's container asks: how to load the model, read a request and write an answer."""

from io import StringIO
from pathlib import Path
from typing import Any

import joblib
import numpy as np


def model_fn(folder: str) -> Any:
    """Load once, when the container starts."""
    return joblib.load(Path(folder) / "model.joblib")


def input_fn(body: str, content_type: str) -> Any:
    """One customer per line."""
    if content_type != "text/csv":
        raise ValueError(f"content type {content_type} is not text/csv")
    return np.loadtxt(StringIO(body), delimiter=",", ndmin=2)


def predict_fn(data: Any, model: Any) -> Any:
    """How likely each of them is to leave."""
    return model.predict_proba(data)[:, 1]


def output_fn(prediction: Any, accept: str) -> str:
    """One score per line, with every digit that it has."""
    return "".join(f"{score!r}\n" for score in prediction.tolist())
