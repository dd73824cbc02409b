"""What the loop of Ray Tune 2.60 lacks: it survives memory kills, sees hangs, forgets the ended.

Tune ends a sweep when Ray's memory monitor kills a worker, waits for ever for a worker that hangs,
and keeps every ended trial in memory. It offers no hook for any of this, so two of its classes are
put in the place of their parents while a sweep runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayTaskError
from ray.tune import tune
from ray.tune.execution import tune_controller
from ray.tune.execution.tune_controller import TuneController

MEMORY_KILL = "Ray's memory monitor killed its worker: the machine was out of memory"


class TolerantActorManager(RayActorManager):  # type: ignore[misc]
    """Takes every loss of a worker as the failure of an actor, which Tune retries."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, RayActorError | RayTaskError):
            memory = isinstance(exception, OutOfMemoryError)
            lines = str(exception).strip().splitlines() or [type(exception).__name__]
            exception = RayActorError(error_msg=MEMORY_KILL if memory else lines[0])
        super()._actor_task_failed(tracked_actor_task, exception)


class HangWatch:
    """Knows when each running trial last gave a sign of life, and which ones were killed."""

    def __init__(
        self, timeout_seconds: float | None, has_waited: Callable[[str], bool] = lambda _: False
    ) -> None:
        """Make a watch.

        Args:
            timeout_seconds: without a sign of life; None: for ever.
            has_waited: tells whether a trial waited for others since it was asked last, which is
                a sign of life too. Only asked when there was no other one for too long.
        """
        self.timeout_seconds = timeout_seconds
        self._has_waited = has_waited
        self._seen: dict[str, float] = {}
        self._killed: set[str] = set()

    def saw(self, tune_id: str) -> None:
        """Note a sign of life."""
        self._seen[tune_id] = time.monotonic()

    def forget(self, tune_id: str) -> bool:
        """Stop watching a trial; tell whether it was killed because it hung."""
        self._seen.pop(tune_id, None)
        was_killed = tune_id in self._killed
        self._killed.discard(tune_id)
        return was_killed

    def kill_hung(self, running: Any) -> None:
        """Kill the workers of running trials that gave no sign of life for too long."""
        if self.timeout_seconds is None:
            return
        oldest = time.monotonic() - self.timeout_seconds
        for trial in running:
            if self._seen.get(trial.trial_id, oldest) >= oldest:
                continue
            if self._has_waited(trial.trial_id):
                self.saw(trial.trial_id)
            else:
                self._killed.add(trial.trial_id)
                del self._seen[trial.trial_id]
                ray.kill(trial.temporary_state.ray_actor)  # Tune hears of a lost worker


def controller_class(watch: HangWatch, after_step: Callable[[], None]) -> type[TuneController]:
    """Make the class of the loop.

    Args:
        watch: whose trials are killed when they hang.
        after_step: called after every event; what it raises ends the sweep.
    """

    class Controller(TuneController):  # type: ignore[misc]
        """Tune's loop with a watch on hangs and without memory of ended trials."""

        def on_step_end(self) -> None:
            super().on_step_end()
            self._forget_ended()
            watch.kill_hung(self._running_trials)
            after_step()

        def _process_trial_failure(self, trial: Any, exception: Exception) -> None:
            trial.temporary_state.lost_by = exception  # Tune keeps it where it does not find it
            super()._process_trial_failure(trial, exception)

        def _forget_ended(self) -> None:
            ended = self._stopped_trials | self._failed_trials
            for trial in ended:
                self._trials.remove(trial)
                self._live_trials.discard(trial)
                self._trial_metadata.pop(trial.trial_id, None)
            self._trials_to_cache -= ended
            self._stopped_trials.clear()
            self._failed_trials.clear()

    return Controller


@contextmanager
def tolerant_tune(watch: HangWatch, after_step: Callable[[], None]) -> Iterator[None]:
    """Within it, `Tuner.fit` runs with the classes of this module."""
    own = controller_class(watch, after_step)
    tune.TuneController, tune_controller.RayActorManager = own, TolerantActorManager
    try:
        yield
    finally:
        tune.TuneController, tune_controller.RayActorManager = TuneController, RayActorManager


def reason_of(trial: Any, *, hung_seconds: float | None) -> str:
    """Say why a trial lost its worker for good.

    Args:
        trial: of Tune, after its last failure.
        hung_seconds: how long it gave no sign of life, if that is why it was killed.
    """
    if hung_seconds is not None:
        reason = f"no progress for {hung_seconds:g} seconds (resources.trial_timeout_seconds)"
    else:
        reason = _said(getattr(trial.temporary_state, "lost_by", None))
    failures = trial.run_metadata.num_failures
    return f"{reason} ({failures} times)" if failures > 1 else reason


def _said(error: BaseException | None) -> str:
    text = str(error or "").strip()
    if MEMORY_KILL in text:
        return MEMORY_KILL
    if "its node has died" in text:
        return "its node was lost"
    if isinstance(error, ActorUnavailableError):
        return "its worker, or its node, cannot be reached any more"
    if isinstance(error, RayActorError) and not error.actor_init_failed:
        return "its worker died"
    return text.splitlines()[-1] if text else "its worker died"
