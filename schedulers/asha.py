"""Asynchronous successive halving on one metric (Li et al., arXiv:1810.05934)."""

from __future__ import annotations

import math
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from schedulers.contract import StopOptions

Result = dict[str, Any]


def make(stop: StopOptions, max_epochs: int) -> EpochAsha:
    """Make ASHA with rungs at grace_epochs times powers of the reduction factor."""
    return EpochAsha(
        time_attr="training_iteration",
        metric=stop.metric,
        mode=stop.direction,
        max_t=max_epochs,
        grace_period=min(stop.grace_epochs, max_epochs),
        reduction_factor=stop.reduction_factor,
    )


class EpochAsha(ASHAScheduler):  # type: ignore[misc]
    """Tune's ASHA, which alone would let a trial go on whose metric is not a number."""

    @property
    def metric(self) -> None:
        """Hide the metric from Tune, which aborts the sweep at a result that lacks it.

        Infeasible and failed trials end with such a result.
        """
        return None

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Result) -> str:
        """Say whether a trial goes on after an epoch."""
        if not self._comparable(result):
            self._num_stopped += 1
            return str(TrialScheduler.STOP)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(
        self, tune_controller: Any, trial: Trial, result: dict[str, Any]
    ) -> None:
        """Hear of a trial's last result; one that is not a number stays out of the rungs."""
        if self._comparable(result):
            super().on_trial_complete(tune_controller, trial, result)
        else:
            self._trial_info.pop(trial.trial_id, None)

    def _comparable(self, result: Result) -> bool:
        return math.isfinite(result.get(self._metric, 0.0))
