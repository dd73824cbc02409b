"""ParEGO over bayesian-optimization: one random scalarisation of all objectives per suggestion.

The library gets its continuous unit cube, categories one-hot: its typed parameters are nine
times slower, and its own constant liar fails on them. Knowles 2006 (ParEGO).

Shapes: n networks, m objectives, d coordinates.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from bayes_opt import BayesianOptimization
from bayes_opt.acquisition import ExpectedImprovement
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from search.searchers.contract import Problem
from search.searchers.curves import LearningCurves
from search.searchers.model_based import BITS, ModelSearcher, share_trained
from search.study.rows import ResultRow
from trainables.config import TrialConfig
from trainables.contract import Status

Floats = NDArray[np.float64]

MAX_NETWORKS = 150
"""Networks the process is fitted to: the best half of them, and the latest."""
RHO = 0.05
"""Of the augmented Chebyshev function, as in ParEGO: it keeps weakly dominated rows behind."""
XI = 0.01
"""Least improvement worth seeking, in standard deviations of the scalarised objective."""
RANDOM_POINTS, STARTS = 1500, 1
"""Where the acquisition is evaluated, and from how many of those points it is climbed."""
NOISE = 1e-2
"""Variance of a scalarised objective, relative to that of all rows."""
CANDIDATES, NEIGHBOURHOODS = 200, 10
"""Configs that stand by for the peak, half of them around the best networks."""


class GpSearcher(ModelSearcher):
    """Maximises the expected improvement of a randomly weighted objective."""

    startup_trials = 10

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.searched = np.array(
            [
                not (self.siblings and name in BITS)
                for name, dimension in self.space.dimensions.items()
                for _ in range(dimension.coordinates)
            ],
            dtype=bool,
        )
        """Coordinates that are searched; siblings have all bits anyway."""

    def suggest(self) -> TrialConfig | None:
        """Give the new config with the highest expected improvement that may keep the bounds."""
        networks, losses, beyond = self._evidence()
        if not (networks and self.searched.any()):
            return None
        rng = self.rng()
        weights = rng.dirichlet(np.ones(self.region.m))
        targets = self._scalarised(_by_quantiles(losses), beyond, weights)
        best = [networks[i] for i in np.argsort(targets, kind="stable")]
        acquisition, process, peak = self._climb(networks, targets, rng)
        # The peak may be known already, or break a bound; canonical, it may also be elsewhere.
        candidates = [peak, *self.candidates(rng, best[:NEIGHBOURHOODS], CANDIDATES)]
        mean, sd = process.predict(self._cube(candidates), return_std=True)
        order = np.argsort(-acquisition.base_acq(mean, sd), kind="stable")
        return self.first_free([candidates[i] for i in order])

    # --- evidence ----------------------------------------------------------------------------

    def _evidence(self) -> tuple[list[TrialConfig], list[Floats], Floats]:
        """Give networks, the losses (siblings, m) of each, and by how much they break bounds.

        A stopped trial counts with the accuracy that it would have ended with.
        """
        curves = LearningCurves.of(self.rows)
        rows = [row for row in (_finished(r, curves) for r in self.rows) if row is not None]
        values = self.region.losses(rows)
        known = np.isfinite(values[:, : self.region.m]).all(axis=1)
        beyond = self.region.beyond(values)
        groups: dict[str, list[int]] = {}
        for i in np.flatnonzero(known):
            groups.setdefault(self.network_of(rows[i]), []).append(int(i))
        networks, losses, least = [], [], []
        for indices in groups.values():
            best = min(beyond[indices])
            kept = [i for i in indices if beyond[i] <= best]
            networks.append(rows[kept[0]].config)
            losses.append(values[kept, : self.region.m])
            least.append(best)
        return networks, losses, np.array(least)

    # --- one suggestion ----------------------------------------------------------------------

    def _scalarised(self, losses: Sequence[Floats], beyond: Floats, weights: Floats) -> Floats:
        """Give the augmented Chebyshev value of each network's best sibling, (n,); less is better.

        Networks that break bounds come behind all others, by how far they break them.
        """
        chebyshev = [
            float(((weights * own).max(axis=1) + RHO * (own @ weights)).min()) for own in losses
        ]
        targets = np.array(chebyshev)
        feasible = beyond <= 0
        worst = targets[feasible].max() if feasible.any() else targets.max()
        return np.where(feasible, targets, worst + beyond)

    def _climb(
        self, networks: list[TrialConfig], targets: Floats, rng: np.random.Generator
    ) -> tuple[ExpectedImprovement, GaussianProcessRegressor, TrialConfig]:
        """Fit a process, and climb its expected improvement: give both and the config on top."""
        order = np.argsort(targets, kind="stable")
        kept = order[:MAX_NETWORKS]
        units = self._cube([networks[i] for i in kept] + self.under_way)
        values = targets[kept]
        # What is under way is taken to come in as an average network.
        lies = np.full(len(self.under_way), values.mean())
        names = [f"x{i:03}" for i in range(units.shape[1])]
        acquisition = ExpectedImprovement(xi=XI)
        optimizer = BayesianOptimization(
            None,
            dict.fromkeys(names, (0.0, 1.0)),
            acquisition_function=acquisition,
            random_state=0,
            verbose=0,
            allow_duplicate_points=True,
        )
        values = np.append(values, lies)
        scale = values.std() or 1.0
        for unit, value in zip(units, (values - values.mean()) / scale, strict=True):
            optimizer.register(dict(zip(names, unit, strict=True)), -float(value))
        seed = int(rng.integers(2**31))
        process = GaussianProcessRegressor(
            Matern(np.full(units.shape[1], 1.0), (0.1, 20.0), nu=2.5),
            alpha=NOISE,
            normalize_y=True,
            n_restarts_optimizer=0,
            random_state=seed,
        )
        with warnings.catch_warnings():
            # Length scales of what does not matter end at their bound, which is as it should be.
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = acquisition.suggest(
                process, optimizer.space, RANDOM_POINTS, STARTS, random_state=seed
            )
        unit = rng.random(self.space.coordinates)
        unit[self.searched] = found
        return acquisition, process, self.space.from_unit(unit)

    def _cube(self, configs: Sequence[TrialConfig]) -> Floats:
        """Give the searched coordinates of configs, shape (n, d)."""
        return np.array([self.space.to_unit(config)[self.searched] for config in configs])


def _by_quantiles(losses: Sequence[Floats]) -> list[Floats]:
    """Scale losses so that each objective's best is 0 and its ninth decile 1.

    Maxima would let one diverged or oversized network squeeze all others together.
    """
    flat = np.vstack(losses)
    low, high = flat.min(axis=0), np.quantile(flat, 0.9, axis=0)
    span = np.where(high > low, high - low, 1.0)
    return [np.minimum((own - low) / span, 2.0) for own in losses]


def _finished(row: ResultRow, curves: LearningCurves) -> ResultRow | None:
    if row.status is Status.MEASURED:
        return row
    if row.status is Status.DIVERGED:
        return row.model_copy(update={"metrics": row.metrics | {"accuracy": 0.0}})
    if row.status is not Status.STOPPED or "accuracy" not in row.metrics:
        return None
    final = curves.final(share_trained(row), row.metrics["accuracy"])
    accuracy = final[0] if final else row.metrics["accuracy"]
    return row.model_copy(update={"metrics": row.metrics | {"accuracy": accuracy}})
