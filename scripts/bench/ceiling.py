"""Print what the recorded table allows: an oracle's choice, and what early epochs add to a config.

    PYTHONPATH=.:scripts python -m bench.ceiling

The oracle knows every file and always trains the network that adds most hypervolume. What early
epochs tell is the standard deviation of the logarithm of the final error that a linear regression
leaves, 10-fold: on the config alone, on the accuracy of an epoch alone, and on both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.table import Table, read_table
from search.front.pareto import hypervolume
from search.objectives import losses

Floats = NDArray[np.float64]

FOLDS = 10
LEAST_ERROR = 0.01
"""Added to errors before their logarithm: what a few validation images decide."""


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


def left_over(features: Floats, target: Floats) -> float:
    """Give the standard deviation that a linear regression leaves of what it did not see."""
    x = np.column_stack([np.ones(len(target)), features])
    fold = np.random.default_rng(0).integers(FOLDS, size=len(target))
    rest = np.zeros(len(target))
    for k in range(FOLDS):
        weights = np.linalg.lstsq(x[fold != k], target[fold != k], rcond=None)[0]
        rest[fold == k] = target[fold == k] - x[fold == k] @ weights
    return float(rest.std())


def main() -> None:
    """Print both."""
    table = read_table()
    reached = oracle(table, 10)
    print("oracle, after 1 to 10 trainings:", " ".join(f"{value:.3f}" for value in reached))
    space = table.spec.space
    float_bits = {"weight_bits": 32, "activation_bits": 32}
    configs = {c.trial_id: c for c in (c.model_copy(update=float_bits) for c in space.grid())}
    ended = [key for key, network in table.networks.items() if network.files]
    units = np.array([space.to_unit(configs[key]) for key in ended])
    units = units[:, np.ptp(units, axis=0) > 0]
    pairs = [units[:, i] * units[:, j] for i in range(units.shape[1]) for j in range(i + 1)]
    config = np.column_stack([units, *pairs])
    errors = np.log(1 - np.array([table.networks[k].curve for k in ended]) + LEAST_ERROR)
    final = errors[:, -1]
    print(f"log error: sd {final.std():.2f}, config leaves {left_over(config, final):.2f}")
    for epoch in range(errors.shape[1] - 1):
        now = errors[:, [epoch]]
        both = left_over(np.column_stack([config, now]), final)
        print(f"epoch {epoch + 1}: leaves {left_over(now, final):.2f}, with config {both:.2f}")


if __name__ == "__main__":
    main()
