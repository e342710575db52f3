"""A small neural network for yes-or-no questions; needs torch and numpy, and no Airflow.

The same data, seed and number of threads give the same weights, bit for bit, on the same kind of
device: in this process, in another one, today and tomorrow.
"""

import resource
import time
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 256


@dataclass(frozen=True)
class Settings:
    """The knobs of a training."""

    hidden: int = 16
    epochs: int = 20
    learning_rate: float = 0.01
    threads: int = 1
    seed: int = 97


@dataclass(frozen=True)
class Cost:
    """What a training took; the memory is the most that its process ever held, or the card did."""

    device: str
    seconds: float
    peak_memory_mb: float
    loss: float

    def as_dict(self) -> dict[str, Any]:
        """For XCom and MLflow."""
        return asdict(self)


def device() -> str:
    """The card where there is one, else the processor."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def train(
    features: "NDArray[Any]", labels: "NDArray[Any]", settings: Settings
) -> tuple[dict[str, "NDArray[Any]"], Cost]:
    """Fit the network; returns its weights as plain arrays, and what it cost."""
    import torch

    began = time.perf_counter()
    where = device()
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        generator = torch.Generator().manual_seed(settings.seed)
        inputs = torch.tensor(features, dtype=torch.float32, device=where)
        wanted = torch.tensor(labels, dtype=torch.float32, device=where)
        weights = _initial(inputs.shape[1], settings.hidden, generator)
        weights = {name: part.to(where).requires_grad_() for name, part in weights.items()}
        optimiser = torch.optim.Adam(weights.values(), lr=settings.learning_rate)
        loss = torch.zeros(())
        for _ in range(settings.epochs):
            order = torch.randperm(len(inputs), generator=generator).to(where)
            for rows in order.split(BATCH):
                optimiser.zero_grad()
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    _logits(weights, inputs[rows]), wanted[rows]
                )
                loss.backward()
                optimiser.step()
        fitted = {name: part.detach().cpu().numpy() for name, part in weights.items()}
    finally:
        torch.set_num_threads(threads)
    return fitted, Cost(
        device=torch.cuda.get_device_name() if where == "cuda" else "cpu",
        seconds=round(time.perf_counter() - began, 2),
        peak_memory_mb=round(_peak_memory_mb(where), 1),
        loss=round(float(loss.detach()), 6),
    )


def scores(weights: dict[str, "NDArray[Any]"], features: "NDArray[Any]") -> "NDArray[Any]":
    """How likely each row is a yes; serving needs no torch for that."""
    inner = np.maximum(features @ weights["inner"] + weights["inner_bias"], 0)
    odds = inner @ weights["outer"] + weights["outer_bias"]
    return np.asarray(1 / (1 + np.exp(-odds[:, 0])))


def dumps(weights: dict[str, "NDArray[Any]"]) -> bytes:
    """Weights as a numpy archive: plain arrays, which run nothing when they are read."""
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **weights)
    return buffer.getvalue()


def loads(content: bytes) -> dict[str, "NDArray[Any]"]:
    """Read weights back."""
    with np.load(BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _initial(inputs: int, hidden: int, generator: Any) -> dict[str, Any]:
    import torch

    return {
        "inner": torch.randn(inputs, hidden, generator=generator) / inputs**0.5,
        "inner_bias": torch.zeros(hidden),
        "outer": torch.randn(hidden, 1, generator=generator) / hidden**0.5,
        "outer_bias": torch.zeros(1),
    }


def _logits(weights: dict[str, Any], inputs: Any) -> Any:
    import torch

    inner = torch.relu(inputs @ weights["inner"] + weights["inner_bias"])
    return (inner @ weights["outer"] + weights["outer_bias"])[:, 0]


def _peak_memory_mb(where: str) -> float:
    import torch

    if where == "cuda":
        return float(torch.cuda.max_memory_allocated()) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
