"""Print what a sweep with tight bounds on size and latency spends on models that break them.

    python scripts/bench/infeasible.py [SEEDS]

40 trials on the analytic problem of the tests, siblings on; nine of ten random configs break a
bound. With the forecast, a trial whose own bits break a bound ends before its first epoch, and the
searcher hears of it. Without it, it trains to the end. All trials have the same epochs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before this folder, which has a search.py

from analytic_trials import analytic_rows, analytic_sweep, true_metrics

from search.front.pareto import hypervolume
from search.objectives import broken, losses
from search.searchers import make_searcher
from trainables.contract import Status

METHODS = ("random", "tpe", "gp", "ehvi")
BOUNDS = {"size_bytes": {"max": 5e4}, "latency_ms": {"max": 0.25}}
TRIALS = 40


def spent(method: str, seed: int, *, forecast: bool) -> tuple[float, float, float]:
    """Give the share of infeasible trials, of epochs spent on them, and the hypervolume."""
    spec = analytic_sweep(method, seed, constraints=BOUNDS)
    searcher = make_searcher(spec)
    infeasible = trained = wasted = 0
    found = []
    for number in range(TRIALS):
        config = searcher.ask()
        rows = analytic_rows(config, 10 * number, spec.space.bits_pairs, seed=seed)
        breaks = bool(broken(rows[0].metrics, spec.constraint_list))
        infeasible += breaks
        if breaks and forecast:
            known = {k: v for k, v in rows[0].metrics.items() if k != "accuracy"}
            changes = {"status": Status.INFEASIBLE, "metrics": known}
            searcher.tell(rows[0].model_copy(update=changes))
            continue
        kept = [row for row in rows if not broken(row.metrics, spec.constraint_list)]
        trained += 1
        wasted += not kept
        for row in rows:
            searcher.tell(row)
        found += [true_metrics(row.config) for row in kept]
    volume = hypervolume(losses(found, spec.objective_list)) if found else 0.0
    return infeasible / TRIALS, wasted / max(trained, 1), volume


def main() -> None:
    """Print one line per method, without and with the forecast."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"mean of {seeds} seeds   infeasible trials   epochs wasted   hypervolume")
    for method in METHODS:
        for forecast in (False, True):
            runs = [spent(method, seed, forecast=forecast) for seed in range(seeds)]
            shares = np.mean(runs, axis=0)
            name = f"{method} {'with' if forecast else 'without'}"
            print(f"{name:18}{shares[0]:20.2f}{shares[1]:16.2f}{shares[2]:14.3f}", flush=True)


if __name__ == "__main__":
    main()
