"""From a fitted model to a version that can be served, and what became of it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include import runs, storage, tracking
from include.data import quality, splits
from include.serving import engine, onnx_export
from include.serving.client import Gateway

if TYPE_CHECKING:
    import pandas as pd


def parted(customers: "pd.DataFrame", label: str, share: float, seed: int) -> dict[str, str]:
    """Keep customers to learn from apart from the holdout, which judges and plays the callers."""
    known = quality.expectations().ExpectColumnValuesToBeInSet
    agreed = [known(column=label, value_set=[0, 1])]
    quality.check(customers, agreed, "customer_id", source="customers")
    train, holdout = splits.stratified(customers, label, share, seed)
    return {
        "train": storage.write_frame(train, "train.parquet"),
        "holdout": storage.write_frame(holdout, "holdout.parquet"),
    }


def registered(model: Any, example: "pd.DataFrame", metrics: dict[str, float]) -> str:
    """Give a model a version number, with an export beside it that answers faster.

    The export is asked the same as the model before it is kept: it is refused if it answers
    differently.
    """
    content = onnx_export.exported(model, example)
    with tracking.run() as run:
        logged = tracking.log_model(model, example)
        client = tracking.client()
        for name, value in metrics.items():
            client.log_metric(run.info.run_id, name, value)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / engine.ONNX
            file.write_bytes(content)
            client.log_model_artifact(logged.model_id, str(file))
        return tracking.register_logged(logged)


def trained(name: str, train: "pd.DataFrame", holdout: "pd.DataFrame", label: str) -> str:
    """Fit the customers' model that pipelines hand around, and give it a version number."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline

    from include.features.churn import preprocessor

    model = make_pipeline(preprocessor(), LogisticRegression(max_iter=1000))
    model.fit(train, train[label])
    auc = roc_auc_score(holdout[label], model.predict_proba(holdout)[:, 1])
    return registered(model, holdout.drop(columns=label), {f"{name}_auc": float(auc)})


def before() -> str | None:
    """The version that callers had when this run began, if they had any.

    A run that has released already and does it again must not take its own release for it.
    """
    champion = tracking.champion(runs.here().dag_id)
    if champion is None:
        return None
    with tracking.run() as this_run:
        ours = champion.run_id == this_run.info.run_id
    return champion.replaces if ours and champion.replaces else champion.number


def current(first: Callable[[], str]) -> str:
    """The version that callers had when this run began; where there was none, they get a first."""
    number = before()
    if number is None:
        number = first()
        tracking.promote(number)
    return number


def alone(gateway: Gateway, name: str, number: str, sticky: str | None = None) -> None:
    """Have one version answer everybody, and stop whatever else was left running."""
    if number not in gateway.versions(name):
        gateway.start_version(name, number, source(name, number))
    gateway.set_route(name, name, {number: 1.0}, sticky=sticky)
    for left in gateway.versions(name).keys() - {number}:
        gateway.stop_version(name, left)


def begin(gateway: Gateway, name: str, current: str | None, coming: str) -> list[str]:
    """Have the current version answer, unless the coming one does; returns what runs then.

    What an interrupted release has left behind is stopped: nobody has said that it is good.
    """
    if current is not None and current not in gateway.versions(name):
        gateway.start_version(name, current, source(name, current))
    route = gateway.route(name)
    further = route is not None and coming in route["weights"]  # this task is tried again
    if not further and current is not None:
        gateway.set_route(name, name, {current: 1.0})
    elif not further:
        gateway.remove_route(name)
    for left in gateway.versions(name).keys() - {current, coming}:
        gateway.stop_version(name, left)
    return sorted(gateway.versions(name))


def note(outcome: str) -> str:
    """Write where the version comes from what became of it."""
    with tracking.run() as this_run:
        tracking.client().set_tag(this_run.info.run_id, "release", outcome)
    return outcome


def source(name: str, number: str) -> str:
    """Where a scorer gets a version from: its folder if it lies on this machine, else by name."""
    location: str = tracking.client().get_model_version_download_uri(name, number)
    return location if location.startswith("file:") else f"models:/{name}/{number}"
