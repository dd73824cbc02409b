"""Where models may be: the bounds of constraints, as bounds of losses.

Shapes: a axes (the m objectives, then other constrained metrics).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from search.objectives import Constraint, Objective, losses, objective
from search.searchers.contract import Problem
from search.study.rows import ResultRow

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Region:
    """The axes of a problem, and which losses on them are allowed."""

    def __init__(self, problem: Problem) -> None:
        objectives = problem.objective_list
        named = {o.metric.name for o in objectives}
        bounded = [c.metric.name for c in problem.constraint_list if c.metric.name not in named]
        self.axes: list[Objective] = [*objectives, *(objective(name) for name in bounded)]
        self.m = len(objectives)
        self.forecast = np.array([axis.metric.forecast for axis in self.axes])
        """Which axes are known before training, shape (a,)."""
        self.low, self.high = _loss_bounds(self.axes, problem.constraint_list)
        self.bounded = np.isfinite(self.low) | np.isfinite(self.high)

    def losses(self, rows: Iterable[ResultRow]) -> Floats:
        """Give the losses of rows on all axes, shape (n, a); NaN where a row lacks one."""
        return losses([row.metrics for row in rows], self.axes)

    def keeps(self, values: Floats) -> Mask:
        """Tell which losses (..., a) keep all bounds, shape (...); NaN keeps none."""
        inside = (values >= self.low) & (values <= self.high)
        return np.asarray(inside[..., self.bounded].all(axis=-1))

    def beyond(self, values: Floats) -> Floats:
        """Give by how much losses (n, a) break the bounds, summed up: shape (n,)."""
        over = np.maximum(values - self.high, 0.0) + np.maximum(self.low - values, 0.0)
        total: Floats = np.nan_to_num(over, nan=1.0).sum(axis=1)
        return total

    def chance(
        self,
        mean: Floats,
        sd: Floats,
        axes: Mask,
        *,
        low: Floats | None = None,
        high: Floats | None = None,
    ) -> Floats:
        """Give the probability that normal values keep the bounds of some of the axes.

        Args:
            mean: shape (..., a).
            sd: standard deviations of the same shape; 0 where exact.
            axes: which axes count, shape (a,).
            low: the lower bounds (a,) where values are on another scale than losses.
            high: the upper ones.
        """
        low, high = self.low if low is None else low, self.high if high is None else high
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = ndtr((high - mean) / sd) - ndtr((low - mean) / sd)
        exact = (mean >= low) & (mean <= high)
        chance: Floats = np.where(sd > 0, inside, exact)[..., axes & self.bounded].prod(axis=-1)
        return chance


def _loss_bounds(
    axes: Sequence[Objective], constraints: Sequence[Constraint]
) -> tuple[Floats, Floats]:
    """Give lowest and highest allowed loss of each axis, (a,) each; infinite without a bound."""
    low, high = np.full(len(axes), -np.inf), np.full(len(axes), np.inf)
    for j, axis in enumerate(axes):
        for c in constraints:
            if c.metric.name == axis.metric.name:
                # The direction says which end is the lower loss.
                ends = [_bound_loss(axis, c.low), _bound_loss(axis, c.high)]
                low[j], high[j] = max(low[j], min(ends)), min(high[j], max(ends))
    return low, high


def _bound_loss(axis: Objective, bound: float) -> float:
    if np.isfinite(bound):
        return axis.loss(bound)
    return bound if axis.direction == "min" else -bound
