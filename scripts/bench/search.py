"""Compare searchers and schedulers on recorded and analytic trials, at equal training epochs.

Goes on where it was interrupted: what has run stands in `results.json.gz`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.analytic import PROBLEMS, Analytic, analytic
from bench.methods import PEERS, Own, scheduler
from bench.simulate import Method, Run, simulate
from bench.table import Table, read_table
from search.front.pareto import hypervolume
from search.objectives import losses

HERE = Path(__file__).parent
RESULTS = HERE / "results.json.gz"
BUDGET_EPOCHS = 360
"""Of 40 trainings to the end."""
ANALYTIC_BUDGET = 60
"""Of evaluations."""
WORKERS = 4
MARKS = tuple(k / 20 for k in range(1, 21))
"""Shares of the budget at which the hypervolume is noted."""


@dataclass(frozen=True)
class Case:
    """One method with one scheduler."""

    search: str
    stop: str
    siblings: bool = False
    seeds: int = 20
    peer: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    """Of the scheduler."""

    @property
    def name(self) -> str:
        """Give what it is called in tables."""
        options = "".join(f" {key}={value}" for key, value in self.options)
        return f"{self.search} + {self.stop}{options}{' + siblings' if self.siblings else ''}"


def own_cases() -> list[Case]:
    """Give the methods of this project, with siblings as sweeps have them, and without."""
    names = ("ehvi", "gp", "tpe")
    return [
        *(Case(name, "pareto_asha", siblings=True) for name in (*names, "random")),
        *(
            Case("ehvi", "pareto_asha", siblings=True, options=(pair,))
            for pair in (("grace_epochs", 3), ("promote", True))
        ),
        *(Case(name, "none", siblings=True) for name in names),
        *(Case(name, "pareto_asha") for name in (*names, "random")),
        Case("ehvi", "none"),
    ]


def peer_cases() -> list[Case]:
    """Give what other libraries offer; random search is among the stopping cases."""
    return [
        Case("nsga2", "none", peer=True),
        Case("motpe", "none", peer=True),
        Case("mogp", "none", peer=True),
        Case("hyperopt", "asha", peer=True),
    ]


def stopping_cases() -> list[Case]:
    """Give random search under every scheduler."""
    changed = (("keep_front", False), ("promote", True), ("grace_epochs", 3))
    return [
        *(
            Case("random", stop, siblings=siblings, seeds=30)
            for stop in ("none", "asha", "moasha", "pareto_asha")
            for siblings in (False, True)
        ),
        *(Case("random", "pareto_asha", True, seeds=30, options=(pair,)) for pair in changed),
    ]


def analytic_cases() -> list[Case]:
    """Give what is compared on problems where a training is one epoch: nothing can be stopped."""
    own = [Case(name, "none", seeds=10) for name in ("random", "ehvi", "gp", "tpe")]
    peers = [Case(name, "none", seeds=10, peer=True) for name in ("nsga2", "motpe", "mogp")]
    return [*own, *peers]


def main() -> None:
    """Run every case that was asked for and has not run yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run cases whose name contains this")
    asked = parser.parse_args()
    results = read_results()
    table = read_table()
    for case in dict.fromkeys([*stopping_cases(), *peer_cases(), *own_cases()]):
        if asked.only in case.name:
            run_seeds(results, case.name, table, case, BUDGET_EPOCHS)
    for name in PROBLEMS:
        problem = analytic(name)
        for case in analytic_cases():
            if asked.only in f"{name}: {case.name}":
                run_seeds(results, f"{name}: {case.name}", problem, case, ANALYTIC_BUDGET)


def run_seeds(
    results: dict[str, Any], name: str, trials: Table | Analytic, case: Case, budget: int
) -> None:
    """Run what is missing of a case, and store it."""
    done = results.setdefault(name, {})
    for seed in range(case.seeds):
        if str(seed) not in done:
            done[str(seed)] = run_case(trials, case, seed, budget)
            write_results(results)
    print(name, summary(done), flush=True)


def run_case(
    trials: Table | Analytic, case: Case, seed: int, budget_epochs: int
) -> dict[str, Any]:
    """Simulate one sweep and note what it found, when."""
    started = time.process_time()
    method: Method
    if case.peer:
        method = PEERS[case.search](trials.spec, seed)
    else:
        method = Own(trials.spec, case.search, seed, siblings=case.siblings)
    np.random.seed(seed)  # Syne Tune breaks ties with the global generator
    stop = scheduler(trials.spec, case.stop, seed, **dict(case.options))
    promote = bool(dict(case.options).get("promote"))
    run = simulate(
        trials, method, stop, budget_epochs=budget_epochs, workers=WORKERS, promote=promote
    )
    seconds = round(time.process_time() - started, 2)
    return {**judged(trials, run, budget_epochs), "seconds": seconds}


def judged(trials: Table | Analytic, run: Run, budget_epochs: int) -> dict[str, Any]:
    """Give normalised hypervolume at each mark, and the share of the true front found."""
    spent = np.array([epochs for epochs, _ in run.found])
    points = losses([metrics for _, metrics in run.found], trials.spec.objective_list)
    volumes = [hypervolume(points[spent <= mark * budget_epochs]) for mark in MARKS]
    front = {tuple(row) for row in trials.front}
    return {
        "hypervolume": [round(volume / trials.hypervolume, 5) for volume in volumes],
        "front": round(len(front & {tuple(row) for row in points}) / len(front), 4),
        "accuracy": max((metrics["accuracy"] for _, metrics in run.found), default=0.0),
        "started": run.started,
        "finished": run.finished,
        "epochs": run.epochs,
    }


def summary(done: dict[str, Any]) -> str:
    """Give medians in one line."""
    runs = list(done.values())
    volumes = np.array([run["hypervolume"] for run in runs])
    middle = np.median(volumes[:, [1, 4, 9, 19]], axis=0).round(4)
    keys = [key for key in runs[0] if key != "hypervolume"]
    shown = {key: round(float(np.mean([run[key] for run in runs])), 3) for key in keys}
    return f"{middle} {shown}"


def read_results() -> dict[str, Any]:
    """Give what has run: by case, by seed."""
    return json.loads(gzip.decompress(RESULTS.read_bytes())) if RESULTS.exists() else {}


def write_results(results: dict[str, Any]) -> None:
    """Store what has run."""
    text = json.dumps(results, separators=(",", ":"), sort_keys=True).encode()
    RESULTS.write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main()
