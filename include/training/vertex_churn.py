"""A custom training on Vertex AI: one file, which Google packs, ships and runs in its container.

It knows nothing of this project. Data comes from Cloud Storage, with a column that says which rows
are for training and which for the test, and the model goes to where AIP_MODEL_DIR says, as ONNX: a
format that another container with other versions can serve, and that runs no code when it is read.
"""

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

LABEL = "churned"
SPLIT = "split"  # TRAIN, VALIDATE or TEST


def main() -> None:
    """Train, measure on the test rows, and keep both beside each other."""
    from sklearn.metrics import roc_auc_score

    asked = arguments()
    rows = table(asked.data)
    features = [each for each in rows.columns if each not in (LABEL, SPLIT)]
    train, test = rows[rows[SPLIT] != "TEST"], rows[rows[SPLIT] == "TEST"]
    if wrong := sorted(set(rows[LABEL].tolist()) - {0, 1}):
        raise ValueError(f"{LABEL} must be 0 or 1, and is also {wrong}")
    model = classifier(train[features], asked.trees).fit(train[features], train[LABEL])
    scores = model.predict_proba(test[features])[:, 1]
    auc = float(roc_auc_score(test[LABEL], scores))
    keep("model.onnx", exported(model, train[features]))
    keep("metrics.json", json.dumps({"auRoc": auc, "rows": len(test)}).encode())
    print(f"an AUC of {auc:.4f} on {len(test)} rows")


def arguments() -> argparse.Namespace:
    """What the job is told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="gs:// address of a CSV file")
    parser.add_argument("--trees", type=int, required=True)
    return parser.parse_args()


def classifier(rows: "pd.DataFrame", trees: int) -> Any:
    """Boosted trees on numbers as they are and on categories spread out."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    text = [name for name in rows.columns if rows[name].dtype.kind not in "if"]
    spread = ColumnTransformer(
        [("spread", OneHotEncoder(handle_unknown="ignore", sparse_output=False), text)],
        remainder="passthrough",
    )
    return make_pipeline(
        spread, GradientBoostingClassifier(n_estimators=trees, max_depth=2, random_state=97)
    )


def exported(model: Any, rows: "pd.DataFrame") -> bytes:
    """The fitted pipeline as ONNX, with an input for each column."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    inputs = [
        (name, (FloatTensorType if rows[name].dtype.kind in "if" else StringTensorType)([None, 1]))
        for name in rows.columns
    ]
    options = {id(model): {"zipmap": False}}
    content: bytes = to_onnx(
        model, initial_types=inputs, options=options, target_opset=21
    ).SerializeToString()
    return content


def table(address: str) -> "pd.DataFrame":
    """A CSV file from Cloud Storage."""
    import io

    import pandas as pd
    from google.cloud import storage

    return pd.read_csv(
        io.BytesIO(storage.Blob.from_uri(address, storage.Client()).download_as_bytes())
    )


def keep(name: str, content: bytes) -> None:
    """Put a file where Vertex AI looks for the model."""
    from google.cloud import storage

    address = f"{os.environ['AIP_MODEL_DIR'].rstrip('/')}/{name}"
    storage.Blob.from_uri(address, storage.Client()).upload_from_string(content)


if __name__ == "__main__":
    main()
