"""What a run leaves behind for others to see, and where two runs differ in it.

Numbers of versions rise from run to run. So a version is known here by the digest of its model.
"""

from collections.abc import Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from tests import outcomes
from tests.chaos.cases import METRICS
from tests.chaos.installation import Installation
from tests.outcomes import Ended
from tests.prove.cases import CASES

Outcome = Mapping[str, Mapping[str, Any]]
"""By what is looked at: states, artifacts, files, models, aliases, routes, MLflow's run."""


def of(installation: Installation, dag_id: str, run_id: str, when: datetime) -> Outcome:
    """Look at all of it; raises ConnectionError where a server that must be asked is away."""
    from mlflow.exceptions import MlflowException

    try:
        return _seen(installation, dag_id, run_id, when)
    except MlflowException as error:
        raise ConnectionError(str(error)) from error


def _seen(installation: Installation, dag_id: str, run_id: str, when: datetime) -> Outcome:
    run = outcomes.ended(installation.home, dag_id, run_id, when)
    without = CASES[dag_id].once | CASES[dag_id].varies
    known = digests(installation.registry, dag_id)
    return {
        "states": outcomes.states(run, without),
        "artifacts": outcomes.artifacts(run, without),
        "files": dict.fromkeys(outcomes.files(installation.home, dag_id, run.key, without), True),
        "models": {
            "registered": outcomes.versions(installation.registry, dag_id, run.key) if known else []
        },
        "aliases": aliases(installation.registry, dag_id, known) if known else {},
        "routes": routes(installation.gateway("/routes"), dag_id, known),
        "MLflow's run": tracked(installation.registry, dag_id, run),
    }


def differences(undisturbed: Outcome, disturbed: Outcome) -> dict[str, Any]:
    """What another run came to otherwise, by what is looked at."""
    found = {what: outcomes.differences(undisturbed[what], disturbed[what]) for what in undisturbed}
    return {what: differ for what, differ in found.items() if differ}


def digests(registry: Any, dag_id: str) -> dict[str, str]:
    """The versions of a pipeline's model, and what each is made of."""
    found = registry.search_model_versions(f"name = '{dag_id}'")
    return {str(each.version): each.tags.get("sha256", "") for each in found}


def aliases(registry: Any, dag_id: str, known: Mapping[str, str]) -> dict[str, str]:
    """The model that each alias leads to."""
    found = registry.get_registered_model(dag_id).aliases
    return {alias: known.get(str(number), "gone") for alias, number in found.items()}


def routes(table: Mapping[str, Any], dag_id: str, known: Mapping[str, str]) -> dict[str, Any]:
    """The routes of a pipeline, with the models that answer."""
    return {
        name: route
        | {
            "weights": {
                known.get(version, "gone"): weight for version, weight in route["weights"].items()
            },
            "shadow": route["shadow"] and known.get(route["shadow"], "gone"),
        }
        for name, route in table.items()
        if route["model"] == dag_id
    }


def tracked(registry: Any, dag_id: str, run: Ended) -> dict[str, Any]:
    """How many MLflow runs a run of the pipeline has, how they ended, and their metrics."""
    experiment = registry.get_experiment_by_name(dag_id)
    if experiment is None:
        return {"runs": 0}
    found = registry.search_runs(
        [experiment.experiment_id], f"tags.`airflow.run_key` = '{run.key}'"
    )
    measured = {name: value for each in found for name, value in each.data.metrics.items()}
    return {
        "runs": len(found),
        "ended as": sorted(each.info.status for each in found),
        **{f"metric {name}": value for name, value in metrics(dag_id, measured).items()},
    }


def metrics(dag_id: str, measured: Mapping[str, float]) -> dict[str, str]:
    """Those that each run comes to alike, as far as floats of equal models are equal."""
    varies = METRICS.get(dag_id, {})
    return {
        name: f"{value:.9g}"
        for name, value in measured.items()
        if not any(fnmatchcase(name, pattern) for pattern in varies)
    }
