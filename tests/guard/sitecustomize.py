"""Python loads this first in every process that has its folder on PYTHONPATH.

It sees each host that the process asks for. With ASKED_HOSTS it writes down those that are not this
machine; with ONLY_LOOPBACK=guard it refuses them, as a system without a network does.
"""

import errno
import os
import socket
import sys

OURS = ("", "localhost", "::1", "::", "0.0.0.0", socket.gethostname())  # noqa: S104


def look(event, given):
    """Be told of everything that Python does; care about names and addresses of hosts."""
    if event == "socket.getaddrinfo":
        host = given[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(given[1], tuple):
        host = given[1][0]
    else:
        return
    text = host.decode() if isinstance(host, bytes) else str(host or "")
    if text in OURS or text.startswith(("127.", "::ffff:127.")):
        return
    if told := os.environ.get("ASKED_HOSTS"):
        dag_id = os.environ.get("AIRFLOW_CTX_DAG_ID", "-")  # Airflow sets it for its tasks
        program = os.path.basename(sys.argv[0]) or "python"
        with open(told, "a", encoding="utf-8") as file:
            file.write(f"{dag_id} {program} {event} {text}\n")
    if os.environ.get("ONLY_LOOPBACK") == "guard":
        if event == "socket.getaddrinfo":
            raise socket.gaierror(socket.EAI_AGAIN, f"{text}: only this machine can be reached")
        raise OSError(errno.ENETUNREACH, f"{text}: only this machine can be reached")


sys.addaudithook(look)
