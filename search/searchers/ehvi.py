"""Expected hypervolume improvement where size and latency are known before training.

Only what depends on the weights (accuracy) is modelled, by a Gaussian process over the config and
its bits; size and latency come from forecasts. The value of a candidate is
what a training of it would add to the front with all its siblings, constraints kept.

Shapes: n candidates, b siblings, s nodes, a axes (the m objectives, then other constrained
metrics).
"""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from search.searchers.beliefs import Beliefs, learn
from search.searchers.contract import Problem
from search.searchers.model_based import ModelSearcher
from trainables.config import TrialConfig
from trainables.contract import Status

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

CANDIDATES = 600
FINALISTS = 100
"""Candidates whose expectation is computed; the others fall behind at an optimistic accuracy."""
NODES = 5
"""Equally likely values of the standard normal: they resolve an improvement that is linear in
accuracy between two points of the front. Siblings share the node: they share their weights."""
OPTIMISTIC = np.full((1, 1), ndtri(0.1))
NEIGHBOURHOODS = 20
"""Points of the front around which neighbours are drawn."""


class EhviSearcher(ModelSearcher):
    """Maximises the expected hypervolume improvement of a candidate and its siblings."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if self.siblings:
            # A process that knows little says so; with their siblings, few networks are many rows.
            self.startup_trials //= 2
        self.m = self.region.m
        self.nodes = _nodes(~self.region.forecast)

    def suggest(self) -> TrialConfig | None:
        """Give the candidate whose training is expected to add most."""
        beliefs, rng = learn(self, self.region.axes), self.rng()
        front, best = self._front()
        if len(best) > NEIGHBOURHOODS:
            best = [best[i] for i in rng.permutation(len(best))[:NEIGHBOURHOODS]]
        configs = self.candidates(rng, best, CANDIDATES)
        if not configs:
            return None
        pending = self.pool(self.under_way)
        if pending.configs:
            # What is under way is expected to come in as predicted: it is no news twice.
            expected = beliefs.losses(beliefs.mean(pending)).reshape(-1, len(self.region.axes))
            front = _front_of(np.vstack([front, expected[self.region.keeps(expected), : self.m]]))
            beliefs = beliefs.given(pending)
        return self._most_valuable(configs, beliefs, front)

    # --- the front so far --------------------------------------------------------------------

    def _front(self) -> tuple[Floats, list[TrialConfig]]:
        """Give the losses of the feasible front and the configs to look around."""
        rows = [row for row in self.rows if row.status is Status.MEASURED]
        values = self.region.losses(rows)
        good = self.region.keeps(values) & np.isfinite(values[:, : self.m]).all(axis=1)
        if not good.any():
            least_beyond = np.argsort(self.region.beyond(values), kind="stable")
            return np.empty((0, self.m)), [rows[i].config for i in least_beyond[:NEIGHBOURHOODS]]
        chosen = np.flatnonzero(good)
        chosen = chosen[moocore.is_nondominated(values[chosen, : self.m])]
        return _front_of(values[chosen, : self.m]), [rows[i].config for i in chosen]

    # --- the value of a candidate ------------------------------------------------------------

    def _most_valuable(
        self, configs: list[TrialConfig], beliefs: Beliefs, front: Floats
    ) -> TrialConfig:
        pool = self.pool(configs)
        # One sibling's uncertainty stands for all in the first round: they share their weights.
        mean, (_, sd) = beliefs.mean(pool), beliefs.predict(pool.own())
        modelled = ~self.region.forecast
        optimistic = self._improvements(beliefs, mean, sd, front, nodes=OPTIMISTIC * modelled)
        pool = pool[np.argsort(-optimistic, kind="stable")[:FINALISTS]]
        mean, sd = beliefs.predict(pool)
        values = self._improvements(beliefs, mean, sd, front, nodes=self.nodes)
        forecast = self.region.chance(mean, sd, self.region.forecast)
        values *= forecast.max(axis=1)
        # Where nothing is expected to improve: what may keep the bounds, then what is least known.
        chance = beliefs.chance(self.region, mean, sd, np.ones_like(modelled))
        order = np.lexsort([-sd.max(axis=(1, 2)), -chance.max(axis=1), -values])
        best = int(order[0])
        expected = beliefs.losses(mean[best])
        return self._with_best_bits(pool.configs[best], expected, forecast[best], front)

    def _improvements(
        self, beliefs: Beliefs, mean: Floats, sd: Floats, front: Floats, *, nodes: Floats
    ) -> Floats:
        """Give the expected gain of hypervolume by each candidate's siblings: shape (n,).

        Args:
            beliefs: know the scales of the axes.
            mean: expected values, shape (n, b, a).
            sd: their standard deviations; (n, 1, a) where one stands for all siblings.
            front: losses of the front, shape (f, m).
            nodes: standard normal values of each axis that is not forecast, shape (s, a).
        """
        before = _volume(front)
        gains = np.zeros(len(mean))
        for node in nodes:
            values = beliefs.losses(mean + node * sd)
            counts = self.region.keeps(values)
            points = np.clip(values[:, :, : self.m], 0.0, 1.0)
            gains += [
                _volume(np.vstack([front, own[kept]])) - before if kept.any() else 0.0
                for own, kept in zip(points, counts, strict=True)
            ]
        return gains / len(nodes)

    def _with_best_bits(
        self, config: TrialConfig, mean: Floats, chance: Floats, front: Floats
    ) -> TrialConfig:
        """Give the config under the bits that are likely to keep the bounds, and add most.

        The forecast of these bits decides whether the trial runs at all.
        """
        siblings = self.siblings_of(config)
        before = _volume(front)
        adds = [_volume(np.vstack([front, np.clip(p[: self.m], 0, 1)])) - before for p in mean]
        free = [not self.is_known(sibling) for sibling in siblings]
        order = np.lexsort([-np.array(adds), -np.round(chance, 2), ~np.array(free)])
        return siblings[int(order[0])]


def _nodes(modelled: Mask) -> Floats:
    """Give standard normal values for the modelled axes, 0 for the others: shape (s, a).

    Of several modelled axes, each takes all quantiles, in an order of its own (a Latin square).
    """
    count = NODES if modelled.sum() < 2 else 2 * NODES
    quantiles = ndtri((np.arange(count) + 0.5) / count)
    rng = np.random.default_rng(0)
    columns = [rng.permutation(quantiles) if m else np.zeros(count) for m in modelled]
    return np.column_stack(columns)


def _front_of(values: Floats) -> Floats:
    """Give the non-dominated ones of losses (n, m) inside the unit cube."""
    inside = np.clip(values, 0.0, 1.0)
    if not len(inside):
        return inside
    best: Floats = inside[moocore.is_nondominated(inside)]
    return best


def _volume(points: Floats) -> float:
    return float(moocore.hypervolume(points, ref=1.0)) if len(points) else 0.0
