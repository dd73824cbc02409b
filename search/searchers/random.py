"""Uniform draws without repeats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from search.searchers.contract import Searcher
from search.searchers.grid import covering_points
from trainables.config import TrialConfig

MAX_REPEATS = 300
"""Draws in a row that were all drawn before: what is left has, in all likelihood, less than 1 %
of the draws (0.99^300 is 5 %), and is found faster by going through the grid."""


class RandomSearcher(Searcher):
    """Uniform over the space.

    What is drawn depends on the seed alone, not on what was told: a sweep that starts again
    draws the same configs and only leaves out those it knows.
    """

    def propose(self) -> Iterator[TrialConfig]:
        """Draw; when draws only repeat, go through what is left of a finite space."""
        space = self.problem.space
        rng = np.random.default_rng(self.problem.seed)
        drawn: set[str] = set()
        repeats = 0
        while repeats < MAX_REPEATS:
            config = space.sample(rng)
            repeats = repeats + 1 if config.trial_id in drawn else 0
            drawn.add(config.trial_id)
            yield config
        if space.is_finite:
            yield from space.configs(covering_points(space, seed=self.problem.seed))
