"""A model behind HTTP, by Vertex AI's contract for containers: what answers at an endpoint.

`python -m include.training.vertex_serving` is the command of an image with this project in it. The
variables AIP_* say where to listen and where the model is, as everywhere on Vertex AI. Questions
and answers have the form that AutoML's models give them, so that both can stand behind one
endpoint: a row as `{"column": "value"}`, an answer as `{"classes": […], "scores": […]}`. Outside of
Vertex AI, which lets nobody else through, the variable MODEL_SERVER_TOKEN names who may ask.
"""

import hmac
import json
import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What a model in Vertex AI's registry says of its container, beside the image.
CONTAINER = {
    "command": ["python", "-m", "include.training.vertex_serving"],
    "health_route": "/health",
    "predict_route": "/predict",
}
TOKEN = "MODEL_SERVER_TOKEN"  # noqa: S105
Answers = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def main() -> None:
    """Fetch the model and answer until somebody ends the process."""
    import onnxruntime
    from google.cloud import storage

    folder = os.environ["AIP_STORAGE_URI"].rstrip("/")
    content = storage.Blob.from_uri(f"{folder}/model.onnx", storage.Client()).download_as_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    serve(lambda rows: answers(session, rows))


def answers(session: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask an exported scikit-learn classifier; every value may come as text."""
    import numpy as np

    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(string)": object}
    fed = {
        column.name: np.array([[row[column.name]] for row in rows]).astype(kinds[column.type])
        for column in session.get_inputs()
    }
    _, scores = session.run(None, fed)
    classes = [str(number) for number in range(scores.shape[1])]
    return [{"classes": classes, "scores": row} for row in scores.tolist()]


def serve(answers: Answers) -> None:
    """Listen where Vertex AI says, for one health check and one kind of question."""
    health, predict = os.environ["AIP_HEALTH_ROUTE"], os.environ["AIP_PREDICT_ROUTE"]
    token = os.environ.get(TOKEN, "")

    class Handler(BaseHTTPRequestHandler):
        wbufsize = -1

        def do_GET(self) -> None:
            self._answer(200 if self.path == health else 404, {})

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdecimal() and len(length) < 10):
                self.close_connection = True
                self._answer(411, {"error": "the body must have a Content-Length"})
                return
            body = self.rfile.read(int(length))
            shown = self.headers.get("Authorization", "").encode()
            if token and not hmac.compare_digest(shown, f"Bearer {token}".encode()):
                self._answer(401, {"error": "the token is missing or wrong"})
                return
            if self.path != predict:
                self._answer(404, {"error": f"nothing at {self.path}"})
                return
            try:
                predictions = answers(json.loads(body)["instances"])
            except (KeyError, TypeError, ValueError) as error:
                self._answer(400, {"error": f"{type(error).__name__}: {error}"})
            else:
                self._answer(200, {"predictions": predictions})

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Say nothing: Vertex AI logs requests itself."""

    address = (os.environ.get("AIP_HOST", "0.0.0.0"), int(os.environ["AIP_HTTP_PORT"]))  # noqa: S104
    ThreadingHTTPServer(address, Handler).serve_forever()


if __name__ == "__main__":
    main()
