"""What is believed of a config before it is tried: forecasts, and processes for the rest.

Shapes: n configs, b siblings, a axes, d coordinates. Means and standard deviations of an axis are
on the scale of its process; `losses` leads back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search.objectives import Objective
from search.searchers.curves import LearningCurves
from search.searchers.forecasts import Forecasts, learn_forecasts
from search.searchers.model_based import ModelSearcher, Pool, share_trained
from search.searchers.region import Region
from search.searchers.scales import ScaledProcess, fit_on_best_scale
from trainables.contract import Status

if TYPE_CHECKING:
    from search.study.rows import ResultRow

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

TRANSFER_SD = 0.5
"""Standard deviations of all targets by which a row of an unlike study may be off."""
DIVERGED_SD = 0.25
"""The same for a diverged trial, taken to be as bad as the worst that was measured."""


@dataclass(frozen=True)
class Beliefs:
    """Predictions of every axis: size and latency by forecast, the rest by a process."""

    axes: Sequence[Objective]
    forecasts: Forecasts
    processes: Mapping[str, ScaledProcess]
    """By metric, for axes that are not forecast."""

    def mean(self, pool: Pool, /) -> Floats:
        """Give expected values of all siblings, shape (n, b, a)."""
        return self._predict(pool, with_sd=False)[0]

    def predict(self, pool: Pool, /) -> tuple[Floats, Floats]:
        """Give expected values of all siblings and their standard deviations, (n, b, a) each."""
        return self._predict(pool, with_sd=True)

    def losses(self, values: Floats, /) -> Floats:
        """Give the losses (..., a) of values on the scales of the processes."""
        losses = values.copy()
        for j, axis in enumerate(self.axes):
            if found := self.processes.get(axis.metric.name):
                losses[..., j] = found.scale.losses(values[..., j])
        return losses

    def chance(self, region: Region, mean: Floats, sd: Floats, axes: Mask) -> Floats:
        """Give the probability that predictions keep the bounds of some of the axes."""
        low, high = region.low.copy(), region.high.copy()
        for j, axis in enumerate(self.axes):
            if found := self.processes.get(axis.metric.name):
                for bound in (low, high):
                    if np.isfinite(bound[j]):
                        bound[j] = found.scale.values(bound[j])
        return region.chance(mean, sd, axes, low=low, high=high)

    def given(self, pool: Pool) -> Beliefs:
        """Take it that configs come in as expected: less is then to be learnt near them."""
        if not pool.configs:
            return self
        mean = self.mean(pool)
        inputs = _flat(pool)
        more = {
            axis.metric.name: process.given(inputs, mean[:, :, j].ravel())
            for j, axis in enumerate(self.axes)
            if (process := self.processes.get(axis.metric.name))
        }
        return replace(self, processes=more)

    def _predict(self, pool: Pool, *, with_sd: bool) -> tuple[Floats, Floats]:
        n, b, _ = pool.units.shape
        inputs = _flat(pool)
        mean, sd = np.full((n, b, len(self.axes)), 0.5), np.ones((n, b, len(self.axes)))
        known_mean, known_sd = self.forecasts.predict(pool.configs, pool.pairs)
        next_known = iter(range(known_mean.shape[2]))
        for j, axis in enumerate(self.axes):
            if axis.metric.forecast:
                k = next(next_known)
                mean[:, :, j], sd[:, :, j] = known_mean[:, :, k], known_sd[:, :, k]
            elif found := self.processes.get(axis.metric.name):
                if with_sd:
                    flat_mean, flat_sd = found.process.predict(inputs)
                    sd[:, :, j] = flat_sd.reshape(n, b)
                else:
                    flat_mean = found.process.predict_mean(inputs)
                mean[:, :, j] = flat_mean.reshape(n, b)
        return mean, sd


def _flat(pool: Pool) -> Floats:
    """Give the coordinates of all siblings of all candidates, shape (n * b, d)."""
    return pool.units.reshape(-1, pool.units.shape[2])


def learn(searcher: ModelSearcher, axes: Sequence[Objective]) -> Beliefs:
    """Learn from all that a searcher was told and heard."""
    rows = searcher.rows
    forecasts = learn_forecasts(rows, [axis for axis in axes if axis.metric.forecast])
    processes = {}
    for axis in axes:
        if not axis.metric.forecast:
            samples = _samples(searcher, rows, axis)
            if samples.targets:
                processes[axis.metric.name] = samples.fit()
    return Beliefs(axes, forecasts, processes)


# --- what a process learns from --------------------------------------------------------------


@dataclass
class _Samples:
    units: list[Floats]
    targets: list[float]
    sds: list[float]
    """Beyond the learned noise; negative ones count in standard deviations of the targets."""

    def add(self, unit: Floats, target: float, sd: float = 0.0) -> None:
        if math.isfinite(target):
            self.units.append(unit)
            self.targets.append(target)
            self.sds.append(sd)

    def fit(self) -> ScaledProcess:
        targets, sds = np.array(self.targets), np.array(self.sds)
        noise = np.where(sds < 0, -sds * targets.std(), sds)
        return fit_on_best_scale(np.array(self.units), targets, noise)


def _samples(searcher: ModelSearcher, rows: Sequence[ResultRow], axis: Objective) -> _Samples:
    name = axis.metric.name
    samples = _Samples([], [], [])
    for found, sd in ((rows, 0.0), (searcher.transferred, -TRANSFER_SD)):
        measured = [r for r in found if r.status is Status.MEASURED and name in r.metrics]
        for row, unit in zip(measured, searcher.units_of(measured), strict=True):
            samples.add(unit, axis.loss(row.metrics[name]), sd)
    if not samples.targets:
        return samples
    worst = max(samples.targets)
    diverged = [row for row in rows if row.status is Status.DIVERGED]
    for unit in searcher.units_of(diverged):
        samples.add(unit, worst, -DIVERGED_SD)
    if name == "accuracy":
        _add_unfinished(samples, searcher, rows, axis)
    return samples


def _add_unfinished(
    samples: _Samples, searcher: ModelSearcher, rows: Sequence[ResultRow], axis: Objective
) -> None:
    """Add what stopped and running trials would end with; their accuracy is that of full bits."""
    curves = LearningCurves.of(rows)
    parts = [
        (row.config, share_trained(row), row.metrics["accuracy"])
        for row in rows
        if row.status is Status.STOPPED and "accuracy" in row.metrics
    ]
    parts += [(c, epoch / c.epochs, accuracy) for c, epoch, accuracy in searcher.heard]
    for config, share, accuracy in parts:
        if (final := curves.final(share, accuracy)) is not None:
            mean, sd = final
            per_accuracy = abs(axis.loss(1.0) - axis.loss(0.0))
            sibling = searcher.siblings_of(config)[-1]
            unit = searcher.units([sibling])[0]
            samples.add(unit, axis.loss(mean), sd * per_accuracy)
