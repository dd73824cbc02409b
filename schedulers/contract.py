"""What a scheduler is made from, and what every scheduler does.

A scheduler is one of Ray Tune's: it hears each result of each trial, which has
`training_iteration` (the epoch, from 1) and the metrics of that epoch, and answers whether the
trial goes on. The metric lives in the scheduler: Tune itself is given none.
"""

from __future__ import annotations

from typing import Literal, Protocol


class StopOptions(Protocol):
    """When to end a trial early; the `stop:` section of a sweep file is one."""

    @property
    def method(self) -> str:
        """A key of SCHEDULERS."""

    @property
    def metric(self) -> str:
        """What is compared between trials."""

    @property
    def direction(self) -> Literal["min", "max"]:
        """Whether low or high values of the metric are good."""

    @property
    def grace_epochs(self) -> int:
        """Epochs that every trial gets."""

    @property
    def reduction_factor(self) -> int:
        """Of n trials at a rung, about n / reduction_factor go on."""
