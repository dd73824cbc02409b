"""Print what real sweeps with tight bounds spend on models that break them.

    python scripts/bench/infeasible_sweep.py

The bundled digits; nothing is looked up. Without the forecast, a trial whose own bits break a
bound trains to the end all the same (bounds are kept from it), with it, it ends before. Wasted are
the epochs of trials none of whose files keeps the bounds.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[2]))  # before this folder, which has a search.py

from search import sweep
from search.objectives import broken
from search.spec.spec import SweepSpec
from trainables.contract import Status

METHODS = ("random", "ehvi")
SPACE = {
    "learning_rate": {"log_uniform": [0.01, 0.3]},
    "batch_size": 64,
    "epochs": 6,
    "width": {"log_int": [4, 64]},
    "depth": {"int": [1, 3]},
    "kernel_size": [3, 5],
    "pruning_method": "filter",
    "pruning_ratio": {"uniform": [0.0, 0.75]},
    "weight_bits": [32, 8, 4],
    "activation_bits": [32, 8],
}
BOUNDS = {"size_bytes": {"max": 2e4}, "latency_ms": {"max": 0.03}}
SEEDS = 3
TRIALS = 24


def spec(method: str, seed: int, storage: str) -> SweepSpec:
    """Give the sweep."""
    return SweepSpec.model_validate(
        {
            "name": "bounds",
            "seed": seed,
            "storage": storage,
            "data": {"name": "digits", "image_size": 16},
            "space": SPACE,
            "search": {"method": method, "trials": TRIALS},
            "objectives": {"accuracy": "max", "size_bytes": "min", "latency_ms": "min"},
            "constraints": BOUNDS,
            "resources": {"max_concurrent": 2},
        }
    )


def spent(method: str, seed: int, *, forecast: bool) -> tuple[int, int, int]:
    """Give trials whose own bits break a bound, epochs in all, and those that were wasted."""
    settings = sweep._settings
    without = patch.object(
        sweep, "_settings", lambda recorder: replace(settings(recorder), bounds={})
    )
    with tempfile.TemporaryDirectory(prefix="paretune-") as storage:
        asked = spec(method, seed, storage)
        with nullcontext() if forecast else without:
            rows = sweep.run_sweep(asked).rows
    keeps = defaultdict(bool)
    for row in rows:
        good = row.status is Status.MEASURED and not broken(row.metrics, asked.constraint_list)
        keeps[row.parent or row.trial_id] |= good
    own = [row for row in rows if row.is_trial]
    infeasible = [row for row in own if broken(_forecast(row.metrics), asked.constraint_list)]
    wasted = sum(row.epochs_spent for row in own if not keeps[row.trial_id])
    return len(infeasible), sum(row.epochs_spent for row in own), wasted


def _forecast(metrics: dict[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in BOUNDS if name in metrics}


def main() -> None:
    """Print one line per method, without and with the forecast."""
    print(f"{SEEDS} seeds, {TRIALS} trials each   infeasible trials   epochs   wasted")
    for method in METHODS:
        for forecast in (False, True):
            runs = [spent(method, s, forecast=forecast) for s in range(SEEDS)]
            broke, epochs, wasted = (sum(column) for column in zip(*runs, strict=True))
            name = f"{method} {'with' if forecast else 'without'} forecast"
            share = wasted / max(epochs, 1)
            print(f"{name:26}{broke:19}{epochs:12}{share:10.0%}", flush=True)


if __name__ == "__main__":
    main()
