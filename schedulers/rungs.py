"""Who goes on from a rung, judged by several objectives. Knows nothing of Ray.

A rung is an epoch at which trials are compared. Of n trials there, about the best
n / reduction_factor go on, by either of two orders: the Pareto order (fronts one after the other,
each spread as an epsilon-net, as in Schmucker et al., arXiv:2106.12639), or the first objective
alone. Either order by itself loses one end of the front. More go on where ended trials have shown
that a rung says little about the end. A trial stops as well if others that ended have already
what it may still become.

Shapes: n trials at a rung, m objectives, minimised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

NEIGHBOURS = 8
"""Ended trials, alike at the rung, whose best gain a trial may still hope for."""
PRIOR_TRIALS = 2
"""Before any trial has ended, a rung is taken to foretell all that an end says; the belief counts
as much as two ended trials."""


def rung_epochs(grace_epochs: int, reduction_factor: int, max_epochs: int) -> list[int]:
    """Give the epochs of the rungs: grace_epochs times powers of the factor, below the last epoch.

    >>> rung_epochs(1, 3, 27), rung_epochs(2, 2, 9), rung_epochs(5, 3, 4)
    ([1, 3, 9], [2, 4, 8], [])
    """
    epochs = []
    epoch = grace_epochs
    while epoch < max_epochs:
        epochs.append(epoch)
        epoch *= reduction_factor
    return epochs


@dataclass
class Rung:
    """The trials that reached one epoch."""

    epoch: int
    reduction_factor: int = 3
    keep_front: bool = True
    """Whether trials that none dominates at the rung go on, be they many."""
    promote: bool = False
    """Whether a stopped trial may go on later: then nobody passes before there are others."""
    names: list[str] = field(default_factory=list)
    losses: list[tuple[float, ...]] = field(default_factory=list)
    violations: list[float] = field(default_factory=list)
    ends: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Losses of trials at their last epoch, by name; the rungs of a sweep share them."""

    def enter(self, name: str, losses: tuple[float, ...], violation: float = 0.0) -> str:
        """Note a trial and say why it stops here; nothing if it goes on.

        Args:
            name: of the trial; entering twice changes nothing.
            losses: (m,) minimised; NaN where not known.
            violation: by how much it breaks constraints, 0 if it breaks none.
        """
        if name not in self.names:
            self.names.append(name)
            self.losses.append(losses)
            self.violations.append(violation)
        return self.verdict(self.names.index(name))

    def verdict(self, index: int, *, ending: bool = False) -> str:
        """Say why the trial at a place stops, among all that have entered so far.

        Args:
            index: the place.
            ending: whether no more will enter: where trials may go on later, one more then does.
        """
        losses, violations = np.array(self.losses, dtype=float), np.array(self.violations)
        if not np.isfinite(losses[index]).all():
            return f"rung {self.epoch}: not every objective is a number"
        waits = self.promote and not ending
        on = self._going_on(len(losses))
        keep = math.floor(on) if waits else math.ceil(on)
        by_front, front = places_by_front(losses, violations)
        by_first = places_by_first(losses, violations, by_front)
        if not waits and (by_first[index] == 0 or by_front[index] == 0):
            return ""
        if better := self._out_of_reach(losses[index]):
            return f"rung {self.epoch}: may at best become worse than {better}"
        on_kept_front = self.keep_front and not self.promote and front[index] == 0
        if on_kept_front or min(by_first[index], by_front[index]) < keep:
            return ""
        return (
            f"rung {self.epoch}: rank {by_front[index] + 1} of {len(losses)}, "
            f"{self._rival(losses, violations, index)}"
        )

    def _going_on(self, trials: int) -> float:
        """Give how many of the trials go on: 1 / reduction_factor, where a rung foretells all.

        What it does not foretell decides as luck would, and all go on.
        """
        known, then, now = self._ended()
        seen = foretold(then, now) if known else 0.0
        told = (len(known) * seen + PRIOR_TRIALS) / (len(known) + PRIOR_TRIALS)
        return (1.0 - told) * trials + told * trials / self.reduction_factor

    def _ended(self) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
        """Give the k trials of the rung that ended, their losses (k, m) here and at their end."""
        known = [i for i, name in enumerate(self.names) if name in self.ends]
        names = [self.names[i] for i in known]
        then = np.array([self.losses[i] for i in known], dtype=float)
        return names, then, np.array([self.ends[name] for name in names], dtype=float)

    def _out_of_reach(self, own: NDArray[np.float64]) -> str:
        """Name an ended trial that dominates what a trial (m,) may become; nothing if none does.

        What never changes in training, as the size, gains nothing and so stays as it is.
        """
        known, then, now = self._ended()
        if len(known) < NEIGHBOURS:
            return ""
        hoped = own + best_gains(own, then, now)
        dominating = (now <= hoped).all(axis=1) & (now < hoped).any(axis=1)
        return known[int(np.argmax(dominating))] if dominating.any() else ""

    def _rival(
        self, losses: NDArray[np.float64], violations: NDArray[np.float64], index: int
    ) -> str:
        """Say which trial, the best by the first objective, stands before this one."""
        own = losses[index]
        if violations[index] > 0:
            return "breaks a constraint"
        if self.promote and len(losses) < self.reduction_factor:
            return "too few to compare with"
        dominating = (losses <= own).all(axis=1) & (losses < own).any(axis=1) & (violations <= 0)
        if dominating.any():
            best = min(np.flatnonzero(dominating), key=lambda i: tuple(losses[i]))
            return f"dominated by {self.names[best]}"
        return "on the front, which is crowded here"


def foretold(then: ArrayLike, now: ArrayLike, /) -> float:
    """Give the share of the order at the end that a rung shows: a squared rank correlation.

    The least over the objectives that training changed; all, if it changed none. A correlation
    below 0 shows nothing.

    Args:
        then: (k, m) losses of ended trials at the rung.
        now: (k, m) and at their end.

    >>> foretold([[0.9, 3.0], [0.8, 1.0], [0.7, 2.0]], [[0.3, 3.0], [0.2, 1.0], [0.1, 2.0]])
    1.0
    >>> foretold([[0.9, 3.0], [0.8, 1.0], [0.7, 2.0]], [[0.1, 3.0], [0.2, 1.0], [0.3, 2.0]])
    0.0
    """
    before, after = np.asarray(then, dtype=float), np.asarray(now, dtype=float)
    shares = [1.0]
    for j in np.flatnonzero((before != after).any(axis=0)):
        ranks = rankdata(np.column_stack([before[:, j], after[:, j]]), axis=0)
        spread = ranks.std(axis=0).prod()
        covariance = (ranks - ranks.mean(axis=0)).prod(axis=1).mean()
        shares.append(max(0.0, covariance / spread) ** 2 if spread > 0 else 0.0)
    return float(min(shares))


def best_gains(own: ArrayLike, then: ArrayLike, now: ArrayLike, /) -> NDArray[np.float64]:
    """Give the best change of each loss from a rung to the end among trials alike at the rung.

    Args:
        own: (m,) losses of a trial at the rung.
        then: (k, m) those of ended trials at the rung.
        now: (k, m) and at their end.

    >>> best_gains([0.5, 3.0], [[0.4, 1.0], [0.6, 2.0]], [[0.1, 1.0], [0.2, 2.0]])
    array([-0.4,  0. ])
    """
    before, after = np.asarray(then, dtype=float), np.asarray(now, dtype=float)
    far = np.abs(before - np.asarray(own, dtype=float))
    alike = np.argsort(far, axis=0, kind="stable")[:NEIGHBOURS]
    best = np.take_along_axis(after - before, alike, axis=0).min(axis=0)
    return np.asarray(best, dtype=np.float64)


def places_by_first(
    losses: ArrayLike, violations: ArrayLike, by_front: ArrayLike, /
) -> NDArray[np.int64]:
    """Count for each trial those that are better: in the first objective, feasible before others.

    Args:
        losses: (n, m); a row with a NaN comes after all others.
        violations: (n,) by how much constraints are broken, 0 if none is.
        by_front: (n,) places that decide where the first objective ties.

    Returns:
        Places (n,) from 0; ties in both share the better place.

    >>> places_by_first([[0.3], [0.1], [0.1], [0.0]], [0, 0, 0, 1], [2, 0, 0, 3])
    array([2, 0, 0, 3])
    """
    points, broken = np.asarray(losses, dtype=float), np.asarray(violations, dtype=float)
    unknown = ~np.isfinite(points).all(axis=1)
    first = np.where(unknown, 0.0, points[:, 0])
    return _places(np.column_stack([unknown, broken, first, by_front]))


def places_by_front(
    losses: ArrayLike, violations: ArrayLike, /
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count for each trial those before it: on better fronts, or earlier in its front's net.

    Feasible trials come first, then infeasible ones by violation, then those with a NaN.

    Args:
        losses: (n, m).
        violations: (n,) by how much constraints are broken, 0 if none is.

    Returns:
        Places (n,) from 0, equal rows share the better one; and the number of each row's front.

    >>> places, fronts = places_by_front([[0, 4], [1, 3], [4, 0], [4, 4]], [0, 0, 0, 0])
    >>> places, fronts
    (array([0, 2, 1, 3]), array([0, 0, 0, 1]))
    """
    points, broken = np.asarray(losses, dtype=float), np.asarray(violations, dtype=float)
    unknown = ~np.isfinite(points).all(axis=1)
    feasible = ~unknown & (broken <= 0)
    fronts = np.zeros(len(points), dtype=np.int64)
    net = np.zeros(len(points), dtype=np.int64)
    if feasible.any():
        fronts[feasible] = moocore.pareto_rank(points[feasible])
        for front in range(int(fronts[feasible].max()) + 1):
            rows = np.flatnonzero(feasible & (fronts == front))
            net[rows] = net_places(points[rows])
    behind = int(fronts[feasible].max()) + 1 if feasible.any() else 0
    fronts[~feasible] = behind + _places(np.column_stack([unknown, broken])[~feasible])
    return _places(np.column_stack([fronts, net])), fronts


def net_places(points: ArrayLike, /) -> NDArray[np.int64]:
    """Order the trials of one front so that every prefix is spread over it: an epsilon-net.

    The best of the first objective comes first, then always the trial farthest from those before.

    Args:
        points: (n, m), n >= 1; each objective counts by its range.

    Returns:
        Places (n,) from 0; equal rows share one. They do not depend on the order of the rows.

    >>> net_places([[0.0, 4.0], [1.0, 3.0], [4.0, 0.0], [2.0, 2.0]])
    array([0, 3, 1, 2])
    """
    rows, back = np.unique(np.asarray(points, dtype=float), axis=0, return_inverse=True)
    span = np.ptp(rows, axis=0)
    scaled = (rows - rows.min(axis=0)) / np.where(span > 0, span, 1.0)
    places = np.zeros(len(rows), dtype=np.int64)
    distance = np.full(len(rows), np.inf)
    chosen = 0  # rows are sorted: the best in the first objective
    for place in range(len(rows)):
        places[chosen] = place
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[chosen], axis=1))
        distance[chosen] = -1.0
        chosen = int(np.argmax(distance))
    return places[back.reshape(-1)]


def _places(keys: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count for each row the rows that are lower, columns compared from the left."""
    _, back, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts)[back.reshape(-1)]
