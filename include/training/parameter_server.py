"""A training with a parameter server on Ray: one actor holds the weights, the others the data.

Each worker pulls the weights, pushes the gradient of its share of a batch, and the server makes the
step. A worker keeps nothing between two steps, so Ray starts a dead one again and asks it the same
once more; with the server the weights are gone, and the training fails.
"""

import json
import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from include.training import launch, neural

Arrays = dict[str, Any]
OBJECT_STORE_BYTES = 100 * 2**20


class Server:
    """Holds the weights, and changes them by what the workers push."""

    def __init__(self, weights: Arrays, learning_rate: float) -> None:
        """Begin with these weights."""
        self.weights = {name: torch.tensor(part) for name, part in weights.items()}
        self.optimiser = torch.optim.Adam(self.weights.values(), lr=learning_rate)
        self.pushes = 0

    def step(self, *gradients: Arrays) -> Arrays:
        """One step by the sum of the workers' gradients; returns the new weights."""
        self.pushes += len(gradients)
        for name, part in self.weights.items():
            part.grad = torch.from_numpy(np.sum([each[name] for each in gradients], axis=0))
        self.optimiser.step()
        return {name: part.numpy() for name, part in self.weights.items()}

    def story(self) -> dict[str, int]:
        """Where it ran, and how much it was sent."""
        return {"pid": os.getpid(), "pushes": self.pushes}


class Worker:
    """Holds the data, and computes gradients on it for whatever weights it is given."""

    def __init__(self, data: Arrays) -> None:
        """Take a copy of all rows; which ones to look at is told step by step."""
        self.inputs = torch.tensor(data["features"], dtype=torch.float32)
        self.wanted = torch.tensor(data["labels"], dtype=torch.float32)

    def gradient(self, weights: Arrays, mine: Any, of: int) -> Arrays:
        """Compute this worker's share of the gradient of the mean loss over `of` rows."""
        given = {name: torch.tensor(part, requires_grad=True) for name, part in weights.items()}
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            neural.logits(given, self.inputs[mine]), self.wanted[mine], reduction="sum"
        )
        (loss / of).backward()
        return {name: part.grad.numpy() for name, part in given.items()}

    def story(self) -> dict[str, int | bool]:
        """Where it runs, and whether it is the first that does."""
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        return {"pid": os.getpid(), "restarted": restarted}


def main() -> None:
    """Find or start a cluster, train on it, and leave the weights and each actor's story."""
    parser = ArgumentParser(prog="python -m include.training.parameter_server")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--here", type=Path, help="start a cluster, with its files in this folder")
    job, asked = launch.told(parser)
    of_its_own = {
        "num_cpus": asked.workers + 1,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "_temp_dir": str(asked.here),
    }
    # The actors take our code along: a cluster needs torch, and nothing of ours.
    ray.cloudpickle.register_pickle_by_value(neural)
    # Without an address, Ray looks for RAY_ADDRESS.
    ray.init(log_to_driver=False, **(of_its_own if asked.here else {}))
    try:
        weights = train(job, asked.workers)
        launch.write(job.to / "weights.npz", neural.dumps(weights))
    finally:
        ray.shutdown()


def train(job: launch.Job, workers: int) -> Arrays:
    """Send the workers through the batches that a single process would go through."""
    data, settings = neural.loads(job.train.read_bytes()), job.settings
    rows = len(data["labels"])
    generator = torch.Generator().manual_seed(settings.seed)
    beginning = neural.initial(data["features"].shape[1], settings.hidden, generator)
    weights: Any = {name: part.numpy() for name, part in beginning.items()}
    lasting = ray.remote(num_cpus=1)(Server)
    replaceable = ray.remote(
        num_cpus=1, max_restarts=launch.RESTARTS, max_task_retries=launch.RESTARTS
    )(Worker)
    server = lasting.remote(weights, settings.learning_rate)
    once = ray.put(data)
    actors = {"server": server} | {f"worker-{n}": replaceable.remote(once) for n in range(workers)}
    write_stories(job, actors)
    # Nothing is waited for: a gradient is computed when its weights are there, a step made when all
    # of its gradients are.
    for _ in range(settings.epochs):
        for batch in torch.randperm(rows, generator=generator).split(neural.BATCH):
            gradients = [
                actors[f"worker-{n}"].gradient.remote(weights, batch[n::workers], len(batch))
                for n in range(workers)
            ]
            weights = server.step.remote(*gradients)
    fitted: Arrays = ray.get(weights)
    write_stories(job, actors)
    return fitted


def write_stories(job: launch.Job, actors: dict[str, Any]) -> None:
    """For who wants to know where the actors run: one file for each."""
    for name, actor in actors.items():
        story = {"role": name, **ray.get(actor.story.remote())}
        launch.write(job.to / f"{name}.json", json.dumps(story).encode())


if __name__ == "__main__":
    main()
