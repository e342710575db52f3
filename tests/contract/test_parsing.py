"""Reading a DAG file is cheap, and touches nothing: no ML library, no network, no database."""

import json
import os
import statistics
import subprocess
import sys

import pytest

from include.tools import environment

FILES = sorted(environment.DAGS.glob("*.py"))
FORBIDDEN = [
    "great_expectations",
    "matplotlib",
    "mlflow",
    "optuna",
    "pandas",
    "scipy",
    "sklearn",
    "skops",
    "torch",
    "lightgbm",
]
# Provider SDKs that the operators of a DAG can't do without.
SDKS = ("boto3", "google.cloud.aiplatform", "kubernetes", "azure")
ALLOWED = {
    "97_03_02_sagemaker_pipelines": {"boto3"},
    "97_03_03_vertex_ai_pipelines": {"google.cloud.aiplatform"},
    "97_03_05_kubeflow_integration": {"kubernetes"},
}
MOST = 2.5

LOOK = """
import json, os, socket, sys, warnings
warnings.simplefilter("error")

import airflow.sdk
from airflow.dag_processing.dagbag import DagBag

def refuse(*args, **kwargs):
    raise AssertionError("a DAG file reached out while it was read")

socket.socket.connect = refuse
airflow.sdk.Variable.get = refuse
airflow.sdk.Connection.get = refuse
for file in sys.argv[1:]:
    if os.fork() == 0:  # a process for each, with no more in it than Airflow itself
        bag = DagBag(dag_folder=file)
        errors, modules = list(bag.import_errors.values()), sorted(sys.modules)
        print(json.dumps({"file": file, "errors": errors, "modules": modules}), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def read():
    """What each file loads where nobody has loaded anything before."""
    # A database that can't be opened: whoever asks it something fails.
    broken = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nowhere/at/all.db"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *map(str, FILES)],
        env={**os.environ, **broken},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = (json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"file"'))
    return {each["file"]: each for each in seen}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_reading_loads_no_ml_library_and_reaches_for_nothing(file, read):
    seen = read[str(file)]
    assert seen["errors"] == []
    loaded = set(seen["modules"])
    assert not loaded & set(FORBIDDEN)
    assert not loaded & (set(SDKS) - ALLOWED.get(file.stem, set()))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_reading_takes_no_longer_than_a_bare_dag_of_the_same_shape_allows(file, dags, tmp_path):
    from benchmarks.parse_time import ratio

    measured = ratio(dags[file.stem], file, tmp_path)
    assert statistics.median(measured) <= MOST
