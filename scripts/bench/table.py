"""The recorded trials, looked up by config: exact, because every combination was recorded."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.front.pareto import hypervolume, nondominated
from search.objectives import losses
from search.spec.spec import SweepSpec
from search.spec.spec_file import load_sweep
from trainables.config import TrialConfig

HERE = Path(__file__).parent
SPACE = HERE / "space.yaml"
TABLE = HERE / "table.json.gz"

Metrics = dict[str, float]
Bits = tuple[int, int]
"""(weight_bits, activation_bits)"""


@dataclass(frozen=True)
class Network:
    """One trained and pruned network."""

    curve: tuple[float, ...]
    """Accuracy on the validation images after each epoch; shorter where training diverged."""
    epoch_seconds: float
    """CPU time of one epoch."""
    files: Mapping[Bits, Metrics]
    """Accuracy, size and latency of its files; none where training diverged."""
    forecasts: Mapping[Bits, Metrics]
    """Size and latency of its files, known before training."""


@dataclass(frozen=True)
class Table:
    """Every network of a space, with a sweep that says what is looked for."""

    spec: SweepSpec
    networks: Mapping[str, Network]
    """By the trial id of the network under float bits."""

    def network(self, config: TrialConfig) -> Network:
        """Look up what training a config gives."""
        return self.networks[network_id(config)]

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """Losses of every file that was recorded, shape (n, m)."""
        files = [f for network in self.networks.values() for f in network.files.values()]
        return losses(files, self.spec.objective_list)

    @cached_property
    def front(self) -> NDArray[np.float64]:
        """Losses of the true front."""
        return self.losses[nondominated(self.losses)]

    @cached_property
    def hypervolume(self) -> float:
        """Give the hypervolume of the true front."""
        return hypervolume(self.front)


def read_table(path: Path = TABLE) -> Table:
    """Read the recorded table."""
    spec = load_sweep(SPACE)
    stored = json.loads(gzip.decompress(path.read_bytes()))
    fixed = {name: d.at(0) for name, d in spec.space.dimensions.items() if d.count == 1}
    networks = {}
    for entry in stored["networks"]:
        bits = {"weight_bits": 32, "activation_bits": 32}
        config = spec.space.config({**fixed, **entry["config"], **bits})
        networks[config.trial_id] = _network(entry, stored["structures"][entry["structure"]])
    return Table(spec, networks)


def _network(entry: Mapping[str, Any], structure: Mapping[str, Any]) -> Network:
    forecasts = {
        parse_bits(name): {"size_bytes": float(size), "latency_ms": latency}
        for name, (size, latency) in structure.items()
    }
    files = {
        parse_bits(name): {"accuracy": validation, **forecasts[parse_bits(name)]}
        for name, (validation, _) in entry["files"].items()
    }
    return Network(tuple(entry["curve"]), entry["cpu_seconds"], files, forecasts)


def network_id(config: TrialConfig) -> str:
    """Name the network of a config: its trial id under float bits."""
    return config.model_copy(update={"weight_bits": 32, "activation_bits": 32}).trial_id


def bits_of(config: TrialConfig) -> Bits:
    """Give (weight_bits, activation_bits)."""
    return config.weight_bits, config.activation_bits


def parse_bits(name: str) -> Bits:
    """Read `W8A32`.

    >>> parse_bits("W8A32")
    (8, 32)
    """
    weight, activation = name[1:].split("A")
    return int(weight), int(activation)
