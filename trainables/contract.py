"""What a trial tells the outside: metrics, progress, forecast, measurement. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

Direction = Literal["min", "max"]


class Status(StrEnum):
    """How a trial ended."""

    MEASURED = "measured"
    """It has an artifact, and every number was measured on that file."""
    STOPPED = "stopped"
    """The scheduler ended it early; no artifact."""
    INFEASIBLE = "infeasible"
    """Its forecast breaks a hard bound; it never trained."""
    DIVERGED = "diverged"
    """The loss became non-finite."""
    FAILED = "failed"
    """It raised an error, or its worker died."""


@dataclass(frozen=True)
class Metric:
    """A number that a measured trial has, and how it is shown and scaled.

    `ideal` and `reference` bound the axis of the hypervolume: the loss is 0 at `ideal` and 1 at
    `reference`, on a logarithmic axis where `log` is true. They are constants, so that the
    hypervolume of two studies can be compared.
    """

    name: str
    unit: str
    direction: Direction
    log: bool
    ideal: float
    reference: float
    resolution: float = 0.0
    """Relative difference below which two values are a tie (0: none)."""
    forecast: bool = False
    """Known before training, because it does not depend on the weights."""


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("accuracy", "", "max", False, 1.0, 0.0),
        Metric("size_bytes", "B", "min", True, 1e3, 1e8, forecast=True),
        # Deflated weights depend on their values, so this one is not forecast.
        Metric("compressed_bytes", "B", "min", True, 1e3, 1e8),
        # Ties below 2 %: the run-to-run spread of the protocol in measure.py is 0.3 to 1 %.
        Metric("latency_ms", "ms", "min", True, 1e-2, 1e2, resolution=0.02, forecast=True),
        Metric("parameters", "", "min", True, 1e2, 1e8, forecast=True),
        Metric("train_seconds", "s", "min", True, 1e-1, 1e5),
        Metric("peak_memory_bytes", "B", "min", True, 1e5, 1e11),
    )
}


@dataclass(frozen=True)
class Latency:
    """Time of one inference call (one batch) of one file on one device."""

    ms: float
    low_ms: float
    high_ms: float
    """95 % confidence interval of `ms`."""
    ratio: float
    """To the fixed reference model, measured alternately in the same run."""
    clock: Literal["thread_cpu", "wall"]
    """CPU time of the calling thread (valid at one thread only), or wall time."""
    runs: int
    threads: int
    batch_size: int
    device: str


@dataclass(frozen=True)
class Forecast:
    """Size and latency of the final artifact, measured before training on initial weights."""

    size_bytes: int
    parameters: int
    latency: Latency
    exact: bool = True
    """Whether the file will have this very structure; not if trained weights decide the widths."""


@dataclass(frozen=True)
class Progress:
    """What a trial reports after each epoch. Accuracy is on the validation images."""

    epoch: int
    accuracy: float
    loss: float
    learning_rate: float
    size_bytes: int
    latency_ms: float
    train_seconds: float
    """Spent in training steps so far."""
    skipped_steps: int
    """Optimiser steps that fp16 loss scaling skipped so far."""
    loss_scale: float
    """Of fp16 loss scaling; 1 without it."""
    parameters: int
    sparsity: float = 0.0
    """Share of the parameters that pruning has removed or set to 0 so far."""
    peak_memory_bytes: int = 0
    """Largest so far, see `train.py`."""


@dataclass(frozen=True)
class Measurement:
    """Final numbers of one artifact, all measured on that very file."""

    accuracy: float
    """Share of the validation images that the file classifies right."""
    test_accuracy: float
    """The same on the test images, which nothing ever optimised."""
    size_bytes: int
    compressed_bytes: int
    """Size of the file deflated, as an app store or a registry transfers it."""
    parameters: int
    latency: Latency
    train_seconds: float
    operators: dict[str, int]
    """Operators of the runtime's optimised graph: what was really executed."""
    max_disagreement: float
    """Largest difference of an output between the file and the model it came from."""
    peak_memory_bytes: int = 0
    """Of training: see `train.py`."""
    uncompressed: Forecast | None = None
    """The same network neither pruned nor quantized, measured in the same session."""

    def metrics(self) -> dict[str, float]:
        """Give the value of every name in METRICS."""
        return {
            "accuracy": self.accuracy,
            "size_bytes": self.size_bytes,
            "compressed_bytes": self.compressed_bytes,
            "latency_ms": self.latency.ms,
            "parameters": self.parameters,
            "train_seconds": self.train_seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def without_payoff(self) -> list[str]:
        """Say in what the file is no better than its own uncompressed self."""
        return [] if self.uncompressed is None else without_payoff(self, self.uncompressed)


def without_payoff(file: Measurement | Forecast, whole: Forecast) -> list[str]:
    """Say in what a compressed file is no better than the uncompressed one.

    Latencies differ only where their confidence intervals do not meet.
    """
    found = []
    if file.size_bytes >= whole.size_bytes:
        found.append(f"not smaller: {file.size_bytes / whole.size_bytes:.2f} of the size")
    ratio = file.latency.ms / whole.latency.ms
    if file.latency.low_ms > whole.latency.high_ms:
        found.append(f"slower: {ratio:.2f} of the latency")
    elif file.latency.high_ms >= whole.latency.low_ms:
        found.append(f"not faster: {ratio:.2f} of the latency")
    return found


@dataclass
class TrialReport:
    """All that one trial leaves behind, in types that cross processes."""

    status: Status
    reason: str = ""
    forecast: Forecast | None = None
    measurement: Measurement | None = None
    artifact: str | None = None
    """File name inside the study's artifact folder."""
    epochs_trained: int = 0
    """Of the network, wherever."""
    epochs_spent: int = 0
    """Trained by this trial: sums to the cost of the study."""
    continued_from: str | None = None
    """Trial that trained the epochs before `epochs_spent`."""
    skipped_steps: int = 0
    without_payoff: list[str] = field(default_factory=list)
    """In what the file is no better than its own uncompressed self."""
    pruning: dict[str, Any] | None = None
    """What pruning removed: parameters before and after, layers."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, device, CPU flags and data fingerprint."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by phase."""
    resumed_from: list[int] = field(default_factory=list)
    """Epochs after which the trial went on from a checkpoint, because a worker, a node or the
    driver was lost."""

    def for_sibling(self) -> TrialReport:
        """Give the report to start from for the same network under other bits: it cost nothing."""
        return replace(self, forecast=None, seconds={}, epochs_spent=0, without_payoff=[])

    def to_dict(self) -> dict[str, Any]:
        """Give nested plain dicts, ready for JSON."""
        return asdict(self)
