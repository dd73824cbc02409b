"""What a running sweep tells whoever watches it: a terminal, a log. Nothing of Ray in here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from search.objectives import Objective
from search.study.rows import ResultRow
from trainables.config import TrialConfig
from trainables.contract import Progress

log = logging.getLogger("paretune")


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is about to do."""

    name: str
    location: str
    """Of the study folder."""
    trials: int | None
    """Rows to reach in all; None where only the searcher knows (a grid over unknown merges)."""
    earlier_rows: Sequence[ResultRow]
    """Rows that the study already had; their trials are not repeated."""
    objectives: Sequence[Objective]
    max_concurrent: int


class SweepObserver:
    """Base of all watchers: override what you need. Calls come from the driver's one thread."""

    def sweep_started(self, plan: SweepPlan) -> None:
        """Hear of the plan before the first trial."""

    def trial_started(self, trial_id: str, config: TrialConfig) -> None:
        """Hear that a trial was handed to a worker."""

    def epoch_ended(self, trial_id: str, progress: Progress) -> None:
        """Hear of one epoch."""

    def trial_interrupted(self, trial_id: str, reason: str) -> None:
        """Hear that a trial lost its worker; it goes on in another from its last checkpoint."""

    def trial_ended(self, row: ResultRow) -> None:
        """Hear of a row, after it was written; once more if it had stopped and then went on."""

    def row_changed(self, row: ResultRow) -> None:
        """Hear that a row was written again, with a latency measured alone."""

    def sweep_ended(self, *, interrupted: bool) -> None:
        """Hear that no more rows will come; called once, also after an error."""


class BestEffort(SweepObserver):
    """Lets a watcher fail without ending the sweep: rows matter more than who looks at them.

    The first failure is logged, and the watcher hears of nothing more.
    """

    def __init__(self, observer: SweepObserver) -> None:
        self.observer: SweepObserver | None = observer

    def sweep_started(self, plan: SweepPlan) -> None:
        """Pass it on."""
        self._try(lambda o: o.sweep_started(plan))

    def trial_started(self, trial_id: str, config: TrialConfig) -> None:
        """Pass it on."""
        self._try(lambda o: o.trial_started(trial_id, config))

    def epoch_ended(self, trial_id: str, progress: Progress) -> None:
        """Pass it on."""
        self._try(lambda o: o.epoch_ended(trial_id, progress))

    def trial_interrupted(self, trial_id: str, reason: str) -> None:
        """Pass it on."""
        self._try(lambda o: o.trial_interrupted(trial_id, reason))

    def trial_ended(self, row: ResultRow) -> None:
        """Pass it on."""
        self._try(lambda o: o.trial_ended(row))

    def row_changed(self, row: ResultRow) -> None:
        """Pass it on."""
        self._try(lambda o: o.row_changed(row))

    def sweep_ended(self, *, interrupted: bool) -> None:
        """Pass it on."""
        self._try(lambda o: o.sweep_ended(interrupted=interrupted))

    def _try(self, call: Callable[[SweepObserver], None]) -> None:
        if self.observer is None:
            return
        try:
            call(self.observer)
        except Exception as error:
            name = type(self.observer).__name__
            log.warning("%s gave up, the sweep goes on: %s", name, error)
            self.observer = None
