"""A command job of Azure ML: train on the customers it is given, log, and leave a model.

It knows nothing of Airflow: paths and settings come by the command line, MLflow's address and the
run by the environment that Azure ML gives to each job, and what lies in `outputs/` is kept.
"""

import argparse


def main() -> None:
    """Train on more and more of the rows, so that the curve tells whether more data would help."""
    import mlflow
    import pandas as pd
    import sklearn
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    estimators = {
        "logistic": LogisticRegression(max_iter=1000),
        "boosting": HistGradientBoostingClassifier(
            max_iter=60, learning_rate=0.08, max_leaf_nodes=8, random_state=97
        ),
    }
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", required=True)
    parser.add_argument("--holdout", required=True)
    parser.add_argument("--label", required=True)
    parser.add_argument("--estimator", choices=estimators, required=True)
    asked = parser.parse_args()

    train, holdout = pd.read_parquet(asked.train), pd.read_parquet(asked.holdout)
    inputs, labels = train.drop(columns=asked.label), train[asked.label]
    words = inputs.select_dtypes(exclude="number").columns.tolist()
    numbers = inputs.columns.difference(words).tolist()
    if empty := [name for name in numbers if inputs[name].isna().any()]:
        raise ValueError(f"{', '.join(empty)} has empty cells in {asked.train}: mend the source")
    model = make_pipeline(
        make_column_transformer(
            (StandardScaler(), numbers),
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), words),
        ),
        estimators[asked.estimator],
    )
    with mlflow.start_run():
        mlflow.log_params({"estimator": asked.estimator, "rows": len(train)})
        for percent in (10, 30, 100):
            part = slice(len(train) * percent // 100)
            model.fit(inputs[part], labels[part])
            scores = model.predict_proba(holdout.drop(columns=asked.label))[:, 1]
            mlflow.log_metric("auc", roc_auc_score(holdout[asked.label], scores), step=percent)
    mlflow.sklearn.save_model(
        model,
        "outputs/model",
        pyfunc_predict_fn="predict_proba",
        serialization_format="cloudpickle",
        pip_requirements=[
            f"mlflow-skinny=={mlflow.__version__}",  # what answers unpickles what was trained here
            f"scikit-learn=={sklearn.__version__}",
            f"pandas=={pd.__version__}",
        ],
    )


if __name__ == "__main__":
    main()
