"""A fitted scikit-learn model as ONNX: the same answers, with neither Python objects nor pandas."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

OPSET = 21
TOLERANCE = 1e-5


class DifferentAnswers(ValueError):
    """The exported model is another model: it must not be served under this one's name."""


def exported(model: Any, example: "pd.DataFrame") -> bytes:
    """Export, ask both models the same, and refuse unless they answer alike."""
    content = _converted(model, example)
    difference = largest_difference(model, content, example)
    if not difference <= TOLERANCE:
        raise DifferentAnswers(
            f"on {len(example)} rows the exported model's scores differ from the model's by up to "
            f"{difference:.2g}, more than {TOLERANCE:g}"
        )
    return content


def largest_difference(model: Any, content: bytes, example: "pd.DataFrame") -> float:
    """How far the two models' scores lie apart at most."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    fed = {each.name: _as_input(example[each.name]) for each in session.get_inputs()}
    scores = session.run(None, fed)[1][:, -1]
    return float(np.abs(scores - model.predict_proba(example)[:, -1]).max())


def _converted(model: Any, example: "pd.DataFrame") -> bytes:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import (
        BooleanTensorType,
        FloatTensorType,
        Int64TensorType,
        StringTensorType,
    )

    kinds = {"i": Int64TensorType, "f": FloatTensorType, "b": BooleanTensorType}
    inputs = [
        (name, kinds.get(example[name].dtype.kind, StringTensorType)([None, 1]))
        for name in example.columns
    ]
    made = to_onnx(
        model,
        initial_types=inputs,
        options={id(model): {"zipmap": False}},
        target_opset=OPSET,
        name="model",
    )
    content: bytes = made.SerializeToString()
    return content


def _as_input(column: "pd.Series[Any]") -> Any:
    import numpy as np

    kinds = {"i": np.int64, "f": np.float32, "b": np.bool_}
    return column.to_numpy(dtype=kinds.get(column.dtype.kind, object)).reshape(-1, 1)
