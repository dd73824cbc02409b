"""Print what the recorded table allows to those who know more than a searcher can.

    PYTHONPATH=.:scripts python -m bench.ceiling

The oracle knows every file and always trains the network that adds most hypervolume. The informed
method knows every size and latency, and of accuracy what a regression on the whole table says of
networks that it has not seen (10-fold); with four workers it trains what is expected to add most.

What early epochs tell is the standard deviation of the logarithm of the final error that a linear
regression leaves, 10-fold: on the config alone, on the accuracy of an epoch alone, and on both.

Shapes: n networks or files, m objectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bench.methods import scheduler
from bench.search import BUDGET_EPOCHS, MARKS, WORKERS, judged
from bench.simulate import simulate
from bench.table import Table, bits_of, network_id, read_table
from search.front.pareto import hypervolume
from search.objectives import losses
from search.study.rows import ResultRow
from trainables.config import TrialConfig

Floats = NDArray[np.float64]

FOLDS = 10
LEAST_ERROR = 0.01
"""Added to errors before their logarithm: what a few validation images decide."""
NODES = ndtri((np.arange(5) + 0.5) / 5)
"""Equally likely values of what a regression leaves; siblings share it."""


def oracle(table: Table, trainings: int) -> list[float]:
    """Give the normalised hypervolume after each training, chosen greedily."""
    objectives = table.spec.objective_list
    left = [losses(list(n.files.values()), objectives) for n in table.networks.values() if n.files]
    found = np.empty((0, len(objectives)))
    reached = []
    for _ in range(trainings):
        volumes = [hypervolume(np.vstack([found, own])) for own in left]
        best = int(np.argmax(volumes))
        found = np.vstack([found, left.pop(best)])
        reached.append(volumes[best] / table.hypervolume)
    return reached


class Informed:
    """Trains what a regression on the whole table expects to add most."""

    siblings = True

    def __init__(self, table: Table) -> None:
        self.objectives = table.spec.objective_list
        self.configs = {network_id(config): config for config in table.spec.space.grid()}
        self.expected = _expected(table)
        self.found = np.empty((0, len(self.objectives)))
        self.under_way: set[str] = set()

    def ask(self) -> TrialConfig | None:
        """Give the network that is expected to add most beside what is under way."""
        pending = [self.expected[key][len(NODES) // 2] for key in sorted(self.under_way)]
        front = np.vstack([self.found, *pending])
        best = max(self.expected, key=lambda key: self._volume(front, key), default=None)
        if best is None:
            return None
        self.under_way.add(best)
        return self.configs[best]

    def hear(self, config: TrialConfig, epoch: int, accuracy: float) -> None:
        """Early epochs are not looked at."""

    def adopt(self, config: TrialConfig) -> None:
        """Nothing is stopped, so nothing goes on."""

    def tell(self, rows: Sequence[ResultRow]) -> None:
        """Add the files of a training to those found."""
        key = network_id(rows[0].config)
        self.under_way.discard(key)
        del self.expected[key]
        measured = [row.metrics for row in rows if "accuracy" in row.metrics]
        self.found = np.vstack([self.found, losses(measured, self.objectives)])

    def _volume(self, front: Floats, key: str) -> float:
        if key in self.under_way:
            return 0.0
        return sum(hypervolume(np.vstack([front, own])) for own in self.expected[key])


def _expected(table: Table) -> dict[str, list[Floats]]:
    """Give the losses (files, m) of each network at each node, from networks of other folds."""
    space = table.spec.space
    files = [c for c in space.grid() if bits_of(c) in table.network(c).files]
    found = [table.network(c).files[bits_of(c)] for c in files]
    keys = list(map(network_id, files))
    groups = np.unique(keys, return_inverse=True)[1]
    target = log_errors([metrics["accuracy"] for metrics in found])
    middle = predicted(with_products([space.to_unit(c) for c in files]), target, groups)
    sd = float((target - middle).std())
    expected: dict[str, list[Floats]] = {}
    for key in dict.fromkeys(keys):
        own = [i for i, other in enumerate(keys) if other == key]
        expected[key] = []
        for node in NODES:
            errors = np.exp(middle[own] + node * sd) - LEAST_ERROR
            rows = [found[i] | {"accuracy": 1 - e} for i, e in zip(own, errors, strict=True)]
            expected[key].append(losses(rows, table.spec.objective_list))
    return expected


def log_errors(accuracies: Sequence[float] | Floats) -> Floats:
    """Give logarithms of errors."""
    return np.asarray(np.log(1 - np.asarray(accuracies) + LEAST_ERROR))


def with_products(units: Sequence[Floats] | Floats) -> Floats:
    """Give the coordinates (n, d) that vary, and all products of two of them."""
    varying = np.asarray(units)[:, np.ptp(units, axis=0) > 0]
    pairs = [varying[:, i] * varying[:, j] for i in range(varying.shape[1]) for j in range(i + 1)]
    return np.column_stack([varying, *pairs])


def predicted(features: Floats, target: Floats, groups: NDArray[np.int64]) -> Floats:
    """Give what a linear regression says of targets (n,) of groups that it did not see."""
    x = np.column_stack([np.ones(len(target)), features])
    fold = np.random.default_rng(0).integers(FOLDS, size=groups.max() + 1)[groups]
    found = np.zeros(len(target))
    for k in range(FOLDS):
        weights = np.linalg.lstsq(x[fold != k], target[fold != k], rcond=None)[0]
        found[fold == k] = x[fold == k] @ weights
    return found


def main() -> None:
    """Print all of it."""
    table = read_table()
    reached = oracle(table, 10)
    print("oracle, after 1 to 10 trainings:", " ".join(f"{value:.3f}" for value in reached))
    stop = scheduler(table.spec, "none", 0)
    run = simulate(table, Informed(table), stop, budget_epochs=BUDGET_EPOCHS, workers=WORKERS)
    volumes = judged(table, run, BUDGET_EPOCHS)["hypervolume"]
    marks = [f"{mark:.0%} {v:.3f}" for mark, v in zip(MARKS, volumes, strict=True)]
    print("informed, by share of the budget:", ", ".join(marks[1:10]), "...", marks[-1])

    space = table.spec.space
    float_bits = {"weight_bits": 32, "activation_bits": 32}
    configs = {c.trial_id: c for c in (c.model_copy(update=float_bits) for c in space.grid())}
    ended = [key for key, network in table.networks.items() if network.files]
    config = with_products([space.to_unit(configs[key]) for key in ended])
    errors = log_errors(np.array([table.networks[key].curve for key in ended]))
    final, each = errors[:, -1], np.arange(len(ended))

    def left(features: Floats) -> float:
        return float((final - predicted(features, final, each)).std())

    print(f"log error: sd {final.std():.2f}, config leaves {left(config):.2f}")
    for epoch in range(errors.shape[1] - 1):
        now = errors[:, [epoch]]
        both = left(np.column_stack([config, now]))
        print(f"epoch {epoch + 1}: leaves {left(now):.2f}, with config {both:.2f}")


if __name__ == "__main__":
    main()
