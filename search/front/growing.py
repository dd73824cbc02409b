"""The front of a study under way: a row that comes costs what the front is long, not the study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from search.front.front import ParetoFront, is_infeasible, undominated
from search.objectives import Constraint, Objective, losses
from search.study.rows import ResultRow
from trainables.contract import Status


class GrowingFront:
    """Rows in the order of coming, and their front: at all times that of `ParetoFront.of(rows)`.

    The front is sought among the rows that none dominates. That is exact, although a tolerance
    makes ties that are not transitive: whatever keeps a row off the front, keeps off all that the
    row dominates as well.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
        rows: Sequence[ResultRow] = (),
    ) -> None:
        self.objectives = tuple(objectives)
        self.constraints = tuple(constraints)
        self.rows = list(rows)
        self._begin()

    @property
    def front(self) -> ParetoFront:
        """Give the front of all rows so far."""
        return self._front

    def put(self, row: ResultRow) -> None:
        """Add a row, or put it in the place of the one of the same trial."""
        place = self._places.get(row.trial_id)
        if place is not None:  # a row that changed may let others come back: look at all again
            self.rows[place] = row
            self._begin()
        else:
            self._places[row.trial_id] = len(self.rows)
            self.rows.append(row)
            self._front = self._with(row)

    def _begin(self) -> None:
        self._places = {row.trial_id: place for place, row in enumerate(self.rows)}
        self._front = ParetoFront.of(self.rows, self.objectives, self.constraints)
        self._best, self._losses = undominated(self.rows, self.objectives, self.constraints)

    def _with(self, row: ResultRow) -> ParetoFront:
        """Give the front after one more row."""
        front = self._front
        counts = {**front.counts, row.status: front.counts.get(row.status, 0) + 1}
        breaks = is_infeasible(row, self.constraints)
        infeasible = front.infeasible + breaks
        if row.status is Status.MEASURED and not breaks and self._take(row):
            front = ParetoFront.of(self._best, self.objectives, self.constraints)
        return replace(front, counts=counts, infeasible=infeasible)

    def _take(self, row: ResultRow) -> bool:
        """Take a row among the best, in the place of those that it dominates, unless one does."""
        (own,) = losses([row.metrics], self.objectives)
        if np.isnan(own).any() or (self._losses <= own).all(axis=1).any():
            return False
        stays = ~(own <= self._losses).all(axis=1)
        self._best = [r for r, stay in zip(self._best, stays, strict=True) if stay] + [row]
        self._losses = np.vstack([self._losses[stays], own])
        return True
