"""The examples for existing engines say what those engines understand: held to the vendors' own."""

import json
import logging

import yaml

from include.tools import environment

EXAMPLES = environment.PROJECT / "config" / "serving"


def test_sagemaker_would_take_the_update():
    from botocore.session import Session
    from botocore.validate import ParamValidator

    given = json.loads((EXAMPLES / "sagemaker.json").read_text())
    wanted = Session().get_service_model("sagemaker").operation_model("UpdateEndpoint").input_shape
    assert ParamValidator().validate(given, wanted).generate_report() == ""
    routing = given["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    kinds = Session().get_service_model("sagemaker").shape_for("TrafficRoutingConfigType").enum
    assert routing["Type"] in kinds


def test_vertex_would_take_the_deployment():
    logging.getLogger("google").setLevel(logging.ERROR)
    from google.cloud.aiplatform_v1.types import DeployModelRequest

    request = DeployModelRequest.from_json((EXAMPLES / "vertex.json").read_text())
    assert sum(request.traffic_split.values()) == 100
    assert request.traffic_split["0"] == 0  # 0 is the model that is being deployed


def test_kserves_share_is_a_percentage_of_the_newest_revision():
    service = yaml.safe_load((EXAMPLES / "kserve.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    predictor = service["spec"]["predictor"]
    assert 0 <= predictor["canaryTrafficPercent"] <= 100
    assert predictor["model"].keys() == {"modelFormat", "protocolVersion", "storageUri"}
