"""97.5.1 Model Deployment Pipeline: what is deployed was asked, and what fails is gone again."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from airflow.sdk.exceptions import ParamValidationError

from include import storage, tracking
from include.serving import client, image, release
from tests.conftest import HOME
from tests.services import no_gateway
from tests.serving.test_image import FAKE_ENGINE

DAG = "97_05_01_model_deployment"
NO_ENGINE = {"engine": "none"}  # whatever this machine has, the tests build without


@pytest.fixture(scope="module", autouse=True)
def connected(model_gateway):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_MODEL_GATEWAY", model_gateway.connection)
        yield


@pytest.fixture(scope="module")
def gateway(connected):
    return client.connected()


@pytest.fixture(scope="module")
def too_slow(run_dag, gateway):
    """The very first deployment fails, with nothing to go back to; what was left after it."""
    ended = run_dag(DAG, conf=NO_ENGINE | {"practise": "slow"})
    return ended, gateway.route(DAG), gateway.versions(DAG), tracking.champion(DAG)


@pytest.fixture(scope="module")
def run(too_slow, run_dag):
    return run_dag(DAG, conf=NO_ENGINE)


@pytest.fixture(scope="module")
def answered(run, gateway):
    """What callers got when the first deployment was over."""
    golden = storage.read_json(run.reference("model.train", "golden"))
    return golden, *gateway.ask(DAG, golden["rows"])


@pytest.fixture(scope="module")
def failed(answered, run_dag):
    return run_dag(DAG, conf=NO_ENGINE | {"practise": "errors"})


@pytest.mark.shows("97.5.1", "Model export")
def test_both_forms_of_the_version_answer_every_customer_alike(run):
    version, holdout = run.xcom("export.register"), run.frame("model.prepare", "holdout")
    folder = Path(release.source(DAG, version).removeprefix("file://"))
    session = onnxruntime.InferenceSession((folder / "model.onnx").read_bytes())
    kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(string)": object}
    fed = {
        each.name: holdout[each.name].to_numpy(dtype=kinds[each.type]).reshape(-1, 1)
        for each in session.get_inputs()
    }
    scores = session.run(None, fed)[1][:, 1]
    kept = tracking.load(DAG, version).predict_proba(holdout)[:, 1]
    largest = float(np.abs(scores - kept).max())
    assert 0 < largest <= 1e-5
    compared = run.xcom("export.compare")
    assert compared["rows"] == len(holdout)
    assert compared["largest_difference"] == pytest.approx(largest)


@pytest.mark.shows("97.5.1", "Container build")
def test_the_image_is_what_its_digest_says_and_holds_this_model(run):
    written = run.xcom("image.write_layout")
    with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(written["layout"]))) as layout:
        manifest = layout.extractfile("blobs/" + written["image"].replace(":", "/")).read()
    assert "sha256:" + hashlib.sha256(manifest).hexdigest() == written["image"]
    served = Path(run.xcom("image.run_image"))
    assert served.is_relative_to(written["root"])
    folder = Path(release.source(DAG, run.xcom("export.register")).removeprefix("file://"))
    assert (served / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    assert run.states["image.build"] == "skipped"


@pytest.mark.shows("97.5.1", "Endpoint deployment")
def test_callers_are_answered_by_the_image_of_the_new_version(run, answered, gateway):
    golden, answer, version = answered
    assert version == run.xcom("export.register")
    assert answer["scores"] == pytest.approx(golden["scores"], abs=1e-5)
    assert gateway.versions(DAG)[version]["source"] == run.xcom("image.run_image")
    assert tracking.champion(DAG).number == version
    assert run.xcom("settle.promote") == f"version {version} is deployed"
    verified = run.xcom("endpoint.verify")
    assert (verified["up"], verified["failed"], verified["wrong"]) == (True, 0, 0)


@pytest.mark.shows("97.5.1", "Health verification")
def test_a_version_that_fails_is_taken_back_without_anybody_being_asked(failed, run, gateway):
    good, bad = run.xcom("export.register"), failed.xcom("export.register")
    assert failed.xcom("endpoint.deploy") == sorted([good, bad])
    assert failed.xcom("endpoint.verify")["failed"] == 6  # every third of 20
    told = failed.xcom("settle.roll_back")
    assert told.startswith("6 of 20 failed, 0 wrong")
    assert told.endswith(f"version {good} answers again")
    assert failed.states["settle.promote"] == "skipped"
    assert gateway.route(DAG)["weights"] == {good: 1.0}
    assert sorted(gateway.versions(DAG)) == [good]
    assert tracking.champion(DAG).number == good


def test_a_first_version_that_is_too_slow_leaves_no_endpoint_behind(too_slow):
    ended, *left = too_slow
    verified = ended.xcom("endpoint.verify")
    assert (verified["failed"], verified["wrong"]) == (0, 0)
    assert verified["p95_ms"] > 3000
    assert ended.xcom("settle.roll_back").endswith("nothing was deployed before")
    assert left == [None, {}, None]


def test_a_wrong_model_under_the_right_number_is_known_by_its_answers(failed, run_dag, gateway):
    """The gateway is given another model than the one that was built and tried."""
    before = gateway.route(DAG)
    other = HOME / "other-model"
    start = client.Gateway.start_version

    def swapped(self, model, version, source, **fault):
        if version not in before["weights"]:
            wrong_model(Path(source), other)
            source = str(other)
        start(self, model, version, source, **fault)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.Gateway, "start_version", swapped)
        taken_back = run_dag(DAG, conf=NO_ENGINE)
    assert taken_back.xcom("settle.roll_back").startswith("0 of 20 failed, 20 wrong")
    assert gateway.route(DAG) == before


def wrong_model(right, other):
    """A model of the same shape that has learned something else."""
    import shutil

    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from include.data import churn
    from include.features.churn import preprocessor
    from include.serving import onnx_export

    customers = churn.customers().head(500)
    features = customers.drop(columns="churned")
    fitted = make_pipeline(preprocessor(), LogisticRegression(C=0.01)).fit(
        features, customers["churned"]
    )
    shutil.copytree(right, other, dirs_exist_ok=True)
    (other / "model.onnx").write_bytes(onnx_export.exported(fitted, features))


@pytest.fixture(scope="module")
def alone(failed, run, run_dag):
    """The first date again, where no gateway answers; its worker dies when it has deployed."""
    set_route, died = client.Gateway.set_route, []

    def dies(self, name, model, weights):
        set_route(self, name, model, weights)
        if weights == {run.xcom("export.register"): 1.0} and not died:
            died.append(weights)
            raise ConnectionError("the worker is gone")

    versions = tracking.versions(DAG)
    with pytest.MonkeyPatch.context() as patch, no_gateway() as nobody:
        patch.setattr(client.Gateway, "set_route", dies)
        again = run_dag(DAG, conf=NO_ENGINE, logical_date=run.logical_date)
    return again, nobody, versions


def test_the_same_date_again_gives_the_same_image_and_no_second_version(alone, run):
    again, _, versions = alone
    assert again.digest("export.write_context") == run.digest("export.write_context")
    assert again.xcom("image.write_layout") == run.xcom("image.write_layout")
    assert again.xcom("export.register") == run.xcom("export.register")
    assert tracking.versions(DAG) == versions


def test_a_worker_that_dies_after_deploying_is_followed_by_one_that_finds_it_done(alone, run):
    again, _, _ = alone
    assert again.tries("endpoint.deploy") == 2
    assert again.xcom("settle.promote") == run.xcom("settle.promote")


def test_a_gateway_of_its_own_comes_and_goes_with_the_run(alone):
    again, nobody, _ = alone
    nobody.check_that_own_one_is_gone(again)
    assert {process.name for process in nobody.stopped} == {"gateway", "image"}


def test_where_an_engine_answers_it_builds_and_the_same_files_are_served(
    failed, run, run_dag, tmp_path, monkeypatch, gateway
):
    program = tmp_path / "podman"
    program.write_text(FAKE_ENGINE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    built = run_dag(DAG, conf={"engine": "podman"})
    version = built.xcom("export.register")
    assert built.states["image.write_layout"] == "skipped"
    assert built.xcom("image.build")["image"] == "sha256:abc"
    assert f"--tag {DAG}:{version}" in program.with_name("podman.calls").read_text()
    assert gateway.versions(DAG)[version]["source"] == built.xcom("image.run_image")


def test_an_engine_that_is_not_there_fails_at_once_and_says_so(failed, run_dag, monkeypatch):
    monkeypatch.setattr(image.shutil, "which", lambda name: None)
    without = run_dag(DAG, conf={"engine": "buildah"}, expect="failed")
    assert "buildah is not there or does not answer" in without.error("image.choose")
    assert without.tries("image.choose") == 1
    assert without.states["endpoint.deploy"] == "upstream_failed"


def test_a_customer_without_a_label_stops_the_run_before_anything_is_built(
    failed, run_dag, warehouse
):
    warehouse.execute("UPDATE customers SET churned = 2 WHERE customer_id = 7")
    stopped = run_dag(DAG, conf=NO_ENGINE, expect="failed")
    assert "fails for customer_id 7" in stopped.error("model.prepare")
    assert stopped.tries("model.prepare") == 1
    assert stopped.states["image.choose"] == "upstream_failed"


def test_an_unknown_engine_is_refused_before_anything_starts(run_dag):
    with pytest.raises(ParamValidationError, match="engine"):
        run_dag(DAG, conf={"engine": "kaniko"})
