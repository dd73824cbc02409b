"""ZDT1 to ZDT3 and DTLZ2 as sweeps: a training is one evaluation, spaces are mixed.

The first objective that has no closed relation to one variable is the accuracy; the others are
size and latency. Sources: Zitzler, Deb and Thiele 2000; Deb, Thiele, Laumanns and Zitzler 2005.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.simulate import Network
from search.front.pareto import hypervolume, nondominated
from search.objectives import losses
from search.spec.spec import SweepSpec
from trainables.config import TrialConfig

LETTERS = {"c": 0.0, "a": 0.25, "d": 0.5, "b": 0.75}
"""Values of the categorical variable: names whose order says nothing."""
SPACE = {
    "epochs": 1,
    "model.x1": {"uniform": [0.0, 1.0]},
    "model.x2": {"uniform": [0.0, 1.0]},
    "model.x3": {"uniform": [0.0, 1.0]},
    "model.x4": [0.0, 0.25, 0.5, 0.75, 1.0],
    "model.x5": {"int": [0, 10]},
    "model.x6": list(LETTERS),
}
"""Three real variables, an ordered choice, a whole number, a category."""
OBJECTIVES = {
    "accuracy": {"direction": "max", "reference": 0.5},
    "size_bytes": {"direction": "min", "reference": 1e6},
    "latency_ms": {"direction": "min", "reference": 1.0},
}

Values = tuple[float, ...]
"""Of the objectives, minimised: the one that is learnt, then those known before training."""


def zdt1(x: NDArray[np.float64]) -> Values:
    """Give a convex front."""
    g = 1 + 9 * x[1:].mean()
    return float(g * (1 - math.sqrt(x[0] / g))), float(x[0])


def zdt2(x: NDArray[np.float64]) -> Values:
    """Give a concave front."""
    g = 1 + 9 * x[1:].mean()
    return float(g * (1 - (x[0] / g) ** 2)), float(x[0])


def zdt3(x: NDArray[np.float64]) -> Values:
    """Give a front in five pieces, moved up by 1 so that it is positive."""
    g = 1 + 9 * x[1:].mean()
    wave = x[0] / g * math.sin(10 * math.pi * x[0])
    return float(g * (1 - math.sqrt(x[0] / g) - wave) + 1), float(x[0])


def dtlz2(x: NDArray[np.float64]) -> Values:
    """Give an eighth of a sphere, three objectives."""
    radius = 1 + float(((x[2:] - 0.5) ** 2).sum())
    a, b = x[0] * math.pi / 2, x[1] * math.pi / 2
    return (
        radius * math.cos(a) * math.cos(b),
        radius * math.cos(a) * math.sin(b),
        radius * math.sin(a),
    )


PROBLEMS: dict[str, tuple[Callable[[NDArray[np.float64]], Values], float, float]] = {
    "zdt1": (zdt1, 2.0, 0.0),
    "zdt2": (zdt2, 2.0, 0.0),
    "zdt3": (zdt3, 3.0, 0.0),
    "dtlz2": (dtlz2, 1.25, 0.5),
}
"""Function, worst value that still counts, best value of the variables off the front."""


@dataclass(frozen=True)
class Analytic:
    """A problem that looks like a table of trials of one epoch."""

    name: str
    spec: SweepSpec
    front: NDArray[np.float64]
    """Losses of many points of the true front, shape (n, m)."""
    hypervolume: float

    def network(self, config: TrialConfig) -> Network:
        """Evaluate a config."""
        function, worst, _ = PROBLEMS[self.name]
        found = metrics(function(variables(config.model_args)), worst)
        known = {name: value for name, value in found.items() if name != "accuracy"}
        bits = (config.weight_bits, config.activation_bits)
        return Network((found["accuracy"],), 1.0, {bits: found}, {bits: known})


def analytic(name: str) -> Analytic:
    """Make a problem, with the hypervolume of its true front."""
    function, worst, best = PROBLEMS[name]
    count = 2 if name.startswith("zdt") else 3
    spec = SweepSpec.model_validate(
        {
            "name": name,
            "data": {"name": "digits"},
            "model": {"factory": f"bench.analytic:{name}"},
            "space": SPACE,
            "objectives": dict(list(OBJECTIVES.items())[:count]),
        }
    )
    free = count - 1  # variables that move along the front; the others have one best value
    places = np.linspace(0, 1, 2001 if free == 1 else 61)
    grid = np.stack(np.meshgrid(*[places] * free), axis=-1).reshape(-1, free)
    points = np.column_stack([grid, np.full((len(grid), 6 - free), best)])
    rows = losses([metrics(function(x), worst) for x in points], spec.objective_list)
    front = rows[nondominated(rows)]
    return Analytic(name, spec, front, hypervolume(front))


def variables(arguments: Mapping[str, object]) -> NDArray[np.float64]:
    """Give the six variables in [0, 1]."""
    found = dict(arguments)
    letter = LETTERS[str(found["x6"])]
    numbers = [float(str(found[f"x{i}"])) for i in range(1, 5)]
    return np.array([*numbers, float(str(found["x5"])) / 10, letter])


def metrics(values: Values, worst: float) -> dict[str, float]:
    """Give metrics whose losses are the values, as shares of the worst one."""
    learnt, *known = (value / worst for value in values)
    found = {"accuracy": 1 - learnt / 2}
    names = ("size_bytes", "latency_ms")
    for name, low, high, share in zip(names, (1e3, 1e-2), (1e6, 1.0), known, strict=False):
        found[name] = low * (high / low) ** share
    return found
