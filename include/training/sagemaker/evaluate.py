"""Processing job: what a trained model is worth to customers that it has never met.

Arguments: <folder with model.tar.gz> <folder with the holdout> <folder for the results>
"""

import json
import sys
import tarfile
from pathlib import Path

import joblib
import numpy as np
from sklearn.metrics import roc_auc_score


def main(model: Path, holdout: Path, target: Path) -> None:
    """Open the model without the container around it, and let it score the holdout."""
    with tarfile.open(model / "model.tar.gz") as archive:
        archive.extractall(model, filter="data")
    rows = np.loadtxt(holdout / "holdout.csv", delimiter=",")
    scores = joblib.load(model / "model.joblib").predict_proba(rows[:, 1:])[:, 1]
    auc = float(roc_auc_score(rows[:, 0], scores))
    (target / "evaluation.json").write_text(json.dumps({"auc": auc, "customers": len(rows)}))
    (target / "scores.csv").write_text("".join(f"{score!r}\n" for score in scores.tolist()))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
