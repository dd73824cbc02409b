"""Draws without repeats: uniform, or spread evenly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from search.searchers.contract import Searcher
from search.searchers.grid import covering_points
from search.space.space import Space
from trainables.config import TrialConfig

MAX_REPEATS = 300
"""Draws in a row that were all drawn before: what is left has, in all likelihood, less than 1 %
of the draws (0.99^300 is 5 %), and is found faster by going through the grid."""
SOBOL_BLOCK = 64
"""Points of a Sobol sequence made at a time: it is balanced at powers of two."""


class RandomSearcher(Searcher):
    """Uniform over the space.

    What is drawn depends on the seed alone, not on what was told: a sweep that starts again
    draws the same configs and only leaves out those it knows.
    """

    def propose(self) -> Iterator[TrialConfig]:
        """Draw; when draws only repeat, go through what is left of a finite space."""
        problem = self.problem
        return draws(problem.space, seed=problem.seed, quasi_random=problem.search.quasi_random)


def draws(space: Space, *, seed: int, quasi_random: bool) -> Iterator[TrialConfig]:
    """Give configs of a space at random; when they only repeat, all of a finite space.

    Args:
        space: where to draw.
        seed: decides all draws.
        quasi_random: points of a scrambled Sobol sequence, which leave smaller gaps.
    """
    configs = sobol_configs(space, seed) if quasi_random else uniform_configs(space, seed)
    drawn: set[str] = set()
    repeats = 0
    while repeats < MAX_REPEATS:
        config = next(configs)
        repeats = repeats + 1 if config.trial_id in drawn else 0
        drawn.add(config.trial_id)
        yield config
    if space.is_finite:
        yield from space.configs(covering_points(space, seed=seed))


def uniform_configs(space: Space, seed: int) -> Iterator[TrialConfig]:
    """Give independent uniform draws without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield space.sample(rng)


def sobol_configs(space: Space, seed: int) -> Iterator[TrialConfig]:
    """Give the configs of a scrambled Sobol sequence without end (Owen 1998)."""
    for unit in _sobol_points(space.coordinates, seed):
        if (config := space.drawn(unit)) is not None:
            yield config


def _sobol_points(coordinates: int, seed: int) -> Iterator[NDArray[np.float64]]:
    from scipy.stats.qmc import Sobol

    if coordinates == 0:
        while True:
            yield np.empty(0)
    engine = Sobol(coordinates, scramble=True, rng=np.random.default_rng(seed))
    while True:
        yield from engine.random(SOBOL_BLOCK)
