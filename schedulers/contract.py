"""What a scheduler is made from, and what every scheduler does.

A scheduler is one of Ray Tune's: it hears each result of each trial, which has
`training_iteration` (the epoch, from 1) and the metrics of that epoch, and answers whether the
trial goes on. The metric lives in the scheduler: Tune itself is given none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


class StopOptions(Protocol):
    """When to end a trial early; the `stop:` section of a sweep file is one."""

    @property
    def method(self) -> str:
        """A key of SCHEDULERS."""

    @property
    def metric(self) -> str:
        """What `asha` compares between trials."""

    @property
    def direction(self) -> Literal["min", "max"]:
        """Whether low or high values of the metric are good."""

    @property
    def grace_epochs(self) -> int:
        """Epochs that every trial gets."""

    @property
    def reduction_factor(self) -> int:
        """Of n trials at a rung, about n / reduction_factor go on."""

    @property
    def keep_front(self) -> bool:
        """Whether `pareto_asha` stops no trial that none dominates."""

    @property
    def promote(self) -> bool:
        """Whether `pareto_asha` stops most trials early, and takes up the best of them later."""

    @property
    def brackets(self) -> int:
        """In how many groups trials are, of which group b is not judged at the first b rungs."""


@dataclass(frozen=True)
class Bound:
    """What a deployable model must keep on one metric."""

    name: str
    low: float = -math.inf
    high: float = math.inf
    fixed: bool = False
    """Whether the metric's value is the same from the first epoch to the last."""

    def violation(self, value: float) -> float:
        """Give by how much a value breaks the bound, as a share of the bound; 0 if it keeps it."""
        if value > self.high:
            return (value - self.high) / max(abs(self.high), 1e-12)
        if value < self.low:
            return (self.low - value) / max(abs(self.low), 1e-12)
        return 0.0


def _tune_id(trial: Any) -> str:
    return str(trial.trial_id)


@dataclass(frozen=True)
class Goals:
    """What the trials of a sweep are good for."""

    losses: Mapping[str, Callable[[float], float]] = field(default_factory=dict)
    """By metric name, from a value to a minimised loss; the first objective first."""
    bounds: tuple[Bound, ...] = ()
    name: Callable[[Any], str] = _tune_id
    """Gives the name of a Tune trial that reasons should mention."""
