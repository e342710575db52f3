"""A small neural network for yes-or-no questions; needs torch and numpy, and no Airflow.

The same data, seed and number of threads give the same weights, bit for bit, on the same kind of
device: in this process, in another one, today and tomorrow.
"""

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
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
    """What a training took; the memory is the most that its process ever held, or the card did.

    The loss is the mean over the last epoch.
    """

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


class Training:
    """A training that can be put down after any epoch and taken up again, with the same result."""

    def __init__(self, features: "NDArray[Any]", labels: "NDArray[Any]", settings: Settings):
        """Put data and first weights on the device."""
        import torch

        self.device = device()
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._inputs = torch.tensor(features, dtype=torch.float32, device=self.device)
        self._wanted = torch.tensor(labels, dtype=torch.float32, device=self.device)
        drawn = initial(self._inputs.shape[1], settings.hidden, self._generator)
        self._weights = {
            name: part.to(self.device).requires_grad_() for name, part in drawn.items()
        }
        self._optimiser = torch.optim.Adam(self._weights.values(), lr=settings.learning_rate)

    def epoch(self) -> float:
        """Show it every row once; returns the mean loss."""
        import torch

        total = torch.zeros((), device=self.device)
        order = torch.randperm(len(self._inputs), generator=self._generator).to(self.device)
        for rows in order.split(BATCH):
            self._optimiser.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits(self._weights, self._inputs[rows]), self._wanted[rows]
            )
            loss.backward()
            self._optimiser.step()
            total += loss.detach() * len(rows)
        return float(total) / len(order)

    def weights(self) -> dict[str, "NDArray[Any]"]:
        """What it has learned so far, as plain arrays."""
        return {name: part.detach().cpu().numpy().copy() for name, part in self._weights.items()}

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on: weights, the optimiser's memory, the next shuffle."""
        return {
            "weights": {name: part.detach().cpu() for name, part in self._weights.items()},
            "optimiser": self._optimiser.state_dict(),
            "generator": self._generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state that was kept."""
        import torch

        with torch.no_grad():
            for name, part in self._weights.items():
                part.copy_(state["weights"][name])
        self._optimiser.load_state_dict(state["optimiser"])
        self._generator.set_state(state["generator"])


def train(
    features: "NDArray[Any]", labels: "NDArray[Any]", settings: Settings
) -> tuple[dict[str, "NDArray[Any]"], Cost]:
    """Fit the network; returns its weights as plain arrays, and what it cost."""
    import torch

    began = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        training = Training(features, labels, settings)
        loss = 0.0
        for _ in range(settings.epochs):
            loss = training.epoch()
    finally:
        torch.set_num_threads(threads)
    return training.weights(), Cost(
        device=torch.cuda.get_device_name() if training.device == "cuda" else "cpu",
        seconds=round(time.perf_counter() - began, 2),
        peak_memory_mb=round(_peak_memory_mb(training.device), 1),
        loss=round(loss, 6),
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


def initial(inputs: int, hidden: int, generator: Any) -> dict[str, Any]:
    """Where a training begins: the weights, as tensors."""
    import torch

    return {
        "inner": torch.randn(inputs, hidden, generator=generator) / inputs**0.5,
        "inner_bias": torch.zeros(hidden),
        "outer": torch.randn(hidden, 1, generator=generator) / hidden**0.5,
        "outer_bias": torch.zeros(1),
    }


def logits(weights: Mapping[str, Any], inputs: Any) -> Any:
    """What the network says of each row, as log odds."""
    import torch

    inner = torch.relu(inputs @ weights["inner"] + weights["inner_bias"])
    return (inner @ weights["outer"] + weights["outer_bias"])[:, 0]


def _peak_memory_mb(where: str) -> float:
    import torch

    if where == "cuda":
        return float(torch.cuda.max_memory_allocated()) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux a new program inherits its parent's ru_maxrss; this figure is its own.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 2**10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)
