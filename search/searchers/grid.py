"""Every combination, in an order whose every prefix covers the space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from search.errors import SpecError
from search.searchers.contract import Searcher
from search.space.space import Point, Space
from trainables.config import TrialConfig


class GridSearcher(Searcher):
    """The full product of a finite space."""

    def propose(self) -> Iterator[TrialConfig]:
        """Give every config once."""
        space = self.problem.space
        yield from space.configs(covering_points(space, seed=self.problem.seed))


def covering_points(space: Space, *, seed: int) -> Iterator[Point]:
    """Give all points of a finite space; the first k have every value of a dimension with <= k.

    The values of each dimension are shuffled by the seed.

    Raises:
        SpecError: a dimension is continuous.
    """
    if space.continuous:
        found = ", ".join(space.continuous)
        raise SpecError(f"{found}: continuous; allowed with grid search: a list of values")
    names = list(space.dimensions)
    counts = [space.dimensions[name].count or 0 for name in names]
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(count) for count in counts]
    for indices in covering_indices(counts):
        yield {
            name: space.dimensions[name].at(int(order[index]))
            for name, order, index in zip(names, orders, indices, strict=True)
        }


def covering_indices(counts: Sequence[int], /) -> Iterator[tuple[int, ...]]:
    """Give every combination of indices below `counts` once; the first k cover all counts <= k.

    The digits of a running number, lowest digit for the longest dimension, are summed up from
    the lowest: while the first digit counts up, all dimensions move with it. The sums, each
    modulo its count, still tell all digits, so nothing comes twice.

    >>> list(covering_indices([2, 3]))
    [(0, 0), (1, 1), (0, 2), (1, 0), (0, 1), (1, 2)]
    """
    longest_first = sorted(range(len(counts)), key=lambda i: -counts[i])
    for number in range(math.prod(counts)):
        indices, total, rest = [0] * len(counts), 0, number
        for i in longest_first:
            rest, digit = divmod(rest, counts[i])
            total += digit
            indices[i] = total % counts[i]
        yield tuple(indices)
