"""Asynchronous successive halving on all objectives; the rule is in `rungs`."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping
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
        self.ends: dict[str, tuple[float, ...]] = {}
        self.rungs = {
            epoch: Rung(
                epoch, stop.reduction_factor, stop.keep_front, stop.promote, ends=self.ends
            )
            for epoch in epochs
        }
        self.promoted: dict[str, int] = {}
        """By name, the rung that a trial passed after it had been stopped there."""
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
        if "training_iteration" not in result:
            return
        name = self.goals.name(trial)
        self._reason(name, result["training_iteration"], result)
        losses = self._losses(result)
        if len(losses) == len(self.goals.losses) and all(map(math.isfinite, losses)):
            self.ends[name] = losses

    def promotable(self, among: Collection[str], *, ending: bool = False) -> str | None:
        """Name a stopped trial that by now is good enough to go on; the furthest first.

        Args:
            among: names of stopped trials that can go on.
            ending: whether no new trials will come.
        """
        left = set(among)
        for epoch, rung in reversed(self.rungs.items()):
            here = [i for i, name in enumerate(rung.names) if name in left]
            left -= {rung.names[i] for i in here}
            for i in here:
                if not rung.verdict(i, ending=ending):
                    self.promoted[rung.names[i]] = epoch
                    return rung.names[i]
        return None

    def _reason(self, name: str, epoch: int, result: Result) -> str:
        """Say why a trial stops; nothing if it goes on."""
        for key in self.goals.losses:
            if not math.isfinite(result.get(key, 0.0)):
                return f"epoch {epoch}: {key} is {result[key]}"
        rung, losses = self.rungs.get(epoch), self._losses(result)
        if rung is None or not losses:
            return ""
        reason = rung.enter(name, losses, self._violation(epoch, result))
        skipped = list(self.rungs).index(epoch) < self._bracket(name)
        return "" if skipped or epoch <= self.promoted.get(name, 0) else reason

    def _losses(self, result: Result) -> tuple[float, ...]:
        """Give the losses of those objectives that trials report."""
        return tuple(loss(result[key]) for key, loss in self.goals.losses.items() if key in result)

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
