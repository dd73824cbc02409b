"""What every searcher does, and what it may know of a sweep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from search.objectives import Constraint, Objective
from search.space.space import Space
from trainables.config import TrialConfig

if TYPE_CHECKING:
    from search.study.rows import ResultRow


class SearchSettings(Protocol):
    """What a sweep file says of its search."""

    @property
    def method(self) -> str:
        """A key of SEARCHERS."""

    @property
    def siblings(self) -> bool:
        """Whether every trained network is measured under each pair of bits of the space."""

    @property
    def quasi_random(self) -> bool:
        """Whether random search draws evenly spread points."""


class Problem(Protocol):
    """What a searcher may know of a sweep; a SweepSpec is one."""

    @property
    def space(self) -> Space:
        """What may vary."""

    @property
    def seed(self) -> int:
        """Of all that is random."""

    @property
    def objective_list(self) -> list[Objective]:
        """What to optimise."""

    @property
    def constraint_list(self) -> list[Constraint]:
        """What a deployable model must keep."""

    @property
    def search(self) -> SearchSettings:
        """How to search."""


class Searcher(ABC):
    """Suggests configs. Its whole state follows from the problem and the rows it was told.

    A config that was asked for or told of is never suggested again, so that trials under way and
    those of earlier runs are not repeated.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._known: set[str] = set()
        self._proposals = self.propose()

    @abstractmethod
    def propose(self) -> Iterator[TrialConfig]:
        """Give canonical configs of the space, best first, and end when there are no more.

        Known ones are left out by `ask`. It runs as a generator, so what was told in the meantime
        counts for what it gives next.
        """

    def ask(self) -> TrialConfig | None:
        """Suggest a canonical config; None if there is nothing left, which ends the sweep."""
        for config in self._proposals:
            if (trial_id := config.trial_id) not in self._known:
                self._known.add(trial_id)
                return config
        return None

    def adopt(self, config: TrialConfig) -> None:
        """Hear of a trial under way that was not asked for: it was left, or stopped, before."""
        self._known.add(config.trial_id)

    def tell(self, row: ResultRow) -> None:
        """Hear of a row: in any order, of earlier runs as well, of configs never asked for too."""
        self._known.add(row.trial_id)

    def hear(self, config: TrialConfig, epoch: int, accuracy: float) -> None:  # noqa: B027
        """Hear of an epoch of a trial under way; by default it is left to the trial's row."""

    def transfer(self, row: ResultRow) -> None:  # noqa: B027
        """Hear of a row of an unlike study: a hint to models, its config may still be tried."""
