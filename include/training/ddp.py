"""One rank of a training by all-reduce: what `torchrun` starts, here and on a cluster.

Each rank computes the gradient of its share of a batch. DistributedDataParallel adds them up over
all ranks, so each makes the same step and holds the same weights, bit for bit. After every epoch
rank 0 writes a checkpoint, from which ranks that are started again go on.
"""

import gc
import hashlib
import json
import os
import socket
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import record

from include.training import launch, neural


class Network(torch.nn.Module):  # type: ignore[misc]
    """The network of `neural` in the form that DistributedDataParallel takes."""

    def __init__(self, weights: dict[str, Any]) -> None:
        """Begin with these weights."""
        super().__init__()
        self.weights = torch.nn.ParameterDict(weights)

    def forward(self, inputs: Any) -> Any:
        """Log odds, row by row."""
        return neural.logits(self.weights, inputs)


@record  # type: ignore[untyped-decorator]
def main() -> None:
    """Join the other ranks, train with them, and leave this rank's weights and story."""
    job, _ = launch.told(ArgumentParser(prog="torchrun -m include.training.ddp"))
    job.to.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(job.settings.threads)
    # NCCL wants a card for each rank; without, the processors do it.
    cards = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cards else torch.device("cpu")
    story = {
        "rank": int(os.environ["RANK"]),
        "node": int(os.environ["GROUP_RANK"]),
        "pid": os.getpid(),
        "backend": "nccl" if cards else "gloo",
        "restarts": int(os.environ["TORCHELASTIC_RESTART_COUNT"]),
        "resumed_at": None,
    }
    name = f"rank-{story['rank']}"
    launch.write(job.to / f"{name}.json", json.dumps(story).encode())
    join(str(story["backend"]))
    try:
        weights, story["resumed_at"], checkpoint = train(job, device)
        launch.write(job.to / f"{name}.npz", neural.dumps(weights))
        launch.write(job.to / f"{name}.json", json.dumps(story).encode())
        distributed.barrier()
        if story["rank"] == 0:
            checkpoint.unlink()  # every rank has written its weights: nothing is left to resume
    finally:
        distributed.destroy_process_group()


def join(backend: str) -> None:
    """Meet the other ranks at the address that torchrun names.

    Where no node holds that place open, rank 0 does. Torch would do the same by itself, but listen
    on every interface.
    """
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    opens = rank == 0 and os.environ["TORCHELASTIC_USE_AGENT_STORE"] != "True"
    fd = socket.create_server(place).detach() if opens else None
    store = distributed.TCPStore(*place, ranks, opens, master_listen_fd=fd)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=ranks)


def train(job: launch.Job, device: torch.device) -> tuple[dict[str, Any], int, Path]:
    """Take this rank's part in every step, from the last checkpoint on if there is one."""
    rank, ranks, settings = distributed.get_rank(), distributed.get_world_size(), job.settings
    content = job.train.read_bytes()
    data = neural.loads(content)
    inputs = torch.tensor(data["features"], dtype=torch.float32, device=device)
    wanted = torch.tensor(data["labels"], dtype=torch.float32, device=device)
    generator = torch.Generator().manual_seed(settings.seed)
    network = Network(neural.initial(inputs.shape[1], settings.hidden, generator)).to(device)
    together = torch.nn.parallel.DistributedDataParallel(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)

    def backward(rows: Any) -> None:
        mine = rows[rank::ranks].to(device)
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            together(inputs[mine]), wanted[mine], reduction="sum"
        )
        # DDP takes the mean over the ranks; what is wanted is the mean over the batch's rows.
        (loss * ranks / len(rows)).backward()

    # After the first pass DDP arranges its buckets anew, and in another order sums differ in their
    # last bit. One pass for nothing, so that ranks that resume add up as those that never stopped.
    backward(torch.arange(min(neural.BATCH, len(inputs))))

    checkpoint = job.to / checkpoint_name(content, settings, ranks)
    resumed_at = 0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True, map_location=device)
        network.load_state_dict(kept["network"])
        optimiser.load_state_dict(kept["optimiser"])
        resumed_at = kept["epochs"]
    gc.freeze()  # else the collector walks through all of torch, now and then and in the end
    for epoch in range(settings.epochs):
        order = torch.randperm(len(inputs), generator=generator)
        if epoch < resumed_at:
            continue  # drawn all the same: the next order depends on it
        for rows in order.split(neural.BATCH):
            backward(rows)
            optimiser.step()
        if rank == 0:
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            part = checkpoint.with_suffix(".part")
            torch.save({"epochs": epoch + 1, **state}, part)
            part.replace(checkpoint)
    fitted = {name: part.detach().cpu().numpy() for name, part in network.weights.items()}
    return fitted, resumed_at, checkpoint


def checkpoint_name(rows: bytes, settings: neural.Settings, ranks: int) -> str:
    """Name a checkpoint after its training: other data, settings, code or ranks, another name."""
    code = [Path(str(module)).read_bytes() for module in (neural.__file__, __file__)]
    of = hashlib.sha256(b"".join([rows, *code, repr((settings, ranks)).encode()])).hexdigest()
    return f"checkpoint-{of[:12]}.pt"


if __name__ == "__main__":
    main()
