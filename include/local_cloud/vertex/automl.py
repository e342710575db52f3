"""Answers of a model that AutoML has made: `python -m … <folder>`."""

import sys
import warnings
from pathlib import Path
from typing import Any

from include.local_cloud.automl import MODEL
from include.training import model_format, vertex_serving


def serve(folder: Path) -> None:
    """Answer as AutoML's models do."""
    import pandas as pd

    model = model_format.loads((folder / MODEL).read_bytes())
    parts = model[0].transformers_
    numeric = next(columns for name, _, columns in parts if name == "numeric")
    wanted = [column for name, _, columns in parts if name != "remainder" for column in columns]

    def answers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            if missing := [column for column in wanted if column not in row]:
                raise KeyError(f"Missing struct property: {missing[0]}.")
        table = pd.DataFrame(rows)
        table[numeric] = table[numeric].astype(float)
        classes = model.classes_.tolist()
        return [
            {"classes": classes, "scores": scores}
            for scores in model.predict_proba(table[wanted]).tolist()
        ]

    vertex_serving.serve(answers)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # nobody reads them in here; a failure is told by an exception
    serve(Path(sys.argv[1]))
