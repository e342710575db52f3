"""Training job: trees on one channel, measured on another, saved with the script that serves them.

By SageMaker's contract: settings come as arguments, data and the model's place as variables, and a
metric is what a regular expression finds in the output.
"""

import argparse
import os
import shutil
from pathlib import Path

import joblib
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

SEED = 97


def main() -> None:
    """Learn, measure, save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning_rate", type=float, required=True)
    parser.add_argument("--max_leaf_nodes", type=int, required=True)
    parser.add_argument("--trees", type=int, default=60)
    asked = parser.parse_args()
    train, validation = rows("train"), rows("validation")
    model = HistGradientBoostingClassifier(
        learning_rate=asked.learning_rate,
        max_leaf_nodes=asked.max_leaf_nodes,
        max_iter=asked.trees,
        random_state=SEED,
    )
    model.fit(train[:, 1:], train[:, 0])
    for name, part in (("train", train), ("validation", validation)):
        auc = roc_auc_score(part[:, 0], model.predict_proba(part[:, 1:])[:, 1])
        print(f"{name}-auc={auc:.6f};")
    folder = Path(os.environ["SM_MODEL_DIR"])
    joblib.dump(model, folder / "model.joblib")
    (folder / "code").mkdir()
    shutil.copy(Path(__file__).with_name("inference.py"), folder / "code")


def rows(channel: str) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """All files of a channel, as one table."""
    files = sorted(Path(os.environ[f"SM_CHANNEL_{channel.upper()}"]).glob("*.csv"))
    return np.vstack([np.loadtxt(file, delimiter=",") for file in files])


if __name__ == "__main__":
    main()
