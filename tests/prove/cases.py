"""What the long proofs know of each pipeline: one entry for a new one."""

from dataclasses import dataclass, field
from typing import Any

MODELS = "registered models"
PREDECESSOR = {MODELS: "the very first release registers its predecessor, too"}
NAMES_VERSION = "names the model's version"


@dataclass(frozen=True)
class Case:
    """How a pipeline is proved."""

    kill: str
    """The task that is killed: the one whose loss costs most, or that changes what others see."""
    conf: dict[str, Any] = field(default_factory=dict)
    """Params with which a run does all that it does, in less time."""
    in_turn: bool = False
    """Whether two dates follow one another, as `max_active_runs=1` promises."""
    once: dict[str, str] = field(default_factory=dict)
    """Tasks or groups that only one of two runs has to do, with the reason."""
    varies: dict[str, str] = field(default_factory=dict)
    """Tasks or groups whose artifacts differ between two runs, with the reason."""


CASES = {
    "97_01_01_ml_pipeline_structure": Case("model.train"),
    "97_01_02_feature_engineering": Case("transform.fit"),
    "97_01_03_training_data_prep": Case("version.commit"),
    "97_01_04_hyperparameter_config": Case("train.train", {"draws": 1}),
    "97_01_05_model_artifacts": Case(
        "store.train", varies={"clean.plan": "lists what earlier runs left"}
    ),
    "97_02_01_local_training": Case("train.taskflow"),
    "97_02_02_distributed_training": Case(
        "train.all_reduce", {"epochs": 1}, varies={"scale_out.manifest": "names the run"}
    ),
    "97_02_03_hyperparameter_tuning": Case("bayesian.round_2", {"points": 1}),
    "97_02_04_training_dynamic_mapping": Case("trial.fit"),
    "97_02_05_long_running_training": Case("training.train", {"epochs": 60, "checkpoint_every": 6}),
    "97_03_01_mlflow_integration": Case(
        "experiments.train", varies={"experiments.offline": "files of Weights & Biases hold times"}
    ),
    "97_03_02_sagemaker_pipelines": Case("training.train"),
    "97_03_03_vertex_ai_pipelines": Case(
        "train.custom", varies={"predict.online": "the endpoint draws which model answers"}
    ),
    "97_03_04_azure_ml_integration": Case("training.blue"),
    "97_03_05_kubeflow_integration": Case(
        "kubeflow.pipeline", varies={"kubernetes.manifest": "names the run"}
    ),
    "97_04_01_model_evaluation": Case("holdout.score", once=PREDECESSOR),
    "97_04_02_validation_gates": Case("candidate.train"),
    "97_04_03_ab_test_config": Case(
        "collect", once=PREDECESSOR, varies={"set_up.plan": "measures the model that is live"}
    ),
    "97_04_04_shadow_deployment": Case(
        "shadow.mirror", once=PREDECESSOR, varies={"compare.join": "holds latencies"}
    ),
    "97_04_05_drift_detection": Case(
        "window.score",
        once=PREDECESSOR | {"reference": "the very first run trains the model"},
        varies=dict.fromkeys(("window", "drift", "report"), "each date has its own window"),
    ),
    "97_05_01_model_deployment": Case(
        "endpoint.deploy",
        varies={"export.write_context": NAMES_VERSION, "image.write_layout": NAMES_VERSION},
    ),
    "97_05_02_blue_green_deployment": Case("switch.switch", once=PREDECESSOR),
    "97_05_03_canary_rollout": Case("steps.second.shift", once=PREDECESSOR),
    # What is live is one thing, and one run at a time changes it.
    "97_05_04_model_rollback": Case(
        "restore.apply",
        in_turn=True,
        once=PREDECESSOR,
        varies={"trigger.list_versions": "a later run has more versions"},
    ),
    "97_05_05_model_monitoring": Case(
        "log.append",
        once=PREDECESSOR | {"retraining": "one of two runs asks; then the rule cools"},
        varies=dict.fromkeys(("alerts", "log", "measure"), "each date has its own days"),
    ),
    "97_06_01_training_serving_skew_antipattern": Case("right.train"),
}
