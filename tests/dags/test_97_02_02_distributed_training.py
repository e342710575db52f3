"""97.2.2 Distributed Training: many processes, one model, and nobody who waits for ever."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pytest
from airflow.sdk.exceptions import ParamValidationError
from sklearn.metrics import log_loss, roc_auc_score

from include import processes, runs, storage
from include.tools import environment
from include.training import launch, neural
from tests import warm
from tests.conftest import HOME
from tests.waiting import until

DAG = "97_02_02_distributed_training"
WAYS = ("single_process", "all_reduce", "multi_node", "parameter_server")
PROCESSES = {"all_reduce": 2, "multi_node": 4, "parameter_server": 3}
MARK = "CATALOGUE_TEST_RUN"
# As a worker does it: a task that starts a training, and may be killed itself.
LAUNCHER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from include.training import launch, neural

    train, to, way = sys.argv[1:]
    job = launch.Job(Path(train), Path(to), neural.Settings(epochs=10))
    launch.torchrun(job, 1, 2) if way == "all_reduce" else launch.ray(job, 2)
""")


def family(mark):
    """Everything that runs and comes from here, whoever is its parent by now."""
    found = []
    for each in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            if each.environ().get(MARK) == mark and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


def wait_for(what, holds, seconds=120):
    """Look often: whoever is to be killed trains for a second only."""
    return until(holds, what, seconds=seconds, pause=0.01)


def wait_until_gone(mark):
    """Wait until nothing runs that has this mark."""
    until(lambda: family(mark), "these processes to end", lambda left: not left)


@contextmanager
def meanwhile(look):
    """Call something again and again on a thread until the block ends."""
    over = threading.Event()

    def go_on():
        while not over.wait(1):
            look()

    watch = threading.Thread(target=go_on)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


@pytest.fixture(scope="module")
def listeners():
    """The addresses that were listened on while the DAG ran, by program."""
    return {}


@pytest.fixture(scope="module")
def warm_ranks():
    """Ranks and those that start them are forks of one process that has imported torch."""
    stand_in = HOME / "torch" / "python"
    stand_in.parent.mkdir()
    libraries = ("torch.distributed.run", "torch.nn.parallel", "torch._dynamo")
    torchrun = launch.torchrun

    def from_warm(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(stand_in))
            return torchrun(*arguments)

    with (
        warm.interpreter(Path(sys.executable), stand_in, libraries),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(launch, "torchrun", from_warm)
        yield


def folder(run, way):
    return HOME / "artifacts" / DAG / run.key / f"train.{way}" / "job"


@pytest.fixture(scope="module")
def run(run_dag, listeners, warm_ranks):
    """While it trains, a rank of the second node and a worker are killed."""
    when = datetime(2026, 7, 5, tzinfo=UTC)
    place = HOME / "artifacts" / DAG / runs.key(when, "")

    def look():
        for each in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                for connection in each.net_connections(kind="inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        address = connection.laddr.ip.removeprefix("::ffff:")
                        listeners.setdefault(each.name(), set()).add(address)

    def kill(way, name, when):
        job = place / f"train.{way}" / "job"
        wait_for(f"{when} in {job}", lambda: list(job.glob(when)), 600)
        os.kill(json.loads((job / f"{name}.json").read_text())["pid"], signal.SIGKILL)

    with (
        pytest.MonkeyPatch.context() as patch,
        meanwhile(look),
        ThreadPoolExecutor() as at_once,
    ):
        patch.setenv(MARK, "run")
        strikes = [
            at_once.submit(kill, "multi_node", "rank-3", "checkpoint-*.pt"),
            at_once.submit(kill, "parameter_server", "worker-1", "worker-1.json"),
        ]
        finished = run_dag(DAG, logical_date=when)
        for strike in strikes:
            strike.result()
    return finished


def weights(run, way):
    return neural.loads(kept(run, way))


def kept(run, way):
    return storage.read_bytes(run.reference(f"train.{way}", "weights"))


def data(run, part):
    return neural.loads(storage.read_bytes(run.reference("data.prepare", part)))


def loss(run, way):
    rows = data(run, "train")
    return log_loss(rows["labels"], neural.scores(weights(run, way), rows["features"]))


def job_at(run, place, **settings):
    train = storage.local_path(run.reference("data.prepare", "train"))
    return launch.Job(train, place, neural.Settings(**{"epochs": 10} | settings))


@pytest.mark.shows("97.2.2", "All-reduce training")
@pytest.mark.shows("97.2.2", "Multi-node training")
@pytest.mark.parametrize("way", ["all_reduce", "multi_node"])
def test_all_ranks_hold_the_same_weights_bit_for_bit(run, way):
    ranks = sorted(folder(run, way).glob("rank-*.npz"))
    assert len(ranks) == PROCESSES[way]
    assert {rank.read_bytes() for rank in ranks} == {kept(run, way)}


@pytest.mark.shows("97.2.2", "Multi-node training")
def test_two_nodes_with_two_ranks_each_have_met(run):
    told = run.xcom("train.multi_node")["processes"]
    assert [(each["rank"], each["node"]) for each in told] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert {each["backend"] for each in told} <= {"gloo", "nccl"}


@pytest.mark.shows("97.2.2", "All-reduce training")
@pytest.mark.shows("97.2.2", "Multi-node training")
@pytest.mark.shows("97.2.2", "Parameter server pattern")
@pytest.mark.parametrize("way", WAYS[1:])
def test_the_loss_is_that_of_a_single_process_on_the_same_batches(run, way):
    assert loss(run, way) == pytest.approx(loss(run, "single_process"), abs=1e-5)
    assert run.xcom("outputs.compare")[way]["loss"] == pytest.approx(loss(run, way))
    rows = data(run, "holdout")
    auc = roc_auc_score(rows["labels"], neural.scores(weights(run, way), rows["features"]))
    assert auc == pytest.approx(0.75, abs=0.005)


@pytest.mark.shows("97.2.2", "Parameter server pattern")
def test_each_worker_pushes_a_gradient_for_each_batch_and_the_server_makes_the_steps(run):
    server, *workers = run.xcom("train.parameter_server")["processes"]
    batches = 10 * -(-len(data(run, "train")["labels"]) // neural.BATCH)
    assert [worker["role"] for worker in workers] == ["worker-0", "worker-1"]
    assert server == {"role": "server", "pushes": batches * len(workers)}


@pytest.mark.shows("97.2.2", "Resource coordination")
def test_a_launcher_takes_a_slot_for_each_process_it_starts_all_at_once(run, dags):
    for way, started in PROCESSES.items():
        task = dags[DAG].get_task(f"train.{way}")
        assert task.pool == "training_cluster"
        assert task.pool_slots == started == len(run.xcom(f"train.{way}")["processes"])
    pools = json.loads((environment.PROJECT / "config" / "pools.json").read_text())
    assert pools["training_cluster"]["slots"] == max(PROCESSES.values())


def test_a_rank_and_a_worker_that_are_killed_are_replaced_and_change_nothing(run, tmp_path):
    ranks = run.xcom("train.multi_node")["processes"]
    assert all(rank["resumed_at"] >= 1 for rank in ranks)
    assert all(rank["restarts"] >= 1 for rank in ranks if rank["node"] == 1)
    workers = run.xcom("train.parameter_server")["processes"][1:]
    assert [worker["restarted"] for worker in workers] == [False, True]
    assert {run.tries(f"train.{way}") for way in WAYS} == {1}
    assert not list(folder(run, "multi_node").glob("checkpoint-*"))
    undisturbed = launch.torchrun(job_at(run, tmp_path / "job"), 2, 2)
    assert {rank["resumed_at"] for rank in undisturbed.processes} == {0}
    assert undisturbed.weights == kept(run, "multi_node")


def test_the_same_date_again_is_the_same_mlflow_run(run, run_dag, registry, monkeypatch):
    outcomes = {way: launch.Outcome(kept(run, way), []) for way in WAYS}
    by_nodes = {1: outcomes["all_reduce"], 2: outcomes["multi_node"]}
    monkeypatch.setattr(launch, "torchrun", lambda job, nodes, ranks: by_nodes[nodes])
    monkeypatch.setattr(launch, "ray", lambda job, workers: outcomes["parameter_server"])
    again = run_dag(DAG, logical_date=run.logical_date)
    for way in WAYS:
        assert again.digest(f"train.{way}", "weights") == run.digest(f"train.{way}", "weights")
    assert again.xcom("outputs.keep") == run.xcom("outputs.keep")
    tracked = registry.client.get_run(run.xcom("outputs.keep"))
    files = [each.path for each in registry.client.list_artifacts(tracked.info.run_id)]
    assert sorted(files) == ["seconds.png", "weights.npz"]
    assert tracked.data.params == {"epochs": "10", "hidden": "16"}
    assert tracked.data.metrics["multi_node.loss"] == pytest.approx(loss(run, "multi_node"))


def test_all_that_listened_did_so_on_loopback_and_is_gone(run, listeners):
    assert {"gcs_server", "raylet"} <= listeners.keys()
    assert set().union(*listeners.values()) <= {"127.0.0.1", "::1"}
    wait_until_gone("run")


def kill_the_launcher(command, job, trains):
    """Kill who started a training as soon as it trains, and see that everybody goes."""
    with subprocess.Popen(command, env=os.environ | {MARK: str(job)}) as started:
        wait_for(f"{trains} in {job}", lambda: list(job.glob(trains)))
        started.kill()
    wait_until_gone(str(job))


def launcher(run, job, way):
    """A command that trains in one of the ways, in a process that may be killed."""
    train = storage.local_path(run.reference("data.prepare", "train"))
    return [sys.executable, "-c", LAUNCHER, str(train), str(job), way]


@pytest.mark.slow
def test_launchers_that_are_killed_leave_nobody_and_a_next_try_of_ranks_comes_to_the_same(
    run, tmp_path
):
    ranks, actors = tmp_path / "ranks", tmp_path / "actors"
    with ThreadPoolExecutor() as at_once:
        killed = [
            at_once.submit(kill_the_launcher, launcher(run, job, way), job, trains)
            for job, way, trains in (
                (ranks, "all_reduce", "checkpoint-*.pt"),
                (actors, "parameter_server", "worker-1.json"),
            )
        ]
        for each in killed:
            each.result()
    shutil.rmtree(launch.ray_folder(job_at(run, actors)))  # which a next try would do

    again = launch.torchrun(job_at(run, ranks), 1, 2)
    assert again.weights == kept(run, "all_reduce")
    assert all(rank["resumed_at"] >= 1 for rank in again.processes)


@pytest.fixture
def short_folder():
    """For sockets, whose paths can't be long."""
    with tempfile.TemporaryDirectory(prefix="ray-") as made:
        yield Path(made)


@pytest.mark.slow
def test_with_ray_address_the_actors_run_on_that_cluster_which_has_none_of_our_code(
    run, tmp_path, short_folder, monkeypatch
):
    for name, value in {
        MARK: str(tmp_path),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0" * 64,
        # A server of its own is started for each client: a busy machine takes its time over it.
        "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "120",
        "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120",
        # Else it may die where it is forked: https://github.com/ray-project/ray/issues/63202
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }.items():
        monkeypatch.setenv(name, value)
    port = processes.free_port()
    start = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
        *("--node-ip-address", environment.HOST, "--port", str(processes.free_port())),
        *("--ray-client-server-port", str(port), "--include-dashboard", "false"),
        *("--dashboard-agent-listen-port", str(processes.free_port())),
        *("--num-cpus", "3", "--temp-dir", str(short_folder)),
    ]
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    job = job_at(run, tmp_path / "job")
    with (
        (tmp_path / "ray.log").open("wb") as log,
        subprocess.Popen(start, env=elsewhere, cwd=tmp_path, stdout=log, stderr=log) as head,
    ):
        try:
            wait_for(f"Ray at port {port}", lambda: processes.in_use(port))
            monkeypatch.setenv("RAY_ADDRESS", f"ray://{environment.HOST}:{port}")
            done = launch.ray(job, 2)
            assert head.poll() is None
        except RuntimeError as failure:
            logs = sorted(short_folder.glob("session_2*/logs/ray_client_server*"))
            told = [f"{log.name}:\n{log.read_text()}" for log in logs]
            raise AssertionError("\n".join(told)) from failure
        finally:
            head.terminate()
    assert done.weights == kept(run, "parameter_server")
    assert "to ray.init() on the server" in (tmp_path / "job" / "driver.log").read_text()
    wait_until_gone(str(tmp_path))


def test_the_manifest_tells_a_cluster_to_do_what_the_nodes_did_here(run):
    manifest = storage.read_json(run.reference("scale_out.manifest"))
    assert manifest["metadata"]["name"].startswith("train-97-02-02-distributed-training-")
    trainer = manifest["spec"]["trainer"]
    assert trainer["numNodes"] * trainer["numProcPerNode"] == PROCESSES["multi_node"]
    assert (
        f"--train={storage.local_path(run.reference('data.prepare', 'train'))}"
        in trainer["command"]
    )


def altered(outcome):
    """The same, but for one weight."""
    changed = neural.loads(outcome.weights)
    changed["outer_bias"] = changed["outer_bias"] + np.float32(0.01)
    return launch.Outcome(neural.dumps(changed), outcome.processes)


def test_a_way_that_comes_to_another_loss_is_refused_by_name(run, run_dag, monkeypatch):
    same = launch.Outcome(kept(run, "single_process"), [])
    monkeypatch.setattr(launch, "torchrun", lambda job, nodes, ranks: same)
    monkeypatch.setattr(launch, "ray", lambda job, workers: altered(same))
    failed = run_dag(DAG, expect="failed")
    told = failed.error("outputs.compare")
    assert told.startswith("parameter_server should come to the loss of a single process")
    assert failed.tries("outputs.compare") == 1
    assert failed.states["outputs.keep"] == "upstream_failed"


def test_a_launcher_that_lost_its_processes_is_tried_again(run, run_dag, monkeypatch):
    same = launch.Outcome(kept(run, "single_process"), [])
    tried = []

    def lost_at_first(job, nodes, ranks):
        tried.append(job.to)
        if tried.count(job.to) == 1:
            raise RuntimeError("node-1 ended with status -9.")
        return same

    monkeypatch.setattr(launch, "torchrun", lost_at_first)
    monkeypatch.setattr(launch, "ray", lambda job, workers: same)
    again = run_dag(DAG)
    assert again.tries("train.multi_node") == 2
    assert len(set(tried)) == 2  # each comes back to its own checkpoint


def test_a_customer_without_numbers_is_named_before_anything_is_launched(run_dag, warehouse):
    warehouse.execute("UPDATE customers SET monthly_fee = NULL WHERE customer_id IN (7, 99)")
    failed = run_dag(DAG, expect="failed")
    assert "monthly_fee" in failed.error("data.prepare")
    assert "fails for customer_id 7, 99" in failed.error("data.prepare")
    assert failed.tries("data.prepare") == 1
    assert {failed.states[f"train.{way}"] for way in WAYS} == {"upstream_failed"}


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("hidden", "many")])
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, name, value):
    with pytest.raises(ParamValidationError, match=str(value)):
        run_dag(DAG, conf={name: value})


def test_xcom_carries_references_and_less_than_a_kilobyte(run):
    for (task_id, _, key), value in run.xcoms().items():
        assert len(json.dumps(value)) < 1024, (task_id, key)
