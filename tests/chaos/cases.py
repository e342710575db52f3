"""Which of a run's metrics differ from one date to the next, with the reason.

What else may differ stands in the cases of the long proofs.
"""

METRICS = {
    "97_02_01_local_training": {"*.seconds": "a time", "*.peak_memory_mb": "varies with the load"},
    "97_02_02_distributed_training": {"*.seconds": "a time"},
    "97_03_05_kubeflow_integration": {"kubeflow.*.seconds": "a time"},
    "97_04_03_ab_test_config": {"*": "the version's number decides which callers meet it"},
    "97_04_04_shadow_deployment": {"*_ms": "a time", "copies": "a busy gateway drops some"},
    "97_04_05_drift_detection": {"*": "each date has its own window"},
}
