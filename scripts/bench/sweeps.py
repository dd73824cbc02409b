"""Real sweeps with the same seeds and the same training epochs, nothing looked up.

Goes on where it was interrupted: what has run stands in `sweeps.json.gz`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from search.front.pareto import hypervolume
from search.objectives import losses
from search.observer import SweepObserver
from search.spec.spec import SweepSpec
from search.study.rows import ResultRow
from search.sweep import run_sweep
from trainables.config import TrialConfig
from trainables.contract import Progress, Status

RESULTS = Path(__file__).parent / "sweeps.json.gz"
METHODS = (
    ("random", "none"),
    ("tpe", "asha"),
    ("tpe", "pareto_asha"),
    ("gp", "pareto_asha"),
    ("ehvi", "pareto_asha"),
)
TRAININGS = 14
"""Whole trainings that the budget of epochs would pay for."""
SHARES = (0.25, 0.5, 1.0)
"""Of the budget, at which the hypervolume is noted."""
SPACE = {
    "learning_rate": {"log_uniform": [0.01, 0.3]},
    "batch_size": [32, 64, 128],
    "epochs": 9,
    "augmentation": "crop",
    "width": {"log_int": [4, 32]},
    "depth": {"int": [1, 3]},
    "kernel_size": [3, 5],
    "pruning_method": "filter",
    "pruning_ratio": {"uniform": [0.0, 0.75]},
    "weight_bits": [32, 16, 8, 4],
    "activation_bits": [32, 8],
}


@dataclass
class Spending(SweepObserver):
    """Counts epochs, notes what was found after how many, and ends a sweep at its budget."""

    budget_epochs: int
    epochs: int = 0
    found: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def epoch_ended(self, trial_id: str, progress: Progress) -> None:
        """Count an epoch."""
        self.epochs += 1
        if self.epochs >= self.budget_epochs + 1:
            raise KeyboardInterrupt

    def trial_started(self, trial_id: str, config: TrialConfig) -> None:
        """Show that something happens."""
        print(".", end="", flush=True)

    def trial_ended(self, row: ResultRow) -> None:
        """Note a measured file."""
        if row.status is Status.MEASURED:
            self.found.append((self.epochs, row.metrics))


def main() -> None:
    """Run every method for every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of images by class; else the digits")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    results = read_results()
    for seed in range(asked.seeds):
        for search, stop in METHODS:
            label = "digits" if asked.data is None else asked.data.name
            key = f"{label}: {search} + {stop}"
            done = results.setdefault(key, {})
            if str(seed) not in done:
                done[str(seed)] = run(sweep(asked.data, search, stop, seed))
                write_results(results)
                print(key, seed, done[str(seed)], flush=True)


def sweep(data: Path | None, search: str, stop: str, seed: int) -> SweepSpec:
    """Give the sweep of a method: on the digits, or on images of a folder."""
    digits = {"name": "digits", "image_size": 16, "validation_share": 0.3}
    folder = {"name": "image_folder", "path": str(data), "image_size": 16, "validation_share": 0.3}
    return SweepSpec.model_validate(
        {
            "name": "bench",
            "seed": seed,
            "data": digits if data is None else folder,
            "space": SPACE | ({} if data is None else {"batch_size": [64, 128, 256]}),
            "search": {"method": search, "trials": 1000},
            "stop": {"method": stop},
            "objectives": {
                "accuracy": {"direction": "max", "reference": 0.8 if data is None else 0.2},
                "size_bytes": {"direction": "min", "reference": 1e6},
                "latency_ms": {"direction": "min", "reference": 0.3},
            },
            "resources": {"max_concurrent": 2},
        }
    )


def run(spec: SweepSpec) -> dict[str, Any]:
    """Run a sweep until its epochs are spent; give hypervolume at shares of them."""
    budget = TRAININGS * spec.space.max_epochs
    spending = Spending(budget)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="paretune-") as storage:
        outcome = run_sweep(spec.model_copy(update={"storage": storage}), observers=[spending])
    if outcome.interrupted and spending.epochs <= budget:
        raise KeyboardInterrupt  # by a person
    trained = [row for row in outcome.rows if row.origin == "trained"]
    points = losses([metrics for _, metrics in spending.found], spec.objective_list)
    spent = np.array([epochs for epochs, _ in spending.found])
    volumes = {
        f"{share:.0%}": round(hypervolume(points[spent <= share * budget]), 4) for share in SHARES
    }
    return {
        "hypervolume": volumes,
        "trials": len(trained),
        "to the end": sum(row.status is Status.MEASURED for row in trained),
        "seconds": round(time.monotonic() - started),
    }


def read_results() -> dict[str, Any]:
    """Give what has run: by data and method, by seed."""
    return json.loads(gzip.decompress(RESULTS.read_bytes())) if RESULTS.exists() else {}


def write_results(results: dict[str, Any]) -> None:
    """Store what has run."""
    text = json.dumps(results, separators=(",", ":"), sort_keys=True).encode()
    RESULTS.write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main()
