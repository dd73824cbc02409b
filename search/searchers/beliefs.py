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
from search.searchers.model_based import Bits, ModelSearcher, Pool, share_trained
from search.searchers.region import Region
from search.searchers.scales import ScaledProcess, fit_on_best_scale
from trainables.config import TrialConfig
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
    structures: Structures
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
        inputs = self._inputs(pool)
        more = {
            axis.metric.name: process.given(inputs, mean[:, :, j].ravel())
            for j, axis in enumerate(self.axes)
            if (process := self.processes.get(axis.metric.name))
        }
        return replace(self, processes=more)

    def _inputs(self, pool: Pool) -> Floats:
        n, b, d = pool.units.shape
        return self.structures.beside(pool.units.reshape(n * b, d), pool.configs, repeats=b)

    def _predict(self, pool: Pool, *, with_sd: bool) -> tuple[Floats, Floats]:
        n, b, _ = pool.units.shape
        inputs = self._inputs(pool)
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


@dataclass(frozen=True)
class Structures:
    """Size and latency of networks as coordinates: how large a network is says how good it gets.

    All siblings of a network stand at the same place: that of its file under the highest bits.
    """

    forecasts: Forecasts
    pair: Bits
    low: Floats
    span: Floats
    """By forecast axis, over the networks that were seen."""

    @classmethod
    def over(cls, forecasts: Forecasts, pair: Bits, configs: Sequence[TrialConfig]) -> Structures:
        """Scale the coordinates of configs to [0, 1]."""
        found = forecasts.predict(configs, [[pair]] * len(configs))[0][:, 0]
        if not configs:
            return cls(forecasts, pair, np.zeros(found.shape[1]), np.ones(found.shape[1]))
        span = np.ptp(found, axis=0)
        return cls(forecasts, pair, found.min(axis=0), np.where(span > 0, span, 1.0))

    def beside(self, units: Floats, configs: Sequence[TrialConfig], *, repeats: int = 1) -> Floats:
        """Put the coordinates of configs, each repeated, beside other ones of shape (n, d)."""
        found = self.forecasts.predict(configs, [[self.pair]] * len(configs))[0][:, 0]
        return np.hstack([units, np.repeat((found - self.low) / self.span, repeats, axis=0)])


def learn(searcher: ModelSearcher, axes: Sequence[Objective]) -> Beliefs:
    """Learn from all that a searcher was told and heard."""
    rows = searcher.rows
    forecasts = learn_forecasts(rows, [axis for axis in axes if axis.metric.forecast])
    structures = Structures.over(forecasts, searcher.pairs[-1], [row.config for row in rows])
    processes = {}
    for axis in axes:
        if not axis.metric.forecast:
            samples = _samples(searcher, rows, axis)
            if samples.targets:
                processes[axis.metric.name] = samples.fit(structures)
    return Beliefs(axes, forecasts, structures, processes)


# --- what a process learns from --------------------------------------------------------------


@dataclass
class _Samples:
    configs: list[TrialConfig]
    units: list[Floats]
    targets: list[float]
    sds: list[float]
    """Beyond the learned noise; negative ones count in standard deviations of the targets."""

    def add(self, config: TrialConfig, unit: Floats, target: float, sd: float = 0.0) -> None:
        if math.isfinite(target):
            self.configs.append(config)
            self.units.append(unit)
            self.targets.append(target)
            self.sds.append(sd)

    def fit(self, structures: Structures) -> ScaledProcess:
        targets, sds = np.array(self.targets), np.array(self.sds)
        noise = np.where(sds < 0, -sds * targets.std(), sds)
        inputs = structures.beside(np.array(self.units), self.configs)
        return fit_on_best_scale(inputs, targets, noise)


def _samples(searcher: ModelSearcher, rows: Sequence[ResultRow], axis: Objective) -> _Samples:
    name = axis.metric.name
    samples = _Samples([], [], [], [])
    for found, sd in ((rows, 0.0), (searcher.transferred, -TRANSFER_SD)):
        measured = [r for r in found if r.status is Status.MEASURED and name in r.metrics]
        for row, unit in zip(measured, searcher.units_of(measured), strict=True):
            samples.add(row.config, unit, axis.loss(row.metrics[name]), sd)
    if not samples.targets:
        return samples
    worst = max(samples.targets)
    diverged = [row for row in rows if row.status is Status.DIVERGED]
    for row, unit in zip(diverged, searcher.units_of(diverged), strict=True):
        samples.add(row.config, unit, worst, -DIVERGED_SD)
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
            samples.add(sibling, unit, axis.loss(mean), sd * per_accuracy)
