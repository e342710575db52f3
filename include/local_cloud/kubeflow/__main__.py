"""Start the server: `python -m include.local_cloud.kubeflow --folder … --port …`."""

import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from include.local_cloud import server
from include.local_cloud.kubeflow.api import handler
from include.local_cloud.kubeflow.catalogue import Catalogue
from include.local_cloud.kubeflow.runs import Runs
from include.local_cloud.state import Table


class Kubeflow:
    """The API on a port of its own."""

    def __init__(self, folder: Path, faults: server.Faults):
        """Remember what there was, and listen."""
        versions = Table(folder / "versions")
        self.runs = Runs(folder, faults, versions)
        self.catalogue = Catalogue(folder, self.runs, versions)
        self.token = server.secret(folder / "token")
        answers = handler(self.catalogue, faults, self.token)
        self.listener = ThreadingHTTPServer((server.HOST, server.port(folder)), answers)
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()

    def redirect(self) -> server.Redirect:
        """A connection is enough."""
        port = self.listener.server_address[1]
        connection = {"conn_type": "http", "host": server.HOST, "port": port}
        return server.Redirect({"kubeflow_default": connection | {"password": self.token}})

    def resources(self) -> dict[str, list[str]]:
        """What nobody has put away."""
        return self.catalogue.left()

    def close(self) -> None:
        """End the runs and stop listening."""
        self.listener.shutdown()
        self.runs.close()
        self.listener.server_close()


if __name__ == "__main__":
    server.main(Kubeflow)
