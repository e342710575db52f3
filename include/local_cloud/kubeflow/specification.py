"""What a pipeline is given as, and what its runs may be told."""

import re
from pathlib import PurePath
from typing import Any

import yaml

from include.local_cloud import server
from include.local_cloud.kubeflow.errors import invalid

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}")  # a folder of artifacts has it
KINDS: dict[str, tuple[type, ...]] = {
    "NUMBER_DOUBLE": (int, float),
    "NUMBER_INTEGER": (int, float),
    "STRING": (str,),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}


def read(content: bytes) -> dict[str, Any]:
    """The specification in an uploaded file; what it says about platforms comes as a second one."""
    try:
        first = server.checked(next(yaml.safe_load_all(content), None))
    except (yaml.YAMLError, ValueError):
        raise invalid("Failed to read a pipeline spec file") from None
    return check(first)


def check(spec: Any) -> dict[str, Any]:
    """The pipeline's own part, unless it is none."""
    own = spec.get("pipeline_spec", spec) if isinstance(spec, dict) else None
    if not isinstance(own, dict) or not {"pipelineInfo", "root", "deploymentSpec"} <= own.keys():
        raise invalid("unknown template format: pipeline spec is invalid")
    info, root = own["pipelineInfo"], own["root"]
    if not isinstance(info, dict) or not NAME.fullmatch(str(info.get("name"))):
        raise invalid("pipeline spec is invalid: pipelineInfo.name must fit " + NAME.pattern)
    if not isinstance(root, dict) or not isinstance(own["deploymentSpec"], dict):
        raise invalid("pipeline spec is invalid: root and deploymentSpec must be objects")
    known = (root.get("inputDefinitions") or {}).get("parameters") or {}
    if not all(isinstance(each, dict) for each in known.values()):
        raise invalid("pipeline spec is invalid: each parameter must be an object")
    return own


def check_arguments(spec: dict[str, Any], given: dict[str, Any]) -> None:
    """Every parameter that a run is told must be one of the pipeline's, and of its kind."""
    known = (spec["root"].get("inputDefinitions") or {}).get("parameters") or {}
    for name, value in given.items():
        if name not in known:
            raise invalid(f"parameter {name} is not defined in the pipeline")
        kind = known[name].get("parameterType", "STRING")
        fits = isinstance(value, KINDS.get(kind, (object,)))
        if not fits or (isinstance(value, bool) and kind != "BOOLEAN"):
            raise invalid(f"input parameter {name} requires type {kind}, got {value!r}")
    for name, definition in known.items():
        optional = definition.get("isOptional") or "defaultValue" in definition
        if name not in given and not optional:
            raise invalid(
                f"parameter {name} is not optional, yet has neither default value nor user "
                "provided value"
            )


def check_root(root: str) -> None:
    """Where artifacts go must be a folder of this machine."""
    if not PurePath(root).is_absolute():
        raise invalid(f"pipeline root {root!r} can't be written to here: give an absolute path")
