"""How the hypervolume grew, over trials and over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from search.front import pareto
from search.objectives import Constraint, Objective, broken, losses
from search.study.rows import ResultRow
from trainables.contract import Status


@dataclass(frozen=True)
class Growth:
    """One point per row that raised the hypervolume, and the last row."""

    rows: tuple[int, ...]
    """Rows finished so far."""
    minutes: tuple[float, ...]
    """Since the first trial began."""
    hypervolume: tuple[float, ...]


def growth(
    rows: Sequence[ResultRow], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> Growth:
    """Follow the rows in the order of finishing."""
    table = losses([row.metrics for row in rows], objectives)
    front = np.empty((0, len(objectives)))
    times = _minutes(rows)
    numbers, minutes, volumes = [0], [0.0], [0.0]
    for i, row in enumerate(rows):
        counts = row.status is Status.MEASURED and not broken(row.metrics, constraints)
        if counts and not np.isnan(table[i]).any() and not (front <= table[i]).all(axis=1).any():
            front = np.vstack([front, table[i]])
            front = front[pareto.nondominated(front)]
            volume = pareto.hypervolume(front)
        else:
            volume = volumes[-1]
        if volume > volumes[-1] or i == len(rows) - 1:
            numbers.append(i + 1)
            minutes.append(times[i])
            volumes.append(volume)
    return Growth(tuple(numbers), tuple(minutes), tuple(volumes))


def _minutes(rows: Sequence[ResultRow]) -> list[float]:
    known = [r.finished_at for r in rows if r.finished_at] or ["1970-01-01T00:00:00+00:00"]
    # A row without a time, which no sweep of ours writes, counts as the first.
    moments = [row.finished_at or known[0] for row in rows]
    ends = [datetime.fromisoformat(moment).timestamp() for moment in moments]
    begins = [end - row.seconds.get("wall", 0.0) for end, row in zip(ends, rows, strict=True)]
    start = min(begins, default=0.0)
    return [max(0.0, (end - start) / 60) for end in ends]
