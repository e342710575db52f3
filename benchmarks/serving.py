"""How fast models are served, beside `mlflow models serve` with the same model in the same run.

One caller asks for one row after the other, in rounds that take turns, so that whatever else the
machine does hits all alike. Then callers keep coming while a route is switched a hundred times, and
while every request is copied to a shadow. With `--soak 300` a version is killed every ten seconds,
for so many seconds: `make bench SOAK=300`.
"""

import argparse
import os
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from include import processes
from include.data import churn
from include.features.churn import preprocessor
from include.serving import launch, load, onnx_export
from include.serving.client import Gateway
from include.tools import environment
from include.training import model_format

ROUNDS = 7
ASKED = 200
RATE = 200.0
SWITCHES = 100
KILL_SECONDS = 10.0


def saved(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A model in MLflow's folder with its export beside it, and rows to ask it for."""
    import mlflow
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    customers = churn.customers()
    example = customers.drop(columns="churned")
    model = make_pipeline(preprocessor(), LogisticRegression(max_iter=500))
    model.fit(example, customers["churned"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            model,
            folder / "model",
            signature=mlflow.models.infer_signature(example, model.predict(example)),
            skops_trusted_types=model_format.TRUSTED_TYPES,
            pip_requirements=[],
        )
    (folder / "model" / "model.onnx").write_bytes(onnx_export.exported(model, example))
    return folder / "model", example.head(200).to_dict(orient="records")


@contextmanager
def server(folder: Path, name: str, command: list[str], port: int) -> Iterator[float]:
    """Run a server; yields the seconds until it answered."""
    began = time.perf_counter()
    env = {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(environment.PROJECT),
    }
    process = processes.start(folder, name, command, env, port)
    try:
        processes.wait_until_answers(f"http://{launch.HOST}:{port}/ping", process)
        yield time.perf_counter() - began
    finally:
        processes.stop(folder, [process])


def one_by_one(address: str, rows: list[dict[str, Any]], headers: Mapping[str, str]) -> list[float]:
    """Milliseconds of each of many requests, one after the other."""
    took = []
    with httpx.Client(headers=dict(headers)) as caller:
        for number in range(ASKED):
            body = {"dataframe_records": [rows[number % len(rows)]]}
            began = time.perf_counter()
            caller.post(f"{address}/invocations", json=body).raise_for_status()
            took.append(1000 * (time.perf_counter() - began))
    return took


def compare(folder: Path, model: Path, rows: list[dict[str, Any]], gateway: Gateway) -> None:
    """Print latency and start of the three ways to the same model."""
    own, theirs = processes.free_port(), processes.free_port()
    scorer = ["-m", "include.serving.scorer", "--model", str(model), "--port", str(own)]
    mlflow = ["-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    mlflow += ["--host", launch.HOST, "--port", str(theirs), "--workers", "1"]
    with (
        server(folder, "scorer", [sys.executable, *scorer], own) as our_start,
        server(folder, "mlflow", [sys.executable, *mlflow], theirs) as their_start,
    ):
        ways: dict[str, tuple[str, Mapping[str, str]]] = {
            "mlflow models serve": (f"http://{launch.HOST}:{theirs}", {}),
            "scorer": (f"http://{launch.HOST}:{own}", {}),
            "scorer behind gateway": (load.route_address(gateway, "churn"), load.token(gateway)),
        }
        took: dict[str, list[float]] = {way: [] for way in ways}
        for address, headers in ways.values():
            one_by_one(address, rows, headers)  # warm
        for _ in range(ROUNDS):
            for way, (address, headers) in ways.items():
                took[way] += one_by_one(address, rows, headers)
    p50 = {way: statistics.median(each) for way, each in took.items()}
    print(f"{'one row, one caller':24}{'p50 ms':>8}{'p99 ms':>8}{'rps':>7}{'ratio':>8}")
    for way, each in took.items():
        p99 = statistics.quantiles(each, n=100)[98]
        ratio = p50[way] / p50["mlflow models serve"]
        rps = 1000 / statistics.mean(each)
        print(f"{way:24}{p50[way]:>8.2f}{p99:>8.2f}{rps:>7.0f}{ratio:>8.2f}")
    print(f"the gateway adds {p50['scorer behind gateway'] - p50['scorer']:.2f} ms at p50")
    print(
        f"start: scorer {our_start:.1f} s, mlflow models serve {their_start:.1f} s, "
        f"ratio {our_start / their_start:.2f}"
    )


def switch(rows: list[dict[str, Any]], gateway: Gateway) -> None:
    """Print how many requests fail while a route is switched."""
    address = load.route_address(gateway, "churn")
    with load.running(address, rows, RATE, [load.token(gateway)]) as traffic:
        for turn in range(SWITCHES):
            gateway.set_route("churn", "churn", {"1": turn % 2, "2": (turn + 1) % 2})
            time.sleep(0.05)  # some requests go by each table
    told = traffic.report()
    print(f"{SWITCHES} switches at {RATE:.0f} rps: {told['failed']} of {told['requests']} failed")


def shadow(rows: list[dict[str, Any]], gateway: Gateway) -> None:
    """Print what copying every request to a shadow that takes two seconds costs the callers."""
    address, headers = load.route_address(gateway, "churn"), [load.token(gateway)]
    ratios = []
    for _ in range(ROUNDS):
        p99 = {}
        for slow in (None, "slow"):
            gateway.set_route("churn", "churn", {"1": 1.0}, shadow=slow)
            p99[slow] = load.drive(address, rows, 50, 150, headers).milliseconds(99)
        ratios.append(p99["slow"] / p99[None])
    gateway.set_route("churn", "churn", {"1": 1.0})
    print(f"a shadow that takes 2 s: live p99 is {statistics.median(ratios):.2f} of that without")


def soak(rows: list[dict[str, Any]], gateway: Gateway, gateway_pid: int, seconds: float) -> None:
    """Print what is lost, and whether memory grows, while versions are killed under load."""
    gateway.set_route("churn", "churn", {"1": 1.0, "2": 1.0})
    process = psutil.Process(gateway_pid)
    before = process.memory_info().rss
    killed, ends = 0, time.monotonic() + seconds
    address, headers = load.route_address(gateway, "churn"), [load.token(gateway)]
    with load.running(address, rows, 50, headers) as traffic:
        while time.monotonic() < ends:
            time.sleep(KILL_SECONDS)
            pid = gateway.versions("churn")[str(killed % 2 + 1)]["pid"]
            os.kill(pid, signal.SIGKILL)
            killed += 1
    grown = (process.memory_info().rss - before) / 2**20
    told = traffic.report()
    print(
        f"soak: {killed} versions killed in {seconds:.0f} s, {told['failed']} of "
        f"{told['requests']} requests failed, gateway memory {grown:+.1f} MiB"
    )


def main() -> None:
    """Serve, ask, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="catalogue-bench-"))
    try:
        model, rows = saved(folder)
        port, token = processes.free_port(), secrets.token_urlsafe()
        process = launch.gateway(folder / "gateway", port, token, sources=[folder])
        try:
            address = f"http://{launch.HOST}:{port}"
            processes.wait_until_answers(f"{address}/ping", process)
            gateway = Gateway(address, token)
            for version in ("1", "2"):
                gateway.start_version("churn", version, str(model))
            gateway.start_version("churn", "slow", str(model), delay_seconds=2.0)
            gateway.set_route("churn", "churn", {"1": 1.0})
            compare(folder, model, rows, gateway)
            switch(rows, gateway)
            shadow(rows, gateway)
            if given.soak:
                soak(rows, gateway, process.pid, given.soak)
        finally:
            processes.stop(folder / "gateway", [process])
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
