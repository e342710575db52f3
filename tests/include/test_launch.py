"""Processes of a training: told the same, seen through to the end, and none of them left."""

import os
import sys
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from include.training import ddp, kubeflow, launch, neural, parameter_server

JOB = launch.Job(Path("/data/train.npz"), Path("/data/job"), neural.Settings(hidden=4, epochs=2))
WAITS = [sys.executable, "-c", "import sys; sys.stdin.read(); import time; time.sleep(60)"]


@pytest.fixture
def job(tmp_path):
    return launch.Job(tmp_path / "train.npz", tmp_path / "job", neural.Settings(epochs=1))


@pytest.fixture
def rows():
    rng = np.random.default_rng(97)
    return {"features": rng.normal(size=(50, 3)), "labels": rng.integers(2, size=50)}


def test_a_process_reads_what_the_launcher_wrote(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rank", *JOB.as_arguments()])
    told, _ = launch.told(ArgumentParser())
    assert told == JOB


def test_one_process_that_fails_ends_the_others_and_its_last_words_are_told(job):
    fails = [sys.executable, "-c", "raise SystemExit('no card of that name')"]
    before = psutil.Process().children()
    with pytest.raises(RuntimeError, match=r"node-1 ended with status 1[\s\S]*no card") as told:
        launch._see_through(job, {"node-0": (WAITS, {}), "node-1": (fails, {})})
    assert str(job.to / "node-1.log") in str(told.value)
    assert psutil.Process().children() == before


def test_what_an_earlier_try_left_is_not_taken_for_this_ones(job):
    job.to.mkdir()
    for left in ("rank-0.npz", "rank-0.json"):
        (job.to / left).write_bytes(b"old")
    (job.to / "checkpoint-1.pt").write_bytes(b"kept")
    launch._see_through(job, {"node-0": ([sys.executable, "-c", ""], {})})
    assert sorted(path.name for path in job.to.iterdir()) == ["checkpoint-1.pt", "node-0.log"]


def test_ranks_that_hold_different_weights_are_refused(job, monkeypatch):
    def trained(job, commands):
        job.to.mkdir()
        for rank in range(2):
            (job.to / f"rank-{rank}.npz").write_bytes(bytes([rank]))

    monkeypatch.setattr(launch, "_see_through", trained)
    with pytest.raises(AssertionError, match="2 ranks should hold the same weights"):
        launch.torchrun(job, 1, 2)


@pytest.mark.parametrize(
    ("cards", "named", "shares"),
    [
        (0, None, ["", ""]),
        (3, None, ["", ""]),
        (4, None, ["0,1", "2,3"]),
        (4, "4,5,6,7", ["4,5", "6,7"]),
    ],
)
def test_each_node_gets_cards_of_its_own_or_none_gets_any(monkeypatch, cards, named, shares):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert launch._shares(cards, nodes=2, ranks=2) == shares


def test_the_workers_gradients_add_up_to_that_of_the_whole_batch(rows):
    worker = parameter_server.Worker(rows)
    initial = neural.initial(3, 4, torch.Generator().manual_seed(1))
    weights = {name: part.numpy() for name, part in initial.items()}
    batch = torch.arange(50)
    whole = worker.gradient(weights, batch, 50)
    shares = [worker.gradient(weights, batch[n::3], 50) for n in range(3)]
    for name, gradient in whole.items():
        assert sum(share[name] for share in shares) == pytest.approx(gradient, abs=1e-6)


def test_the_server_makes_one_step_by_the_sum_of_what_it_is_pushed():
    one, other = ({"w": np.full(2, part, np.float32)} for part in (0.25, 0.5))
    server = parameter_server.Server({"w": np.zeros(2, np.float32)}, learning_rate=0.1)
    stepped = server.step(one, other)["w"]
    expected = torch.zeros(2, requires_grad=True)
    expected.grad = torch.full((2,), 0.75)
    torch.optim.Adam([expected], lr=0.1).step()
    assert (stepped == expected.detach().numpy()).all()
    assert server.story() == {"pid": os.getpid(), "pushes": 2}


def test_a_train_job_runs_the_entry_point_that_is_run_here(monkeypatch):
    store = Path("/data")
    made = kubeflow.train_job(JOB, 3, 2, "train-1", "registry/image", "claim", store)
    trainer, (patch,) = made["spec"]["trainer"], made["spec"]["runtimePatches"]
    command = trainer["command"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (3, 2)
    after = command.index("include.training.ddp")
    monkeypatch.setattr(sys, "argv", command[after:])
    told, asked = launch.told(ArgumentParser())
    assert told == JOB
    assert not asked.leash  # nobody holds the other end of a pipe there
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    (volume,), (container,) = pod["volumes"], pod["containers"]
    assert volume["persistentVolumeClaim"] == {"claimName": "claim"}
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/data"}]


def test_each_job_has_a_cluster_folder_of_its_own():
    other = replace(JOB, to=Path("/data/another"))
    assert launch.ray_folder(JOB) != launch.ray_folder(other)
    assert launch.ray_folder(JOB) == launch.ray_folder(replace(JOB))


def test_other_rows_settings_ranks_or_code_are_resumed_from_another_checkpoint(
    monkeypatch, tmp_path
):
    settings, changed = JOB.settings, tmp_path / "changed.py"
    given = [
        (b"rows", settings, 4),
        (b"other rows", settings, 4),
        (b"rows", replace(settings, seed=settings.seed + 1), 4),
        (b"rows", settings, 3),
    ]
    names = [ddp.checkpoint_name(*each) for each in given]
    assert ddp.checkpoint_name(*given[0]) == names[0]
    for module in (neural, ddp):
        changed.write_text(Path(module.__file__).read_text() + "# changed")
        with monkeypatch.context() as patch:
            patch.setattr(module, "__file__", str(changed))
            names.append(ddp.checkpoint_name(*given[0]))
    assert len(set(names)) == len(names)
