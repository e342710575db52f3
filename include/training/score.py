"""Score a table with a model, as a program: what a container is started with.

It takes its paths as arguments and leaves a word about what it did where Airflow's pods look for
one. It knows nothing of Airflow.
"""

import hashlib
import json
from argparse import ArgumentParser
from pathlib import Path

import pandas as pd

from include.training import launch, model_format


def main() -> None:
    """Read, score, write; and say what was written."""
    parser = ArgumentParser(prog="python -m include.training.score")
    for name in ("model", "rows", "to", "tell"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    asked = parser.parse_args()
    rows = pd.read_parquet(asked.rows)
    model = model_format.loads(asked.model.read_bytes())
    scores = pd.DataFrame({"score": model.predict_proba(rows)[:, 1]}, index=rows.index)
    content = scores.to_parquet()
    asked.to.parent.mkdir(parents=True, exist_ok=True)
    launch.write(asked.to, content)
    print(f"{len(rows)} rows scored")
    told = {"rows": len(rows), "sha256": hashlib.sha256(content).hexdigest()}
    asked.tell.write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
