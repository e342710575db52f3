"""The platforms there are, how one is started, and what leads to it. A new one is one entry."""

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from include import processes
from include.local_cloud import server
from include.tools.environment import PROJECT


@dataclass(frozen=True)
class Entry:
    """A platform, and the Airflow connections that stand for it."""

    name: str
    """Of its module in this package, of its process and of its folder."""
    connections: frozenset[str]

    def folder(self, home: Path) -> Path:
        """Where its state is kept."""
        return home / "local-cloud" / self.name


PLATFORMS = [
    Entry("azure_ml", frozenset({"azure_ml_default"})),
    Entry("kubeflow", frozenset({"kubeflow_default"})),
    Entry("kubernetes", frozenset({"kubernetes_default"})),
    Entry("sagemaker", frozenset({"aws_default"})),
    Entry("vertex", frozenset({"google_cloud_default"})),
]


def wanted() -> list[Entry]:
    """Those that LOCAL_CLOUD names, or all: the others' connections lead to the vendor."""
    named = os.environ.get("LOCAL_CLOUD", "all")
    names = {name.strip() for name in named.split(",")}
    known = {entry.name for entry in PLATFORMS}
    if unknown := names - known - {"all", "none"}:
        raise SystemExit(
            f"LOCAL_CLOUD={named}: there is no {', '.join(sorted(unknown))}; "
            f"there are: {', '.join(sorted(known))}, all, none."
        )
    return [entry for entry in PLATFORMS if entry.name in names or "all" in names]


def start(entry: Entry, home: Path, records: Path, env: Mapping[str, str]) -> processes.Process:
    """Start a platform on free ports and wait until it answers."""
    folder, port = entry.folder(home), processes.free_port()
    server.redirect_file(folder).unlink(missing_ok=True)
    command = [sys.executable, "-m", _module(entry), "--folder", str(folder), "--port", str(port)]
    folders = filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])
    found = {"PYTHONPATH": os.pathsep.join(folders), **env}
    process = processes.start(records, entry.name, command, found, port)
    try:
        processes.wait_until_answers(f"http://{server.HOST}:{port}/health", process)
    except RuntimeError:
        processes.stop(records, [process])
        raise
    return process


def redirects(home: Path, running: Iterable[str]) -> server.Redirect:
    """What leads to those of the platforms that are among the running ones."""
    found = [
        server.redirect(entry.folder(home)) for entry in PLATFORMS if entry.name in set(running)
    ]
    return server.Redirect(
        connections={name: each.connections[name] for each in found for name in each.connections},
        env={name: each.env[name] for each in found for name in each.env},
    )


def _module(entry: Entry) -> str:
    return f"{__package__}.{entry.name}"
