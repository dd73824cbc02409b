"""The rows of a study as the page's script takes them: columns of plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from search.front import pareto
from search.front.front import ParetoFront
from search.objectives import Objective, broken, losses
from search.report.progress import growth
from search.space.dimensions import is_number
from search.space.settings import bits_name, settings, varying
from search.study.rows import ResultRow
from trainables.contract import METRICS, Status

LABELS = {
    "accuracy": "accuracy",
    "size_bytes": "size",
    "compressed_bytes": "deflated size",
    "latency_ms": "latency",
    "parameters": "parameters",
    "train_seconds": "training time",
    "peak_memory_bytes": "training memory",
}
"""Metrics as people call them."""

LOG_SPAN = 10.0
"""An axis is logarithmic from this quotient of largest and smallest value on."""


def page_data(rows: Sequence[ResultRow], front: ParetoFront) -> dict[str, Any]:
    """Give all that the page draws; every text in it is still to be escaped."""
    members = {row.trial_id for row in front.rows}
    names = varying(row.config for row in rows)
    shown = list(dict.fromkeys([*(o.metric.name for o in front.objectives), *METRICS]))
    return {
        "rows": {
            "id": [row.trial_id for row in rows],
            "status": [row.status.value for row in rows],
            "origin": [row.origin for row in rows],
            "parent": [row.parent for row in rows],
            "reason": [_reason(row, front) for row in rows],
            "front": [int(row.trial_id in members) for row in rows],
            "feasible": [int(_is_feasible(row, front)) for row in rows],
            "bits": [bits_name(row.config) for row in rows],
            "test": [_short(row.test_accuracy) for row in rows],
            "low_ms": [_short((row.latency or {}).get("low_ms")) for row in rows],
            "high_ms": [_short((row.latency or {}).get("high_ms")) for row in rows],
            "plain_bytes": [(row.uncompressed or {}).get("size_bytes") for row in rows],
            "plain_ms": [_short(_uncompressed_ms(row)) for row in rows],
            "without_payoff": [", ".join(row.without_payoff) for row in rows],
            "artifact": [row.artifact if row.trial_id in members else None for row in rows],
        },
        "metrics": {name: [_short(row.metrics.get(name)) for row in rows] for name in shown},
        "dimensions": [_dimension(name, rows) for name in names],
        "objectives": [_axis(objective, rows) for objective in front.objectives],
        "projections": _projections(rows, front),
        "growth": _growth(rows, front),
    }


def _uncompressed_ms(row: ResultRow) -> float | None:
    latency = (row.uncompressed or {}).get("latency") or {}
    return latency.get("ms")


def _reason(row: ResultRow, front: ParetoFront) -> str:
    if row.status is Status.MEASURED and (bad := broken(row.metrics, front.constraints)):
        return f"breaks {', '.join(map(str, bad))}"
    return row.reason


def _is_feasible(row: ResultRow, front: ParetoFront) -> bool:
    return row.status is Status.MEASURED and not broken(row.metrics, front.constraints)


def _dimension(name: str, rows: Sequence[ResultRow]) -> dict[str, Any]:
    values = [settings(row.config).get(name) for row in rows]
    numbers = [value for value in values if is_number(value)]
    numeric = len(numbers) == sum(value is not None for value in values)
    return {
        "name": name,
        "values": [_short(value) for value in values],
        "categories": None if numeric else sorted({str(v) for v in values if v is not None}),
        "log": numeric and _is_wide(numbers),
    }


def _axis(objective: Objective, rows: Sequence[ResultRow]) -> dict[str, Any]:
    name = objective.metric.name
    values = [row.metrics[name] for row in rows if name in row.metrics]
    return {
        "name": name,
        "label": LABELS.get(name, name),
        "direction": objective.direction,
        "log": objective.metric.log and _is_wide(values),
    }


def _is_wide(values: Sequence[float]) -> bool:
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) >= LOG_SPAN


def _projections(rows: Sequence[ResultRow], front: ParetoFront) -> list[dict[str, Any]]:
    """Give every pair of objectives, the first upright, with the rows that are best in it."""
    feasible = [i for i, row in enumerate(rows) if _is_feasible(row, front)]
    table = losses([rows[i].metrics for i in feasible], front.objectives)
    out = []
    for y, x in combinations(range(len(front.objectives)), 2):
        best = np.flatnonzero(pareto.nondominated(table[:, [x, y]]))
        order = sorted(best, key=lambda i: table[i, x])
        out.append({"x": x, "y": y, "edge": [feasible[i] for i in order]})
    return out


def _growth(rows: Sequence[ResultRow], front: ParetoFront) -> dict[str, list[float]]:
    grown = growth(rows, front.objectives, front.constraints)
    return {
        "rows": list(grown.rows),
        "minutes": [round(minute, 3) for minute in grown.minutes],
        "hypervolume": [round(volume, 5) for volume in grown.hypervolume],
    }


def _short(value: Any) -> Any:
    """Give a number with five digits, which is more than anything here is measured to."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    number = float(f"{value:.5g}")
    return int(number) if number.is_integer() else number
