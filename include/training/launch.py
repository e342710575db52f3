"""Start the processes of one training on this machine, see them through, and leave none behind.

What `torchrun` would be on each of several machines is a process here: a "node". The nodes meet in
a store that the launcher holds open, and all that listens does so on loopback. Each process holds
the other end of a pipe from the launcher: when that is gone, however it went, they end as well.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from include.training import neural

LOOPBACK = "127.0.0.1"
RESTARTS = 3
GRACE_SECONDS = 10
LAST_LINES = 25


@dataclass(frozen=True)
class Job:
    """What each process of a training is told, on a command line that is written and read here."""

    train: Path
    """Features and labels, as neural.dumps() writes arrays."""
    to: Path
    """The folder for checkpoints and weights; all nodes must see it."""
    settings: neural.Settings

    def as_arguments(self) -> list[str]:
        """The command line."""
        given = {"train": self.train, "to": self.to, **asdict(self.settings)}
        return [f"--{name}={value}" for name, value in given.items()]


def told(parser: ArgumentParser) -> tuple[Job, Namespace]:
    """What a launched process is told: the job, and whatever else its parser asks for."""
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--leash", action="store_true", help="end when stdin is closed")
    knobs = fields(neural.Settings)
    for knob in knobs:
        kind = neural.Settings.__annotations__[knob.name]
        parser.add_argument(f"--{knob.name}", type=kind, default=knob.default)
    asked = parser.parse_args()
    if asked.leash:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    settings = neural.Settings(**{knob.name: getattr(asked, knob.name) for knob in knobs})
    return Job(asked.train, asked.to, settings), asked


@dataclass(frozen=True)
class Outcome:
    """The weights, and what each process has to say of itself."""

    weights: bytes
    processes: list[dict[str, Any]]


def torchrun(job: Job, nodes: int, ranks: int) -> Outcome:
    """Train by all-reduce on so many nodes, with so many ranks on each."""
    from torch import cuda
    from torch.distributed import TCPStore

    with socket.create_server((LOOPBACK, 0)) as listener:
        place = listener.getsockname()
        fd = listener.detach()
    meeting = TCPStore(*place, is_master=True, wait_for_workers=False, master_listen_fd=fd)
    logs = job.to / "torchrun"  # else torchrun leaves a folder in /tmp
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--log-dir", str(logs)),
        *("--nnodes", str(nodes), "--nproc-per-node", str(ranks)),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{meeting.host}:{meeting.port}"),
        *("--rdzv-id", job.to.name, "--rdzv-conf", "is_host=0", "--local-addr", LOOPBACK),
        *("--max-restarts", str(RESTARTS)),
        *("-m", "include.training.ddp", "--leash", *job.as_arguments()),
    ]
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    env = {
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        "OMP_NUM_THREADS": str(job.settings.threads),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # a node's would listen on every interface
    }
    cards = _shares(cuda.device_count(), nodes, ranks)
    each = {
        f"node-{node}": (command, env | {"CUDA_VISIBLE_DEVICES": cards[node]})
        for node in range(nodes)
    }
    try:
        _see_through(job, each)
    finally:
        shutil.rmtree(logs, ignore_errors=True)
    weights = [path.read_bytes() for path in sorted(job.to.glob("rank-*.npz"))]
    digests = {sha256(each).hexdigest()[:12] for each in weights}
    if len(weights) != nodes * ranks or len(digests) != 1:
        raise AssertionError(
            f"{nodes * ranks} ranks should hold the same weights: {len(weights)} hold {digests}"
        )
    return Outcome(weights[0], _stories(job))


def ray(job: Job, workers: int) -> Outcome:
    """Train with a parameter server: on the cluster of RAY_ADDRESS, else on one made here."""
    command = [sys.executable, "-m", "include.training.parameter_server", f"--workers={workers}"]
    command += ["--leash", *job.as_arguments()]
    if "RAY_ADDRESS" in os.environ:
        _see_through(job, {"driver": (command, {})})
    else:
        place = ray_folder(job)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
        (place / "ray_bootstrap_config.yaml").write_text("provider: {type: local}")
        env = {
            "HOME": str(place),  # where Ray reads that, it asks no cloud whether it runs there
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray leaves one in the user's home
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too: all of it on loopback
        }
        try:
            _see_through(job, {"driver": ([*command, f"--here={place}"], env)})
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return Outcome((job.to / "weights.npz").read_bytes(), _stories(job))


def ray_folder(job: Job) -> Path:
    """The files of a cluster made here, until it ends; who was killed leaves them to the next try.

    The paths of Ray's sockets must be short, so they can't lie with the job.
    """
    return Path("/tmp") / f"ray-{sha256(str(job.to).encode()).hexdigest()[:12]}"  # noqa: S108


def write(target: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(content)
    part.replace(target)


def _stories(job: Job) -> list[dict[str, Any]]:
    """All but the process number: of use to who looks into the folder while the process lives."""
    told = [json.loads(path.read_text()) for path in sorted(job.to.glob("*.json"))]
    return [{name: each[name] for name in each if name != "pid"} for each in told]


def _shares(cards: int, nodes: int, ranks: int) -> list[str]:
    """Which of this machine's cards each node may use: as many as it has ranks, or none at all."""
    if cards < nodes * ranks:
        return [""] * nodes
    named = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(cards)))).split(",")
    return [",".join(named[node * ranks : (node + 1) * ranks]) for node in range(nodes)]


def _see_through(job: Job, commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]]) -> None:
    """Run all commands to their end; when one fails, end the others and say why."""
    job.to.mkdir(parents=True, exist_ok=True)
    for left in (*job.to.glob("*.json"), *job.to.glob("*.npz")):
        left.unlink()
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, (command, env) in commands.items():
            with (job.to / f"{name}.log").open("wb") as output:
                running[name] = subprocess.Popen(
                    command,
                    env={**os.environ, **env},
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
        ended: set[int | None] = {None}
        while ended == {None} or ended == {None, 0}:
            time.sleep(0.05)
            ended = {process.poll() for process in running.values()}
        failed = {name: code for name, process in running.items() if (code := process.poll())}
    finally:
        for process in running.values():
            if process.stdin:
                process.stdin.close()
            process.terminate()
        for process in running.values():
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    for name, code in failed.items():
        log = job.to / f"{name}.log"
        last = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        raise RuntimeError(f"{name} ended with status {code}. {log} ends:\n" + "\n".join(last))


def _end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(1)
