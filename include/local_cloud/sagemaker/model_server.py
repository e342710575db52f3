"""A model's container: `inference.py` of the user's behind the two addresses of the contract.

The script has `model_fn(folder)`, `input_fn(body, content_type)`, `predict_fn(data, model)` and
`output_fn(prediction, accept)`, as for AWS's framework containers; here all four must be there.
What they raise ends the connection and stands in the log.
"""

import importlib.util
import sys
from argparse import ArgumentParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

from include.local_cloud.server import HOST


def main() -> None:
    """Load the model, and answer until somebody ends this process."""
    parser = ArgumentParser()
    parser.add_argument("--model", type=Path, required=True, help="what was in model.tar.gz")
    parser.add_argument("--program", required=True, help="below code/ in there")
    parser.add_argument("--port", type=int, required=True)
    asked = parser.parse_args()
    script = _imported(asked.model / "code" / asked.program)
    model = script.model_fn(str(asked.model))
    with ThreadingHTTPServer((HOST, asked.port), _handler(script, model)) as server:
        server.serve_forever()


def _imported(file: Path) -> ModuleType:
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.exists():
        raise SystemExit(f"there is no {file.name} in code/ of model.tar.gz")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _handler(script: ModuleType, model: Any) -> type[BaseHTTPRequestHandler]:
    class Container(BaseHTTPRequestHandler):
        wbufsize = -1  # one packet for an answer

        def do_GET(self) -> None:
            self._answer(200 if self.path == "/ping" else 404, b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
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

        def log_message(self, *_: object) -> None:
            """Say nothing of each request."""

    return Container


if __name__ == "__main__":
    main()
