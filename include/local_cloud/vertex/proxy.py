"""The way here for clients that know only Google's host names.

Their addresses are written into the clients, but gRPC asks the proxy that `grpc_proxy` names. This
one leads Vertex AI's hosts to a port on this machine and nobody anywhere else.
"""

import re
import select
import socket
import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer

from include.local_cloud import server

HOSTS = re.compile(r"(?:[a-z0-9-]+-)?aiplatform\.googleapis\.com")
CHUNK = 65536


class Proxy(ThreadingTCPServer):
    """Listens on a port, and opens tunnels to another one."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: int, port: int) -> None:
        """Lead from the second port to the first."""
        super().__init__((server.HOST, port), Tunnel)
        self.target = target
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """What `grpc_proxy` is to be."""
        return f"http://{server.HOST}:{self.server_address[1]}"

    def close(self) -> None:
        """Open no more tunnels."""
        self.shutdown()
        self.server_close()


class Tunnel(StreamRequestHandler):
    """One client's connection."""

    server: Proxy

    def handle(self) -> None:
        """Look where the client wants to go, and carry bytes both ways."""
        method, _, rest = self.rfile.readline().decode("latin-1").partition(" ")
        while self.rfile.readline().strip():
            pass  # headers
        host = rest.split(" ")[0].rpartition(":")[0]
        if method != "CONNECT" or not HOSTS.fullmatch(host):
            self.wfile.write(b"HTTP/1.1 403 not a host of Vertex AI\r\n\r\n")
            return
        with socket.create_connection((server.HOST, self.server.target)) as there:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            self._carry(self.connection, there)

    @staticmethod
    def _carry(here: socket.socket, there: socket.socket) -> None:
        other = {here: there, there: here}
        while True:
            for end in select.select([here, there], [], [])[0]:
                try:
                    content = end.recv(CHUNK)
                    if not content:
                        return
                    other[end].sendall(content)
                except ConnectionError:
                    return
