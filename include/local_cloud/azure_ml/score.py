"""Answer for one registered MLflow model: `python score.py <folder> <file for the port>`.

This is what stands behind a deployment without a scoring script. It runs in the interpreter of the
models' own environment, so it imports nothing of the catalogue. It answers only the platform, which
shows the token of the variable SCORER_TOKEN.
"""

import hmac
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def main(folder: str, told: Path) -> None:
    """Load the model, tell the port that is answered on, until the process is ended."""
    import mlflow.pyfunc
    import pandas as pd

    model, token = mlflow.pyfunc.load_model(folder), os.environ["SCORER_TOKEN"]

    class Scorer(BaseHTTPRequestHandler):
        wbufsize = -1

        def do_POST(self) -> None:
            given = self.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {token}".encode()):
                self.send_error(401)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                given = json.loads(body)
                if "input_data" not in given:
                    raise ValueError("the request lacks 'input_data'")
                asked = given["input_data"]
                rows = pd.DataFrame(asked["data"], asked.get("index"), asked["columns"])
                answer = model.predict(rows)
            except (KeyError, TypeError, ValueError, mlflow.MlflowException) as error:
                self._answer(400, {"error_code": "BAD_REQUEST", "message": str(error)})
            else:
                self._answer(200, getattr(answer, "tolist", lambda: answer)())

        def _answer(self, status: int, content: Any) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Say nothing of what went well."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Scorer) as server:
        part = told.with_suffix(".part")
        part.write_text(str(server.server_port))
        part.replace(told)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
