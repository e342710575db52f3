"""What answers from a model that AutoML has made: CSV without a header, the columns as trained.

What is told of each row, SAGEMAKER_INFERENCE_OUTPUT says, as in the vendor's containers.
"""

import csv
import io
import os
from pathlib import Path
from typing import Any

from include.local_cloud.automl import MODEL
from include.training import model_format


def model_fn(folder: str) -> Any:
    """The pipeline, from its file."""
    return model_format.loads((Path(folder) / MODEL).read_bytes())


def input_fn(body: str, content_type: str) -> list[list[str]]:
    """The rows, as text."""
    return list(csv.reader(io.StringIO(body)))


def predict_fn(rows: list[list[str]], model: Any) -> list[dict[str, Any]]:
    """All that can be told of each row."""
    import pandas as pd

    table = pd.DataFrame(rows, columns=model.feature_names_in_)
    numeric = next(names for kind, _, names in model[0].transformers_ if kind == "numeric")
    table[numeric] = table[numeric].astype(float)
    labels, scores = model.classes_.tolist(), model.predict_proba(table)
    return [
        {
            "predicted_label": labels[row.argmax()],
            "probability": float(row.max()),
            "probabilities": row.tolist(),
            "labels": labels,
        }
        for row in scores
    ]


def output_fn(told: list[dict[str, Any]], accept: str) -> str:
    """A line for each row, with what was asked for."""
    wanted = os.environ["SAGEMAKER_INFERENCE_OUTPUT"].split(",")
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([row[name] for name in wanted] for row in told)
    return lines.getvalue()
