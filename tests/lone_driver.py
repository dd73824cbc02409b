"""A sweep's driver without Ray's loop: real scheduler, rows and checkpoints, analytic trials."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import islice
from types import SimpleNamespace
from typing import Any

from analytic_trials import SPACE, analytic_sweep, true_metrics

from search.controller import HangWatch
from search.recorder import Recorder
from search.searchers import make_searcher
from search.spec.spec import SweepSpec
from search.stopping import scheduler_of
from search.study.study import Study
from search.tune_adapter import Events
from trainables.checkpoint import save_checkpoint
from trainables.config import TrialConfig
from trainables.contract import Forecast, Latency, Measurement, Progress, Status, TrialReport
from trainables.running import checkpoint_name

EPOCHS = 9
ENDED = "ENDED"
"""Decision of a trial about itself."""
AT_ONCE = 3
"""Trials under way."""
Verdict = list[str | int]
"""Trial, epoch, decision, reason; as it comes back from JSON."""


def stopping_sweep(storage: str, **stop: Any) -> SweepSpec:
    """Give a sweep of up to 200 trials, nine epochs each."""
    return analytic_sweep(
        "random",
        3,
        name=stop["method"],
        storage=storage,
        space=SPACE | {"epochs": EPOCHS},
        search={"method": "random", "trials": 200},
        stop=stop,
    )


class LoneDriver:
    """Drives the study of a sweep from whatever is in its folder, a round of epochs at a time."""

    def __init__(self, study: Study) -> None:
        self.study = study
        spec, rows = study.spec(), study.rows()
        self.scheduler = scheduler_of(spec, rows)
        self.recorder = Recorder(spec, study, rows, (), left_running=study.running())
        self.events = Events(self.recorder, self.scheduler, HangWatch(None))
        # A list that every process works out alike, so that no searcher's memory matters.
        self.order = list(islice(iter(make_searcher(spec).ask, None), spec.search.trials))
        self.under_way: list[Any] = []
        self.verdicts: list[Verdict] = []
        for config, curve in study.running():
            self._start(config, epoch=len(curve))

    def run(self, rounds: int) -> list[Verdict]:
        """Let each trial under way report an epoch, so many times; give what was decided."""
        before = len(self.verdicts)
        for _ in range(rounds):
            while len(self.under_way) < AT_ONCE:
                self._start(next(c for c in self.order if c.trial_id not in self._begun()))
            for trial in sorted(self.under_way, key=lambda t: self.order.index(t.own)):
                self._report(trial)
        return self.verdicts[before:]

    def leave(self) -> None:
        """Leave checkpoints of what is under way, as its workers do."""
        for trial in self.under_way:
            curve = [asdict(epoch_of(trial.own, e + 1)) for e in range(trial.epoch)]
            head = {"config": trial.config, "curve": curve}
            name = checkpoint_name(trial.own.trial_id)
            save_checkpoint(f"{self.study.running_location}/{name}", head, {})

    def _begun(self) -> set[str]:
        return self.recorder.known | {trial.own.trial_id for trial in self.under_way}

    def _start(self, config: TrialConfig, epoch: int = 0) -> None:
        number = self.order.index(config)
        trial = SimpleNamespace(
            trial_id=f"tune{number}", config=config.model_dump(), own=config, epoch=epoch
        )
        self.under_way.append(trial)
        self.scheduler.on_trial_add(None, trial)
        self.events.on_trial_start(0, [], trial)

    def _report(self, trial: Any) -> None:
        """Do with an epoch what Tune does."""
        trial.epoch += 1
        progress = epoch_of(trial.own, trial.epoch)
        trial.last_result = result = asdict(progress) | {"training_iteration": trial.epoch}
        if trial.epoch == EPOCHS:
            report = measured(trial.own, progress)
            result["reports"] = json.dumps([(trial.config, report.to_dict())])
        self.events.on_trial_result(0, [], trial, result)
        if trial.epoch == EPOCHS:
            self.scheduler.on_trial_complete(None, trial, result)
            decision = ENDED
        else:
            decision = self.scheduler.on_trial_result(None, trial, result)
        if decision != "CONTINUE":
            self.events.on_trial_complete(0, [], trial)
            self.events.raise_error()
            self.under_way.remove(trial)
        reason = self.recorder.rows[-1].reason if decision == "STOP" else ""
        self.verdicts.append([trial.own.trial_id, trial.epoch, decision, reason])


def epoch_of(config: TrialConfig, epoch: int) -> Progress:
    """Give what a trial reports after an epoch: larger networks learn more slowly."""
    end = true_metrics(config)
    slow = 0.5 + math.log10(end["size_bytes"]) / 3
    return Progress(
        epoch,
        accuracy=end["accuracy"] * (1 - math.exp(-epoch / slow)),
        loss=1.0,
        learning_rate=config.learning_rate,
        size_bytes=round(end["size_bytes"]),
        latency_ms=end["latency_ms"],
        train_seconds=float(epoch),
        skipped_steps=0,
        loss_scale=1.0,
        parameters=round(end["size_bytes"]) // (8 if epoch > EPOCHS // 2 else 4),
        peak_memory_bytes=round(end["size_bytes"]) * (10 + epoch),
    )


def measured(config: TrialConfig, last: Progress) -> TrialReport:
    """Give the report of a trial whose file is none too like its forecast."""
    forecast = Forecast(last.size_bytes, last.parameters, latency(last.latency_ms))
    measurement = Measurement(
        accuracy=last.accuracy - 0.01,
        test_accuracy=last.accuracy,
        size_bytes=last.size_bytes + 100,
        compressed_bytes=last.size_bytes // 2,
        parameters=last.parameters,
        latency=latency(last.latency_ms * (0.8 if config.batch_size > 32 else 1.2)),
        train_seconds=last.train_seconds,
        operators={},
        max_disagreement=0.0,
        peak_memory_bytes=last.peak_memory_bytes,
    )
    return TrialReport(Status.MEASURED, forecast=forecast, measurement=measurement)


def latency(ms: float) -> Latency:
    return Latency(ms, ms * 0.99, ms * 1.01, 1.0, "thread_cpu", 100, 1, 1, "cpu")
