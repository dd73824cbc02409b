"""Asynchronous successive halving on all objectives; the rule is in `rungs`."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from schedulers.contract import Goals, StopOptions
from schedulers.rungs import Rung, rung_epochs

Result = Mapping[str, Any]


def make(stop: StopOptions, max_epochs: int, goals: Goals) -> ParetoAsha:
    """Make the scheduler with rungs at grace_epochs times powers of the reduction factor."""
    return ParetoAsha(stop, max_epochs, goals)


class ParetoAsha(FIFOScheduler):  # type: ignore[misc]
    """Stops a trial at a rung where others are better in all that counts."""

    def __init__(self, stop: StopOptions, max_epochs: int, goals: Goals):
        super().__init__()
        self.goals = goals
        self.max_epochs = max_epochs
        self.brackets = stop.brackets
        epochs = rung_epochs(stop.grace_epochs, stop.reduction_factor, max_epochs)
        self.rungs = {e: Rung(e, stop.reduction_factor, stop.keep_front) for e in epochs}
        self.last_rung = epochs[-1] if epochs else 0
        self.reasons: dict[str, str] = {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Result) -> str:
        """Say whether a trial goes on after an epoch."""
        name, epoch = self.goals.name(trial), result["training_iteration"]
        reason = self._reason(name, epoch, result)
        if reason:
            self.reasons[name] = reason
        done = bool(reason) or epoch >= self.max_epochs
        return str(TrialScheduler.STOP if done else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Result) -> None:
        """Hear of a trial's last result, which later trials are compared with."""
        if "training_iteration" in result:
            self._reason(self.goals.name(trial), result["training_iteration"], result)

    def _reason(self, name: str, epoch: int, result: Result) -> str:
        """Say why a trial stops; nothing if it goes on."""
        known = {key: result[key] for key in self.goals.losses if key in result}
        for key, value in known.items():
            if not math.isfinite(value):
                return f"epoch {epoch}: {key} is {value}"
        rung = self.rungs.get(epoch)
        if rung is None or not known:
            return ""
        losses = tuple(self.goals.losses[key](value) for key, value in known.items())
        reason = rung.enter(name, losses, self._violation(epoch, result))
        skipped = list(self.rungs).index(epoch) < self._bracket(name)
        return "" if skipped else reason

    def _violation(self, epoch: int, result: Result) -> float:
        """Sum up by how much bounds are broken that can be judged at an epoch.

        What changes with training may still come right: it counts from the last rung on.
        """
        total = 0.0
        for bound in self.goals.bounds:
            value = result.get(bound.name)
            if value is not None and (bound.fixed or epoch >= self.last_rung):
                total += bound.violation(value)
        return total

    def _bracket(self, name: str) -> int:
        """Give how many rungs a trial passes unjudged; it follows from the name alone."""
        return zlib.crc32(name.encode()) % self.brackets
