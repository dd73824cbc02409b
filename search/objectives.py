"""Objectives and constraints. Direction is decided here, once; below, all are minimised losses.

Shapes: n rows, m objectives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.contract import METRICS, Direction, Metric


@dataclass(frozen=True)
class Objective:
    """A metric to optimise, its direction, and the value beyond which nothing is gained."""

    metric: Metric
    direction: Direction
    reference: float
    """Worst value that still counts: where the loss is 1, the hypervolume's reference point."""

    def loss(self, value: float) -> float:
        """Give the value on a minimised axis: 0 at the metric's ideal, 1 at the reference."""
        ideal = self.metric.ideal
        if self.direction != self.metric.direction:  # asked against its nature: ends swap
            ideal = self.metric.reference
        if self.metric.log:
            value, ideal, reference = (
                math.log(max(x, 1e-12)) for x in (value, ideal, self.reference)
            )
        else:
            reference = self.reference
        return (value - ideal) / (reference - ideal)

    @property
    def tolerance(self) -> float:
        """Give the difference of losses below which two values are a tie."""
        if not (self.metric.log and self.metric.resolution):
            return 0.0
        span = abs(math.log(self.reference) - math.log(self.metric.ideal))
        return math.log1p(self.metric.resolution) / span


@dataclass(frozen=True)
class Constraint:
    """A bound that a deployable model must keep."""

    metric: Metric
    low: float = -math.inf
    high: float = math.inf

    def allows(self, value: float) -> bool:
        """Tell whether the value keeps the bound; NaN does not."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        bounds = [f"{self.metric.name} >= {self.low:g}"] if self.low > -math.inf else []
        bounds += [f"{self.metric.name} <= {self.high:g}"] if self.high < math.inf else []
        return " and ".join(bounds)


def losses(
    rows: Sequence[Mapping[str, float]], objectives: Sequence[Objective], /
) -> NDArray[np.float64]:
    """Give the losses of rows of metrics: shape (n, m), NaN where a row lacks a metric."""
    out = np.full((len(rows), len(objectives)), np.nan)
    for i, row in enumerate(rows):
        for j, objective in enumerate(objectives):
            value = row.get(objective.metric.name)
            if value is not None and math.isfinite(value):
                out[i, j] = objective.loss(value)
    return out


def broken(metrics: Mapping[str, float], constraints: Sequence[Constraint], /) -> list[Constraint]:
    """Give the constraints that the metrics break; a metric that is absent breaks nothing."""
    return [
        c for c in constraints if c.metric.name in metrics and not c.allows(metrics[c.metric.name])
    ]


def objective(
    name: str, direction: Direction | None = None, reference: float | None = None
) -> Objective:
    """Give the objective on a known metric.

    Raises:
        KeyError: no trial measures `name`.
    """
    metric = METRICS[name]
    chosen = direction or metric.direction
    if reference is None:
        reference = metric.reference if chosen == metric.direction else metric.ideal
    return Objective(metric, chosen, reference)
