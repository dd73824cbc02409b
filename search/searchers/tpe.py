"""Tree-structured Parzen estimator over hyperopt, for several objectives.

hyperopt fits the densities: adaptive Parzen estimators of the good networks and of the others,
one per dimension, and only over networks to which that dimension matters. Ours is which networks
are good, and that a candidate is scored as a whole, so that known and infeasible ones can be
passed over (hyperopt's own `suggest` gives one point, put together from the best draw per
dimension).

Shapes: n networks, k candidates, d coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hyperopt import tpe as hyperopt_tpe
from numpy.typing import NDArray

from search.searchers.contract import Problem
from search.searchers.model_based import BITS, ModelSearcher
from search.searchers.ranking import rank_networks
from search.space.dimensions import Choice, Dimension, Scalar
from trainables.config import TrialConfig

Floats = NDArray[np.float64]

GOOD_SHARE = 0.1
LEAST_GOOD, MOST_GOOD = 2, 25
"""A tenth of the networks is good, at most 25: Watanabe 2023 (arXiv:2304.11127), Optuna. With
fewer than two, every draw would be a neighbour of one network."""
CANDIDATES = 64
PRIOR_WEIGHT = 1.0
"""Of the uniform density among the kernels, hyperopt's default."""


class TpeSearcher(ModelSearcher):
    """Draws candidates like the good networks and takes the one least like the others."""

    startup_trials = 10

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._points: dict[str, dict[str, Scalar]] = {}

    def suggest(self) -> TrialConfig | None:
        """Give the candidate whose density ratio is highest, if its forecast keeps the bounds."""
        rng = self.rng()
        tried = len({self.network_of(row) for row in self.rows})
        count = min(MOST_GOOD, max(LEAST_GOOD, int(np.ceil(GOOD_SHARE * tried))))
        networks = [self._point(c) for c in rank_networks(self, self.region, count=count)]
        # What is under way counts as no good: the next one should be somewhere else.
        good = networks[:count]
        others = networks[count:] + [self._point(config) for config in self.under_way]
        units = np.zeros((CANDIDATES, self.space.coordinates))
        scores: dict[str, Floats] = {}
        start = 0
        for name, dimension in self.space.dimensions.items():
            end = start + dimension.coordinates
            if self._is_searched(name, dimension):
                values = _values(name, good), _values(name, others)
                if isinstance(dimension, Choice) and not dimension.ordered:
                    drawn = _categorical(dimension, *values, rng)
                else:
                    drawn = _numeric(dimension, *values, rng)
                units[:, start:end], scores[name] = drawn
            else:
                units[:, start:end] = rng.random((CANDIDATES, end - start))
            start = end
        return self._best(units, scores)

    def _is_searched(self, name: str, dimension: Dimension) -> bool:
        """Tell whether a dimension varies; siblings have all bits anyway."""
        return dimension.coordinates > 0 and not (self.siblings and name in BITS)

    def _point(self, config: TrialConfig) -> dict[str, Scalar]:
        """Give the value of each dimension that matters to a config."""
        trial_id = config.trial_id
        if trial_id not in self._points:
            self._points[trial_id] = self.space.active_point(config)
        return self._points[trial_id]

    def _best(self, units: Floats, scores: dict[str, Floats]) -> TrialConfig | None:
        """Give the unknown candidate with the highest score over the dimensions it uses."""
        configs = {c.trial_id: (i, c) for i, c in enumerate(map(self.space.from_unit, units))}
        places, candidates = zip(*configs.values(), strict=True)
        totals = np.array(
            [
                sum(scores[name][i] for name in self._point(c).keys() & scores.keys())
                for i, c in zip(places, candidates, strict=True)
            ]
        )
        return self.first_free([candidates[i] for i in np.argsort(-totals, kind="stable")])


def _values(name: str, points: Sequence[Mapping[str, Scalar]]) -> list[Scalar]:
    return [point[name] for point in points if name in point]


# --- densities -------------------------------------------------------------------------------


def _numeric(
    dimension: Dimension, good: list[Any], others: list[Any], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draw coordinates (k, 1) from the density of the good; give log ratios (k,) as well."""
    mixtures = [
        hyperopt_tpe.adaptive_parzen_normal(
            np.array([dimension.to_unit(value)[0] for value in values]),
            PRIOR_WEIGHT,
            prior_mu=0.5,
            prior_sigma=1.0,
            LF=0,  # old rows are as true as new ones
        )
        for values in (good, others)
    ]
    drawn = hyperopt_tpe.GMM1(*mixtures[0], low=0.0, high=1.0, rng=rng, size=(CANDIDATES,))
    below, above = (hyperopt_tpe.GMM1_lpdf(drawn, *m, low=0.0, high=1.0) for m in mixtures)
    return drawn[:, None], below - above


def _categorical(
    dimension: Choice, good: list[Any], others: list[Any], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draw one-hot coordinates (k, values) from the density of the good, with log ratios (k,)."""
    shares = []
    for values in (good, others):
        indices = np.array([dimension.values.index(value) for value in values], dtype=np.int64)
        counts = np.bincount(indices, minlength=dimension.count)
        prior = np.full(dimension.count, 1.0 / dimension.count)
        shares.append(hyperopt_tpe.tpe_cat_pseudocounts(counts, PRIOR_WEIGHT, prior, CANDIDATES))
    drawn = rng.choice(dimension.count, size=CANDIDATES, p=shares[0])
    return np.eye(dimension.count)[drawn], np.log(shares[0][drawn] / shares[1][drawn])
