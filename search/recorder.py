"""What has happened in a sweep so far. Knows nothing of Ray."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from search.observer import SweepObserver, SweepPlan
from search.searchers import make_searcher
from search.searchers.contract import Searcher
from search.spec import SweepSpec
from search.study.rows import ResultRow
from search.study.study import Study
from trainables.config import TrialConfig
from trainables.contract import METRICS, Progress, Status

HOPELESS_FAILURES = 5
"""If the first rows all failed for one cause, further trials would only repeat it."""


@dataclass
class Recorder:
    """A sweep under way: the one place where rows are made, stored, told and announced."""

    spec: SweepSpec
    study: Study
    rows: list[ResultRow]
    observers: Sequence[SweepObserver]
    told: Sequence[ResultRow] = ()
    """Rows of other studies that the searcher learns from; they are no rows of this study."""
    hopeless: str = ""
    curves: dict[str, list[Progress]] = field(default_factory=dict)
    started_at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._environment_noted = False
        self.searcher: Searcher = make_searcher(self.spec)
        own = {row.trial_id for row in self.rows}
        for row in (*(row for row in self.told if row.trial_id not in own), *self.rows):
            self.searcher.tell(row)

    @property
    def remaining(self) -> int:
        """Trials still to be run: siblings are extra, they cost no training."""
        return self.spec.search.trials - sum(row.origin == "trained" for row in self.rows)

    def start(self) -> None:
        """Announce the plan."""
        plan = SweepPlan(
            name=self.spec.name,
            location=self.study.location,
            trials=self.spec.search.trials,
            earlier_rows=tuple(self.rows),
            objectives=self.spec.objective_list,
            max_concurrent=self.spec.max_concurrent,
        )
        for observer in self.observers:
            observer.sweep_started(plan)

    def trial_started(self, config: TrialConfig) -> None:
        """Note that a worker took a trial."""
        self.started_at[config.trial_id] = time.monotonic()
        self.curves[config.trial_id] = []
        for observer in self.observers:
            observer.trial_started(config.trial_id, config)

    def epoch_ended(self, config: TrialConfig, progress: Progress) -> None:
        """Note one epoch of a trial."""
        self.curves[config.trial_id].append(progress)
        for observer in self.observers:
            observer.epoch_ended(config.trial_id, progress)

    def trial_ended(self, reports: Sequence[tuple[TrialConfig, dict[str, Any]]]) -> None:
        """Write and tell one row per report; the first is the trial's own."""
        parent = reports[0][0].trial_id
        for config, report in reports:
            if any(row.trial_id == config.trial_id for row in self.rows):
                continue  # a sibling that was tried before as a trial of its own
            row = self._row(config, report, parent)
            self.study.write_row(row)
            self._note_environment(row)
            self.rows.append(row)
            self.searcher.tell(row)
            for observer in self.observers:
                observer.trial_ended(row)
        if self._only_one_cause():
            self.hopeless = self.rows[-1].reason

    def _note_environment(self, row: ResultRow) -> None:
        """Note once per run what the numbers are made with, and by which command."""
        if row.environment and not self._environment_noted:
            version = {"paretune": metadata.version("paretune"), "command": sys.argv}
            self.study.write_environment({**version, **row.environment})
            self._environment_noted = True

    def _row(self, config: TrialConfig, report: dict[str, Any], parent: str) -> ResultRow:
        own = config.trial_id == parent
        curve = self.curves.pop(parent, []) if own else []
        measurement = report.get("measurement") or {}
        seconds = dict(report.get("seconds") or {})
        if own:
            seconds["wall"] = time.monotonic() - self.started_at.pop(parent, time.monotonic())
        return ResultRow(
            trial_id=config.trial_id,
            number=len(self.rows) + 1,
            status=Status(report["status"]),
            reason=report.get("reason", ""),
            config=config,
            origin="trained" if own else "sibling",
            parent=None if own else parent,
            metrics=_metrics(report, curve),
            test_accuracy=measurement.get("test_accuracy"),
            latency=measurement.get("latency"),
            forecast=report.get("forecast"),
            artifact=report.get("artifact") if measurement else None,
            operators=measurement.get("operators") or {},
            max_disagreement=measurement.get("max_disagreement"),
            pruning=report.get("pruning"),
            epochs_trained=report.get("epochs_trained", len(curve)),
            skipped_steps=report.get("skipped_steps", 0),
            curve=[_curve_point(p) for p in curve],
            environment=report.get("environment") or {},
            seconds=seconds,
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _only_one_cause(self) -> bool:
        rows = [row for row in self.rows if row.origin != "copied"]
        return (
            len(rows) >= HOPELESS_FAILURES
            and all(row.status is Status.FAILED for row in rows)
            and len(Counter(row.reason for row in rows)) == 1
        )


def _metrics(report: dict[str, Any], curve: Sequence[Progress]) -> dict[str, float]:
    """Give the best knowledge of each metric: of the file, else the last epoch, else forecast."""
    metrics: dict[str, float] = {}
    if forecast := report.get("forecast"):
        metrics |= {
            "size_bytes": forecast["size_bytes"],
            "parameters": forecast["parameters"],
            "latency_ms": forecast["latency"]["ms"],
        }
    if curve:
        metrics |= {k: getattr(curve[-1], k) for k in METRICS if hasattr(curve[-1], k)}
    if measurement := report.get("measurement"):
        metrics |= {k: measurement[k] for k in METRICS if k in measurement}
        metrics["latency_ms"] = measurement["latency"]["ms"]
    return metrics


def _curve_point(progress: Progress) -> dict[str, float]:
    kept = ("epoch", "accuracy", "loss", "learning_rate", "loss_scale", "train_seconds")
    return {name: getattr(progress, name) for name in kept}
