"""The Pareto front of a study: the measured, feasible models that no other one dominates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search.front import pareto
from search.objectives import Constraint, Objective, broken, losses
from search.study import storage
from search.study.rows import ResultRow
from trainables.contract import Status

if TYPE_CHECKING:
    from search.study.study import Study


@dataclass(frozen=True)
class ParetoFront:
    """What a study found, with enough about the rest to judge it."""

    rows: tuple[ResultRow, ...]
    """The front's members, best in the first objective first. Differences within the tolerance of
    an objective are ties: a model is not on the front for a latency that is lower by noise."""
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    hypervolume: float
    """Of the front, from 0 to 1: see `pareto.hypervolume`."""
    counts: dict[Status, int]
    """Rows of the study by status; a status without rows is absent."""
    infeasible: int
    """Rows that break a constraint: by their forecast, or only once measured."""

    @classmethod
    def of(
        cls,
        rows: Sequence[ResultRow],
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
    ) -> ParetoFront:
        """Select the front among rows of any status."""
        # A row that another dominates is not on the front, and keeps none off it: few are left.
        best, table = undominated(rows, objectives, constraints)
        on_front = pareto.nondominated_beyond(
            table, tolerances=[objective.tolerance for objective in objectives]
        )
        members = [i for i, on in enumerate(on_front) if on]
        members.sort(key=lambda i: tuple(table[i]))
        return cls(
            rows=tuple(best[i] for i in members),
            objectives=tuple(objectives),
            constraints=tuple(constraints),
            hypervolume=pareto.hypervolume(table),
            counts=dict(Counter(row.status for row in rows)),
            infeasible=sum(is_infeasible(row, constraints) for row in rows),
        )

    def records(self, study: Study) -> list[dict[str, Any]]:
        """Give the members as plain dicts for JSON, one per row and in the same order."""
        return [record(row, study) for row in self.rows]


def undominated(
    rows: Sequence[ResultRow],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint] = (),
) -> tuple[list[ResultRow], NDArray[np.float64]]:
    """Give the feasible models that no other dominates, and their losses (n, m).

    No tolerance makes ties here: these are the front's members, and rows off it for a tie alone.
    """
    measured = [row for row in rows if row.status is Status.MEASURED]
    feasible = [row for row in measured if not is_infeasible(row, constraints)]
    table = losses([row.metrics for row in feasible], objectives)
    best = pareto.nondominated(table)
    return [feasible[i] for i in np.flatnonzero(best)], table[best]


def is_infeasible(row: ResultRow, constraints: Sequence[Constraint]) -> bool:
    """Tell whether a row breaks a constraint: by its forecast, or only once measured."""
    if row.status is Status.MEASURED:
        return bool(broken(row.metrics, constraints))
    return row.status is Status.INFEASIBLE


def record(row: ResultRow, study: Study) -> dict[str, Any]:
    """Give one row as a plain dict for JSON; `artifact` is None where the file is gone."""
    latency = row.latency or {}
    return {
        "trial_id": row.trial_id,
        "status": row.status.value,
        "accuracy": row.metrics.get("accuracy"),
        "test_accuracy": row.test_accuracy,
        "size_bytes": _whole(row.metrics.get("size_bytes")),
        "latency_ms": row.metrics.get("latency_ms"),
        "latency_low_ms": latency.get("low_ms"),
        "latency_high_ms": latency.get("high_ms"),
        "latency_measured_alone": row.measured_alone,
        "without_payoff": row.without_payoff,
        "compressed_bytes": _whole(row.metrics.get("compressed_bytes")),
        "parameters": _whole(row.metrics.get("parameters")),
        "artifact": artifact_of(row, study),
        "config": row.config.model_dump(),
        "reason": row.reason,
        "operators": row.operators,
        "seconds": row.seconds,
    }


def artifact_of(row: ResultRow, study: Study) -> str | None:
    """Give the absolute location of a row's model file, None where there is none."""
    if row.artifact is None:
        return None
    path = study.artifact_path(row)
    return path if storage.exists(path) else None


def read_front(location: str) -> ParetoFront:
    """Read the front of the study in a folder.

    Raises:
        StudyError: there is no study.
        StorageError: the storage refused.
    """
    from search.study.study import Study

    study = Study.open(location)
    spec = study.spec()
    return ParetoFront.of(study.rows(), spec.objective_list, spec.constraint_list)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
