"""A small real model in MLflow's folder, twice: once as it is, once with its ONNX export."""

import secrets
import shutil
import warnings

import pytest

from include import processes
from include.data import churn
from include.features.churn import preprocessor
from include.serving import client, launch, onnx_export
from include.training import model_format
from tests.conftest import HOME

TOKEN = secrets.token_urlsafe()


@pytest.fixture(scope="session")
def customers():
    return churn.customers().head(2000)


@pytest.fixture(scope="session")
def model(customers):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    fitted = make_pipeline(preprocessor(), LogisticRegression(max_iter=500))
    return fitted.fit(customers.drop(columns="churned"), customers["churned"])


@pytest.fixture(scope="session")
def plain(model, customers):
    import mlflow

    example = customers.drop(columns="churned")
    folder = HOME / "served" / "plain"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            model,
            folder,
            signature=mlflow.models.infer_signature(example, model.predict(example)),
            skops_trusted_types=model_format.TRUSTED_TYPES,
            pip_requirements=[],
        )
    return folder


@pytest.fixture(scope="session")
def exported(plain, model, customers):
    folder = HOME / "served" / "exported"
    shutil.copytree(plain, folder)
    content = onnx_export.exported(model, customers.drop(columns="churned"))
    (folder / "model.onnx").write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def rows(customers):
    return customers.drop(columns="churned").head(200).to_dict(orient="records")


@pytest.fixture(scope="module")
def start_gateway(tmp_path_factory):
    """Start a gateway on a folder, as often as asked; all are gone at the end."""
    started = []

    def start(folder=None):
        folder = folder or tmp_path_factory.mktemp("gateway")
        port = processes.free_port()
        process = launch.gateway(folder, port, TOKEN, sources=[HOME, folder.parent])
        started.append((folder, process))
        address = f"http://127.0.0.1:{port}"
        processes.wait_until_answers(f"{address}/ping", process)
        return client.Gateway(address, TOKEN), process

    yield start
    for folder, process in started:
        processes.stop(folder, [process])
        assert not process.family()
