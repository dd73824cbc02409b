"""What has happened in a sweep so far. Knows nothing of Ray."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Literal

from search.front.front import ParetoFront
from search.observer import SweepObserver, SweepPlan
from search.searchers import make_searcher
from search.searchers.contract import Searcher
from search.spec.spec import SweepSpec
from search.study.rows import ResultRow, put
from search.study.study import RunningTrial, Study
from trainables.config import TrialConfig
from trainables.contract import METRICS, Progress, Status

HOPELESS_FAILURES = 5
"""If the first rows all failed for one cause, further trials would only repeat it."""
_VARYING = re.compile(r"\b[0-9a-f]{8,}\b|\d+(\.\d+)?")
"""Trial ids and numbers in a reason."""


@dataclass
class Recorder:
    """A sweep under way: the one place where rows are made, stored, told and announced."""

    spec: SweepSpec
    study: Study
    rows: list[ResultRow]
    observers: Sequence[SweepObserver]
    told: Sequence[ResultRow] = ()
    """Rows of other studies that the searcher learns from; they are no rows of this study."""
    hints: Sequence[ResultRow] = ()
    """Rows of unlike studies: the searcher trusts them little, and their trials are not known."""
    left_running: Sequence[RunningTrial] = ()
    """Trials that an earlier driver left under way."""
    hopeless: str = ""
    paused: dict[str, TrialConfig] = field(default_factory=dict)
    """Stopped trials whose checkpoint is kept: a scheduler may yet let them go on."""
    curves: dict[str, list[Progress]] = field(default_factory=dict)
    started_at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._environment_noted = False
        self.searcher: Searcher = make_searcher(self.spec)
        self.known = {row.trial_id for row in self.rows}
        for row in (*(row for row in self.told if row.trial_id not in self.known), *self.rows):
            self.searcher.tell(row)
        for row in self.hints:
            self.searcher.transfer(row)
        self._causes = Counter(_cause(row) for row in self.rows if row.origin != "copied")
        self._to_resume = self._take_up()
        self._asked: set[str] = set()
        self._earlier = {trial.config.trial_id: trial.curve for trial in self._to_resume}

    def _take_up(self) -> list[RunningTrial]:
        """Give the trials to go on with; those that have a row, or that nobody wants, are gone."""
        wanted = []
        stopped = {row.trial_id for row in self.rows if row.status is Status.STOPPED}
        for trial in self.left_running:
            trial_id = trial.config.trial_id
            if self.spec.stop.promote and trial_id in stopped:
                self.paused[trial_id] = trial.config
            elif trial_id in self.known or not self.spec.space.contains(trial.config):
                self.study.remove_running(trial_id)
            elif trial_id not in (row.trial_id for row in self.told):
                self.searcher.adopt(trial.config)
                wanted.append(trial)
        return wanted

    @property
    def remaining(self) -> int:
        """Trials still to be run: siblings are extra, they cost no training."""
        return self.spec.search.trials - sum(row.is_trial for row in self.rows)

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

    def ask(self) -> TrialConfig | None:
        """Give the next trial, those left under way first; None if there are to be no more."""
        promotes = self.spec.stop.promote  # else Tune asks no more than remain
        if self.hopeless or (promotes and len(self._asked) >= self.remaining):
            return None
        config = self._to_resume.pop(0).config if self._to_resume else self.searcher.ask()
        if config is not None:
            self._asked.add(config.trial_id)
        return config

    def promote(self, trial_id: str) -> TrialConfig:
        """Take up a stopped trial again: it goes on from its checkpoint."""
        config = self.paused.pop(trial_id)
        self.searcher.adopt(config)
        return config

    def trial_started(self, config: TrialConfig) -> list[Progress]:
        """Note that a worker took a trial; give what schedulers have not heard of it yet."""
        trial_id = config.trial_id
        earlier = self._earlier.pop(trial_id, [])
        if trial_id not in self.started_at:  # else it goes on, after its worker was lost
            self.started_at[trial_id] = time.monotonic()
            self.curves[trial_id] = list(earlier)
            for observer in self.observers:
                observer.trial_started(trial_id, config)
        return earlier

    def trial_resumed(self, config: TrialConfig, earlier: Sequence[Progress]) -> None:
        """Note from where a trial goes on: its epochs up to its last checkpoint."""
        self.curves[config.trial_id] = list(earlier)

    def trial_interrupted(self, config: TrialConfig, reason: str) -> None:
        """Note that a trial lost its worker and will go on in another."""
        for observer in self.observers:
            observer.trial_interrupted(config.trial_id, reason)

    def epoch_ended(self, config: TrialConfig, progress: Progress) -> None:
        """Note one epoch of a trial; after a fault it may be one that was seen before."""
        curve = self.curves[config.trial_id]
        while curve and curve[-1].epoch >= progress.epoch:
            curve.pop()
        curve.append(progress)
        self.searcher.hear(config, progress.epoch, progress.accuracy)
        for observer in self.observers:
            observer.epoch_ended(config.trial_id, progress)

    def trial_ended(self, reports: Sequence[tuple[TrialConfig, dict[str, Any]]]) -> None:
        """Write and tell one row per report; the first is the trial's own."""
        parent = reports[0][0].trial_id
        # A sibling may have been tried before as a trial of its own. A trial that another measured
        # as a sibling meanwhile is written again: it was asked for.
        new = [
            (config, report)
            for config, report in reports
            if config.trial_id not in self.known or config.trial_id == parent
        ]
        rows = [
            self._row(c, report, parent, len(self.rows) + i)
            for i, (c, report) in enumerate(new, 1)
        ]
        # The trial's own row is the last that is written: with it the trial is over.
        for row in reversed(rows):
            self.study.write_row(row)
        self._asked.discard(parent)
        if self.spec.stop.promote and rows[0].status is Status.STOPPED:
            self.paused[parent] = rows[0].config
        else:
            self.study.remove_running(parent)
        self._note_environment(rows)
        for row in rows:
            self._keep(row)
            self._causes[_cause(row)] += 1
            self.searcher.tell(row)
            for observer in self.observers:
                observer.trial_ended(row)
        if self._only_one_cause():
            self.hopeless = self.rows[-1].reason

    def not_measured_alone(self) -> ResultRow | None:
        """Give a member of the front whose latency was only measured beside other trials."""
        if self.hopeless:
            return None
        front = ParetoFront.of(self.rows, self.spec.objective_list, self.spec.constraint_list)
        return next((row for row in front.rows if not row.measured_alone and row.artifact), None)

    def measured_alone(self, row: ResultRow, latency: dict[str, Any]) -> None:
        """Put a latency in the place of an earlier one; the front may then have other members."""
        metrics = {**row.metrics, "latency_ms": latency["ms"]}
        update = {"metrics": metrics, "latency": latency, "measured_alone": True}
        new = row.model_copy(update=update)
        self.study.write_row(new)
        put(self.rows, new)
        for observer in self.observers:
            observer.row_changed(new)

    def _keep(self, row: ResultRow) -> None:
        if row.trial_id in self.known:
            self.rows = [other for other in self.rows if other.trial_id != row.trial_id]
        self.known.add(row.trial_id)
        self.rows.append(row)

    def _note_environment(self, rows: Sequence[ResultRow]) -> None:
        """Note once per run what the numbers are made with, and by which command."""
        found = next((row.environment for row in rows if row.environment), None)
        if found and not self._environment_noted:
            version = {"paretune": metadata.version("paretune"), "command": sys.argv}
            self.study.write_environment({**version, **found})
            self._environment_noted = True

    def _row(
        self, config: TrialConfig, report: dict[str, Any], parent: str, number: int
    ) -> ResultRow:
        own = config.trial_id == parent
        curve = self.curves.pop(parent, []) if own else []
        measurement = report.get("measurement") or {}
        seconds = dict(report.get("seconds") or {})
        if own:
            seconds["wall"] = time.monotonic() - self.started_at.pop(parent, time.monotonic())
        return ResultRow(
            trial_id=config.trial_id,
            number=number,
            status=Status(report["status"]),
            reason=report.get("reason", ""),
            config=config,
            origin=_origin(report, own=own),
            parent=report.get("continued_from") if own else parent,
            metrics=_metrics(report, curve),
            test_accuracy=measurement.get("test_accuracy"),
            latency=measurement.get("latency"),
            forecast=report.get("forecast"),
            artifact=report.get("artifact") if measurement else None,
            operators=measurement.get("operators") or {},
            max_disagreement=measurement.get("max_disagreement"),
            pruning=report.get("pruning"),
            epochs_trained=report.get("epochs_trained", len(curve)),
            epochs_spent=report.get("epochs_spent", len(curve)),
            without_payoff=report.get("without_payoff") or [],
            uncompressed=measurement.get("uncompressed"),
            skipped_steps=report.get("skipped_steps", 0),
            curve=[_curve_point(p) for p in curve],
            environment=report.get("environment") or {},
            resumed_from=report.get("resumed_from") or [],
            seconds=seconds,
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _only_one_cause(self) -> bool:
        count = self._causes.total()
        return count >= HOPELESS_FAILURES and len(self._causes) == 1 and "" not in self._causes


def _cause(row: ResultRow) -> str:
    """Give why a trial failed, without what differs from trial to trial; nothing if it did not."""
    if row.status is not Status.FAILED:
        return ""
    return _VARYING.sub("#", row.reason) or "failed"


def _origin(report: dict[str, Any], *, own: bool) -> Literal["trained", "continued", "sibling"]:
    if not own:
        return "sibling"
    return "continued" if report.get("continued_from") else "trained"


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
    left_out = ("size_bytes", "latency_ms")  # those of the forecast
    return {name: value for name, value in vars(progress).items() if name not in left_out}
