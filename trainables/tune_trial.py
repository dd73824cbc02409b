"""Trials in Ray Tune's workers: torch is imported and the data opened once for many trials."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from typing import Any

from ray import tune

from trainables import latency
from trainables.config import TrialConfig
from trainables.contract import Status, TrialReport
from trainables.errors import StorageRefusedError
from trainables.trial import Trial, TrialSettings
from trainables.waiting import say_waiting


class TuneTrial(tune.Trainable):
    """Runs one `Trial` after the other in one worker process (Tune's `reuse_actors`).

    A result has `training_iteration` (the epoch) and the fields of `Progress`; the first one after
    a fault `earlier`: JSON of the progress before; the last one `reports`: JSON of [config,
    report] pairs, or `refused`: why the storage could not take the model file.
    """

    def setup(self, config: dict[str, Any], *, settings: TrialSettings) -> None:
        """Start the first trial of this worker."""
        self.settings = settings
        for path in settings.import_paths:
            if path not in sys.path:
                sys.path.insert(0, path)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next trial in this worker."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._config = TrialConfig.model_validate(config)
        self._trial: Trial | None = None

    def step(self) -> dict[str, Any]:
        """Run one epoch."""
        latency.waiting_sign.set(partial(say_waiting, self.trial_id))
        first = self._trial is None
        try:
            # Here and not in `setup`, whose errors Tune takes for those of a worker: it would try
            # again.
            self._trial = self._trial or Trial(self._config, self.settings)
            progress, ended = self._trial.step()
        except StorageRefusedError as error:
            return {"refused": str(error), "done": True}
        except Exception as error:
            report = TrialReport(Status.FAILED, f"{type(error).__name__}: {error}")
            progress, ended = None, [(self._config, report)]
        result: dict[str, Any] = {}
        if progress:
            result = asdict(progress) | {"training_iteration": progress.epoch}
        if first and self._trial and self._trial.report.resumed_from:
            earlier = self._trial.curve[: -1 if progress else None]
            result["earlier"] = json.dumps([asdict(p) for p in earlier])
        if ended:
            result["reports"] = json.dumps([(c.model_dump(), r.to_dict()) for c, r in ended])
            result["done"] = True
        return result
