"""An analytic stand-in for training: accuracy, size and latency of a config, in microseconds.

Shaped after measured trends: error falls with capacity and rises with a learning rate off its
optimum (which depends on the width), with few bits, and with pruning beyond what the width can
spare. Size and latency follow from the structure alone.
"""

from __future__ import annotations

import math
import random

from made_rows import made_row

from search.spec.spec import SweepSpec
from search.study.rows import ResultRow
from trainables.config import TrialConfig

SPACE = {
    "learning_rate": {"log_uniform": [1e-4, 1e-1]},
    "batch_size": [16, 32, 64, 128],
    "kernel_size": [3, 5],
    "width": {"log_int": [8, 64]},
    "depth": {"int": [2, 4]},
    "amp": ["none", "bf16"],
    "pruning_method": ["none", "filter"],
    "pruning_ratio": {"uniform": [0.0, 0.9]},
    "weight_bits": [32, 16, 8, 4],
    "activation_bits": [32, 8],
}
NOISE = 0.01
"""Standard deviation of accuracy between runs that differ in their seed alone."""
_BITS_ERROR = {(32, 32): 0.0, (16, 32): 0.001, (8, 32): 0.006, (4, 32): 0.045,
               (8, 8): 0.012, (4, 8): 0.06}  # fmt: skip
_BITS_TIME = {(32, 32): 1.0, (16, 32): 0.99, (8, 32): 1.6, (4, 32): 1.9, (8, 8): 0.5, (4, 8): 0.52}


def analytic_sweep(method: str, seed: int, *, siblings: bool = True, **sections) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "analytic",
            "seed": seed,
            "data": {"name": "digits"},
            "space": SPACE,
            "search": {"method": method, "siblings": siblings},
            "objectives": {
                "accuracy": "max",
                "size_bytes": {"direction": "min", "reference": 4e6},
                "latency_ms": {"direction": "min", "reference": 20.0},
            },
        }
        | sections
    )


def true_metrics(config: TrialConfig) -> dict[str, float]:
    """Give accuracy, size and latency without noise."""
    args = config.model_args
    width, depth, kernel = args["width"], args["depth"], args["kernel_size"]
    pair = (config.weight_bits, config.activation_bits)
    kept = 1.0 - config.pruning_ratio
    spare = 0.4 + 0.25 * (width - 8) / 56
    capacity = math.log2(width) / 6 + 0.18 * (kernel == 5) + 0.08 * (depth - 3)
    best_rate = -2.0 - 0.2 * (math.log2(width) - 3) + 0.15 * math.log2(config.batch_size / 32)
    error = 0.04 + 0.9 * math.exp(-2.3 * capacity)
    error += 0.12 * (math.log10(config.learning_rate) - best_rate) ** 2
    error += _BITS_ERROR[pair] + 0.5 * max(0.0, config.pruning_ratio - spare) ** 2
    error += 0.004 * (config.amp == "bf16")
    parameters = (width * kept) ** 2 * kernel**2 * 4 ** min(depth, 3) * 0.6 + 100.0
    work = width**1.5 * kept**1.3 * kernel * depth
    return {
        "accuracy": 1.0 - min(error, 0.95),
        "size_bytes": parameters * config.weight_bits / 8 + 1500.0,
        "latency_ms": 0.002 * work * _BITS_TIME[pair] + 0.05,
    }


def analytic_rows(
    config: TrialConfig, number: int, pairs, *, noise: float = NOISE, seed: int = 0
) -> list[ResultRow]:
    """Give the rows of one training: the config itself first, then its siblings.

    The noise follows from seed and network: asked again, a config has the same row.
    """
    network = config.model_copy(update={"weight_bits": 32, "activation_bits": 32}).trial_id
    rng = random.Random(f"{seed}/{network}")
    shared = rng.gauss(0.0, noise)
    siblings = (
        config.model_copy(update={"weight_bits": w, "activation_bits": a}).canonical()
        for w, a in pairs
    )
    rows = []
    for i, own in enumerate([config, *(s for s in siblings if s != config)]):
        found = true_metrics(own)
        accuracy = found["accuracy"] + shared + rng.gauss(0.0, noise / 3)
        origin = {"origin": "sibling", "parent": config.trial_id} if i else {}
        rows.append(
            made_row(
                number + i,
                accuracy,
                found["size_bytes"],
                found["latency_ms"],
                config=own,
                epochs_trained=0 if i else config.epochs,
                **origin,
            )
        )
    return rows
