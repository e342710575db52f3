"""A training in a process of its own: `python -m include.training.checkpointed FOLDER`.

It may be stopped or killed at any moment. Whoever starts it again gets the weights that it would
have come to undisturbed, bit for bit, since a checkpoint holds all that the next epoch depends on.
A damaged checkpoint is passed over for the one before it.
"""

import hashlib
import json
import math
import sys
import time
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.training import neural
from include.training.job import Checkpoint, DamagedCheckpoint, Job, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEARTBEAT_SECONDS = 0.5


def order(
    rows: Path, sha256: str, label: str, settings: neural.Settings, checkpoint_every: int
) -> dict[str, Any]:
    """What is to be trained, from what, by which code: a checkpoint of any other is of no use."""
    code = b"".join(Path(str(each)).read_bytes() for each in (neural.__file__, __file__))
    return {
        "rows": str(rows),
        "sha256": sha256,
        "label": label,
        "settings": asdict(settings),
        "checkpoint_every": checkpoint_every,
        "code": hashlib.sha256(code).hexdigest(),
    }


def command(job: Job) -> list[str]:
    """How to start it."""
    return [sys.executable, "-m", __name__, str(job.folder)]


def main(folder: Path) -> None:
    """Train what the folder's order says. What would fail again is told; the rest just ends."""
    job = Job(folder)
    with job.held():
        try:
            train(job)
        except ValueError as error:
            job.tell(Progress("failed", message=str(error)))
            raise


def train(job: Job) -> None:
    """Go on from the last good checkpoint to the end, or until somebody asks to stop."""
    wanted = job.order()
    assert wanted is not None  # noqa: S101
    settings = neural.Settings(**wanted["settings"])
    features, labels = _rows(wanted)
    import torch

    torch.set_num_threads(settings.threads)
    training = neural.Training(features, labels, settings)
    losses = _restored(job, training)
    first, began, heard = len(losses), time.monotonic(), 0.0

    def tell(state: str) -> None:
        done, to_do = len(losses) - first, settings.epochs - len(losses)
        left = to_do * (time.monotonic() - began) / done if done else None
        loss = losses[-1] if losses else None
        job.tell(Progress(state, len(losses), settings.epochs, loss, left))

    while len(losses) < settings.epochs and not job.asked_to_stop:
        losses.append(training.epoch())
        if not math.isfinite(losses[-1]):
            raise ValueError(f"the loss of epoch {len(losses)} is {losses[-1]}: learn slower")
        kept = len(losses) % wanted["checkpoint_every"] == 0
        if kept:
            job.keep(len(losses), dumps(training, losses))
        if kept or time.monotonic() - heard > HEARTBEAT_SECONDS:
            tell("training")
            heard = time.monotonic()
    if len(losses) > job.reached():
        job.keep(len(losses), dumps(training, losses))
    if len(losses) < settings.epochs:
        tell("stopped")
        return
    weights = neural.dumps(training.weights())
    job.finish({"losses.json": json.dumps(losses).encode(), "weights.npz": weights})
    tell("finished")


def dumps(training: neural.Training, losses: list[float]) -> bytes:
    """A checkpoint: tensors and numbers alone."""
    import torch

    buffer = BytesIO()
    torch.save({"training": training.state(), "losses": losses}, buffer)
    return buffer.getvalue()


def loads(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read a checkpoint back; it can't run anything."""
    import torch

    content = BytesIO(checkpoint.read())
    found: dict[str, Any] = torch.load(content, weights_only=True, map_location="cpu")
    return found


def _restored(job: Job, training: neural.Training) -> list[float]:
    """Put the training where the newest good checkpoint left it; returns the losses until then."""
    for checkpoint in reversed(job.checkpoints()):
        try:
            found = loads(checkpoint)
        except DamagedCheckpoint as damage:
            print(f"{damage}: going back to the one before it", flush=True)
            checkpoint.path.unlink()
            continue
        training.restore(found["training"])
        losses: list[float] = found["losses"]
        return losses
    return []


def _rows(wanted: dict[str, Any]) -> tuple["NDArray[Any]", "NDArray[Any]"]:
    """Features and labels, if they are what was ordered and every one is a number."""
    import numpy as np
    import pyarrow.parquet as pq

    content = Path(wanted["rows"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != wanted["sha256"]:
        raise ValueError(
            f"{wanted['rows']} was changed after it was written. Clear the task that wrote it to "
            "make it again."
        )
    table = pq.read_table(BytesIO(content))
    labels = table.column(wanted["label"]).to_numpy()
    table = table.drop_columns([wanted["label"]])
    features = np.column_stack([column.to_numpy() for column in table.columns])
    missing = dict(zip(table.column_names, (~np.isfinite(features)).sum(axis=0), strict=True))
    if holes := ", ".join(f"{name} in {count}" for name, count in missing.items() if count):
        raise ValueError(
            f"{len(features)} rows to train on, and these features have no number: {holes}. Mend "
            "the source, then run again."
        )
    return features, labels


if __name__ == "__main__":
    main(Path(sys.argv[1]))
