"""How a gateway is started, by whomever."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from include import processes

HOST = "127.0.0.1"


def command(folder: Path, port: int, registry: str, sources: Sequence[Path] = ()) -> list[str]:
    """A gateway on loopback, its own folder, and the MLflow that it knows models from.

    Its models may lie below the folders `sources`; without any they come from the registry alone.
    """
    return [
        *(sys.executable, "-m", "include.serving.gateway"),
        *("--folder", str(folder), "--registry", registry),
        *("--host", HOST, "--port", str(port)),
        *(part for folder in sources for part in ("--sources", str(folder))),
    ]


def gateway(
    folder: Path, port: int, token: str, registry: str = "", sources: Sequence[Path] = ()
) -> processes.Process:
    """Start one in the background; the token is not on its command line, which all can read."""
    project = str(Path(__file__).resolve().parents[2])
    paths = [project, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {
        "GATEWAY_TOKEN": token,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
    }
    asked = command(folder / "kept", port, registry, sources)
    return processes.start(folder, "gateway", asked, env, port)
