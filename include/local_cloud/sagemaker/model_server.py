"""A model's container: `inference.py` of the user's behind the two addresses of the contract.

The script has `model_fn(folder)`, `input_fn(body, content_type)`, `predict_fn(data, model)` and
`output_fn(prediction, accept)`, as for AWS's framework containers; here all four must be there.
What they raise ends the connection and stands in the log. It answers only the platform, which shows
the token of the variable MODEL_SERVER_TOKEN.
"""

import hmac
import importlib.util
import os
import sys
from argparse import ArgumentParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

from include.local_cloud.server import HOST, Handler

TOKEN = "MODEL_SERVER_TOKEN"  # noqa: S105


def main() -> None:
    """Load the model, and answer until somebody ends this process."""
    parser = ArgumentParser()
    parser.add_argument("--model", type=Path, required=True, help="what was in model.tar.gz")
    parser.add_argument("--program", required=True, help="below code/ in there")
    parser.add_argument("--port", type=int, required=True)
    asked = parser.parse_args()
    script = _imported(asked.model / "code" / asked.program)
    model = script.model_fn(str(asked.model))
    handler = _handler(script, model, os.environ[TOKEN])
    with ThreadingHTTPServer((HOST, asked.port), handler) as server:
        server.serve_forever()


def _imported(file: Path) -> ModuleType:
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.exists():
        raise SystemExit(f"there is no {file.name} in code/ of model.tar.gz")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _handler(script: ModuleType, model: Any, token: str) -> type[BaseHTTPRequestHandler]:
    class Container(Handler):
        def parse_request(self) -> bool:
            if not super().parse_request():
                return False
            given = self.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {token}".encode()):
                self.send_error(401)
                return False
            return True

        def do_GET(self) -> None:
            self._answer(200 if self.path == "/ping" else 404, b"")

        def do_POST(self) -> None:
            body = self.body()
            if self.path != "/invocations":
                self._answer(404, b"")
                return
            data = script.input_fn(body.decode(), self.headers.get("Content-Type", ""))
            accept = self.headers.get("Accept", "")
            answer = script.output_fn(script.predict_fn(data, model), accept)
            self._answer(200, answer.encode(), accept)

        def _answer(self, status: int, content: bytes, kind: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Container


if __name__ == "__main__":
    main()
