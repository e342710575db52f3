"""AutoML for tables, as small as it can be and still choose: `python -m … <folder>`.

It reads an order and data there, tries three kinds of models, keeps the one with the best AUC on
the validation rows, and measures it on the test rows, which chose nothing.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.training import model_format

if TYPE_CHECKING:
    import pandas as pd

SEED = 97
SPLITS = ("TRAIN", "VALIDATE", "TEST")
MODEL, METRICS, CANDIDATES = "model.skops", "metrics.json", "candidates.json"


def train(folder: Path) -> None:
    """Choose on the validation rows, learn from all but the test rows, measure on those."""
    import pandas as pd
    from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    target, columns = order["target"], order["columns"]
    rows = pd.concat([pd.read_csv(each) for each in sorted(folder.glob("data-*.csv"))])
    columns = columns or {
        name: "numeric" if pd.api.types.is_numeric_dtype(rows[name]) else "categorical"
        for name in rows.columns.drop(target, errors="ignore")
    }
    if missing := {target, *columns} - set(rows.columns):
        raise ValueError(f"the data set has no column {', '.join(sorted(missing))}")
    rows = rows.dropna(subset=[target])
    rows[target] = rows[target].astype(str)
    if rows[target].nunique() != 2:
        raise ValueError(f"{target} has {rows[target].nunique()} classes: only two can be learnt")
    split = _split(rows, order)
    learnt, judged, unseen = (rows[split == part] for part in SPLITS)
    positive = sorted(rows[target].unique())[1]
    models, reached = _candidates(columns), {}
    for name, model in models.items():
        model.fit(learnt[list(columns)], learnt[target])
        scores = _scores(model, judged, columns)
        reached[name] = float(roc_auc_score(judged[target] == positive, scores))
        print(f"{name}: an AUC of {reached[name]:.4f} on the validation rows")
    best = models[max(reached, key=reached.__getitem__)]
    known = pd.concat([learnt, judged])
    best.fit(known[list(columns)], known[target])
    truth, scores = unseen[target] == positive, _scores(best, unseen, columns)
    metrics = {
        "auRoc": float(roc_auc_score(truth, scores)),
        "auPrc": float(average_precision_score(truth, scores)),
        "logLoss": float(log_loss(truth, scores)),
    }
    (folder / METRICS).write_text(json.dumps(metrics), encoding="utf-8")
    (folder / CANDIDATES).write_text(json.dumps(reached), encoding="utf-8")
    (folder / MODEL).write_bytes(model_format.dumps(best))


def _split(rows: "pd.DataFrame", order: dict[str, Any]) -> Any:
    """Which part each row belongs to: as a column says, or as chance does."""
    import numpy as np

    if order["split"]:
        return rows[order["split"]].to_numpy()
    judged, unseen = order["fractions"]
    # Not the numbers that the data may have been made with.
    return np.random.default_rng([SEED, len(rows)]).choice(
        SPLITS, size=len(rows), p=[1 - judged - unseen, judged, unseen]
    )


def _candidates(columns: dict[str, str]) -> dict[str, Any]:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numeric = [name for name, kind in columns.items() if kind == "numeric"]
    spread = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    prepared = ColumnTransformer([
        ("numeric", StandardScaler(), numeric),
        ("categorical", spread, [name for name in columns if name not in numeric]),
    ])
    kinds = [
        LogisticRegression(max_iter=1000),
        RandomForestClassifier(n_estimators=60, min_samples_leaf=5, random_state=SEED),
        HistGradientBoostingClassifier(max_iter=60, learning_rate=0.05, random_state=SEED),
    ]
    return {type(kind).__name__: make_pipeline(prepared, kind) for kind in kinds}


def _scores(model: Any, rows: "pd.DataFrame", columns: dict[str, str]) -> Any:
    return model.predict_proba(rows[list(columns)])[:, 1]


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # nobody reads them in here; a failure is told by an exception
    train(Path(sys.argv[1]))
