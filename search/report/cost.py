"""What a study cost, and what it did not have to spend."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from search.study.rows import ResultRow
from trainables.contract import Status


@dataclass(frozen=True)
class Saving:
    """Trainings, or parts of them, that were not needed."""

    by: str
    trials: int
    epochs: int
    seconds: float
    """At the seconds per epoch of the same training where it is known, else of the median one."""


@dataclass(frozen=True)
class Cost:
    """What was spent. Seconds are of workers: two that run side by side count twice."""

    trainings: int
    epochs: int
    seconds_by_phase: dict[str, float]
    savings: tuple[Saving, ...]


def cost_of(rows: Sequence[ResultRow]) -> Cost:
    """Add up the rows of a study."""
    trained = [row for row in rows if row.is_trial]
    phases: dict[str, float] = {}
    for row in rows:
        for name, seconds in row.seconds.items():
            if name != "wall" and row.origin != "copied":
                phases[name] = phases.get(name, 0.0) + seconds
    paces = [pace for row in trained if (pace := _seconds_per_epoch(row)) is not None]
    usual = statistics.median(paces) if paces else 0.0
    stopped = [row for row in trained if row.status is Status.STOPPED]
    infeasible = [row for row in trained if row.status is Status.INFEASIBLE]
    continued = [row for row in rows if row.origin == "continued"]
    siblings = [row for row in rows if row.origin == "sibling"]
    copied = [row for row in rows if row.origin == "copied"]
    return Cost(
        trainings=sum(_epochs_spent(row) > 0 for row in trained),
        epochs=sum(_epochs_spent(row) for row in trained),
        seconds_by_phase=dict(sorted(phases.items(), key=lambda item: -item[1])),
        savings=(
            _saving("stopping early", stopped, usual, own_pace=True),
            _saving("forecasts that broke a bound", infeasible, usual),
            Saving(
                "networks that another trial had begun",
                len(continued),
                begun := sum(row.epochs_trained - _epochs_spent(row) for row in continued),
                begun * usual,
            ),
            _saving("siblings on one training", siblings, usual, whole=True),
            _saving("rows of an earlier study", copied, usual, whole=True),
        ),
    )


def _epochs_spent(row: ResultRow) -> int:
    return row.epochs_trained if row.epochs_spent is None else row.epochs_spent


def _saving(
    by: str,
    rows: Sequence[ResultRow],
    usual: float,
    *,
    own_pace: bool = False,
    whole: bool = False,
) -> Saving:
    epochs, seconds = 0, 0.0
    for row in rows:
        saved = row.config.epochs - (0 if whole else row.epochs_trained)
        pace = _seconds_per_epoch(row) if own_pace or whole else None
        epochs += saved
        seconds += saved * (usual if pace is None else pace)
    return Saving(by, len(rows), epochs, seconds)


def _seconds_per_epoch(row: ResultRow) -> float | None:
    seconds = row.metrics.get("train_seconds")
    if seconds is None and row.curve:
        seconds = row.curve[-1].get("train_seconds")
    return seconds / row.epochs_trained if seconds is not None and row.epochs_trained else None
