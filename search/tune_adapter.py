"""Between Tune's events and the recorder: who is suggested, what becomes a row."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher as TuneSearcher

from schedulers import promotable, stop_reason
from search.controller import HangWatch, reason_of
from search.errors import SearchError, StorageError
from search.recorder import Recorder
from trainables.config import TrialConfig
from trainables.contract import Progress, Status

PROGRESS = [f.name for f in fields(Progress)]


class Suggestions(TuneSearcher):  # type: ignore[misc]
    """Hands the recorder's trials to Tune; telling happens where rows are written."""

    def __init__(self, recorder: Recorder, scheduler: TrialScheduler) -> None:
        super().__init__(metric=None, mode=None)
        self.recorder = recorder
        self.scheduler = scheduler

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Take whatever Tune says."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Give the next config: stopped trials that are good enough by now come first."""
        config = self._promoted() or self.recorder.ask()
        if config is None and self.recorder.paused:
            if self.recorder.started_at:  # what runs may yet let others go on
                return None
            config = self._promoted(ending=True)
        return TuneSearcher.FINISHED if config is None else config.model_dump()

    def _promoted(self, *, ending: bool = False) -> TrialConfig | None:
        name = promotable(self.scheduler, self.recorder.paused, ending=ending)
        return self.recorder.promote(name) if name else None

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        """Ignore it: rows are told by the recorder."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: rows are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return TuneSearcher, ()  # Tune stores a copy that is never read


class Events(tune.Callback):  # type: ignore[misc]
    """Turns Tune's events into rows.

    Tune takes an error in a callback for one of the trial, so errors are kept until `raise_error`.
    """

    def __init__(self, recorder: Recorder, scheduler: TrialScheduler, watch: HangWatch) -> None:
        self.recorder = recorder
        self.scheduler = scheduler
        self.watch = watch
        self._error: SearchError | None = None

    def raise_error(self) -> None:
        """Raise what went wrong in an earlier call.

        Raises:
            SearchError: the sweep cannot go on.
        """
        if self._error:
            raise self._error

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note it; a trial of an earlier run brings its epochs to the scheduler."""
        config = _config(trial)
        self.watch.saw(trial.trial_id)
        for progress in self.recorder.trial_started(config):
            result = asdict(progress) | {"training_iteration": progress.epoch}
            self.scheduler.on_trial_result(None, trial, result)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Note an epoch."""
        config = _config(trial)
        self.watch.saw(trial.trial_id)
        if "earlier" in result:
            earlier = [Progress(**progress) for progress in json.loads(result["earlier"])]
            self.recorder.trial_resumed(config, earlier)
        if "epoch" in result:
            progress = Progress(**{name: result[name] for name in PROGRESS})
            self.recorder.epoch_ended(config, progress)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Write the rows of a trial that ended itself, or that the scheduler stopped."""
        config, result = _config(trial), trial.last_result or {}
        self.watch.forget(trial.trial_id)
        if "refused" in result:
            self._error = StorageError(result["refused"])
        elif "reports" in result:
            pairs = json.loads(result["reports"])
            self._end([(TrialConfig.model_validate(c), r) for c, r in pairs])
        else:
            epoch = result.get("training_iteration", 0)
            why = stop_reason(self.scheduler, config.trial_id) or f"stopped after epoch {epoch}"
            reason = f"{self.recorder.spec.stop.method}: {why}"
            self._end([(config, {"status": Status.STOPPED, "reason": reason})])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Say that a trial lost its worker and will go on."""
        self.recorder.trial_interrupted(_config(trial), self._why_lost(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Write the row of a trial that lost its worker too often."""
        self._end([(_config(trial), {"status": Status.FAILED, "reason": self._why_lost(trial)})])

    def _why_lost(self, trial: Any) -> str:
        hung = self.watch.forget(trial.trial_id)
        return reason_of(trial, hung_seconds=self.watch.timeout_seconds if hung else None)

    def _end(self, reports: list[tuple[TrialConfig, dict[str, Any]]]) -> None:
        if self._error:
            return
        try:
            self.recorder.trial_ended(reports)
        except SearchError as error:
            self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()


class NoProgress(TrialProgressCallback):  # type: ignore[misc]
    """Takes the place of the callback that prints progress, which keeps every trial in memory."""

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        """Print nothing."""

    def log_result(self, *_: Any, **__: Any) -> None:
        """Print nothing."""


def _config(trial: Any) -> TrialConfig:
    return TrialConfig.model_validate(trial.config)
