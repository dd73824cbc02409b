"""When to stop a trial: one line per scheduler. Ray is imported when one is made, not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from schedulers.contract import StopOptions

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler


def _none(stop: StopOptions, max_epochs: int) -> TrialScheduler:
    from schedulers.none import make

    return make(stop, max_epochs)


def _asha(stop: StopOptions, max_epochs: int) -> TrialScheduler:
    from schedulers.asha import make

    return make(stop, max_epochs)


SCHEDULERS: dict[str, Callable[[StopOptions, int], TrialScheduler]] = {
    "none": _none,
    "asha": _asha,
}


def make_scheduler(stop: StopOptions, *, max_epochs: int) -> TrialScheduler:
    """Make the scheduler that a sweep names.

    Args:
        stop: the options; `method` is a key of SCHEDULERS.
        max_epochs: epochs of the longest trial.
    """
    return SCHEDULERS[stop.method](stop, max_epochs)
