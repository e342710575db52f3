"""A pipeline for Kubeflow: train on rows that somebody else prepared, and measure on others.

`python -m include.training.churn_pipeline pipeline.yaml` compiles it, where the SDK is. A step runs
in a container, to which the SDK sends the step's source: what a step needs, it imports itself.
"""

import sys

from kfp import compiler, dsl

# The packages of envs/kubeflow.txt, and this repository.
IMAGE = "registry.example.com/ml-catalogue-kubeflow:latest"


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def train(
    rows: dsl.Input[dsl.Dataset],
    label: str,
    trees: int,
    mlflow_run: str,
    model: dsl.Output[dsl.Model],
) -> None:
    """Fit trees to the rows; the model says which MLflow run it belongs to."""
    from pathlib import Path

    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline

    from include.features.churn import preprocessor
    from include.training import model_format

    known = pd.read_parquet(rows.path)
    careful = {"learning_rate": 0.05, "max_leaf_nodes": 8, "random_state": 97}
    classifier = HistGradientBoostingClassifier(max_iter=trees, **careful)
    fitted = make_pipeline(preprocessor(), classifier).fit(known, known[label])
    Path(model.path).write_bytes(model_format.dumps(fitted))
    model.metadata["mlflow_run"] = mlflow_run


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def evaluate(
    rows: dsl.Input[dsl.Dataset],
    label: str,
    model: dsl.Input[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Measure on unseen rows: as metrics for Kubeflow's own pages, as a file for everybody else."""
    import json
    from pathlib import Path

    import pandas as pd

    from include.evaluation import binary
    from include.training import model_format

    unseen = pd.read_parquet(rows.path)
    fitted = model_format.loads(Path(model.path).read_bytes())
    found = binary.report(unseen[label], fitted.predict_proba(unseen)[:, 1])
    for name, value in found.items():
        metrics.log_metric(name, value)
    Path(report.path).write_text(json.dumps(found, sort_keys=True), encoding="utf-8")


@dsl.pipeline(name="churn")  # type: ignore[untyped-decorator]
def churn(train_rows: str, holdout_rows: str, label: str, trees: int, mlflow_run: str) -> None:
    """Where the rows are, and whose run this is; nothing else is left open."""
    known = dsl.importer(artifact_uri=train_rows, artifact_class=dsl.Dataset)
    unseen = dsl.importer(artifact_uri=holdout_rows, artifact_class=dsl.Dataset)
    trained = train(rows=known.output, label=label, trees=trees, mlflow_run=mlflow_run)
    evaluate(rows=unseen.output, label=label, model=trained.outputs["model"])


if __name__ == "__main__":
    compiler.Compiler().compile(churn, sys.argv[1])
