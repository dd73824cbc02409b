"""What schedulers hear of a sweep: its goals, and what earlier runs of the study saw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from schedulers import make_scheduler, replay
from schedulers.contract import Bound, Goals
from search.spec.spec import SweepSpec
from search.study.rows import ResultRow
from trainables.config import TrialConfig
from trainables.contract import METRICS, Progress, Status

REPORTED = [f.name for f in fields(Progress) if f.name in METRICS]
"""Metrics that trials report after each epoch."""


def scheduler_of(spec: SweepSpec, rows: Iterable[ResultRow]) -> Any:
    """Make the Tune scheduler of a sweep that knows what the trials of its rows reported."""
    scheduler = make_scheduler(spec.stop, max_epochs=spec.space.max_epochs, goals=goals(spec))
    for row in rows:
        if row.curve:  # siblings have none: they were not trained
            ended = row.status is Status.MEASURED
            replay(scheduler, row.trial_id, row.config.model_dump(), epochs(row), ended=ended)
    return scheduler


def goals(spec: SweepSpec) -> Goals:
    """Give what a scheduler should know of a sweep."""
    return Goals(
        losses={o.metric.name: o.loss for o in spec.objective_list},
        bounds=tuple(
            Bound(c.metric.name, c.low, c.high, fixed=c.metric.forecast)
            for c in spec.constraint_list
        ),
        name=_name,
    )


def epochs(row: ResultRow) -> list[dict[str, Any]]:
    """Give what the trial of a row reported after each epoch, as schedulers heard it.

    They heard size and latency as forecast, not as measured on the file in the end.
    """
    rest: dict[str, Any] = {name: row.metrics[name] for name in REPORTED if name in row.metrics}
    if forecast := row.forecast:
        rest |= {"size_bytes": forecast["size_bytes"], "latency_ms": forecast["latency"]["ms"]}
    return [{**rest, **point, "training_iteration": int(point["epoch"])} for point in row.curve]


def _name(trial: Any) -> str:
    return TrialConfig.model_validate(trial.config).trial_id
