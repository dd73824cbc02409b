"""What the neighbours of a picked model would give: one step more, one step less, one aside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from search.front.front import ParetoFront
from search.study.rows import ResultRow


@dataclass(frozen=True)
class Step:
    """Another member of the front, seen from the picked one."""

    row: ResultRow
    accuracy: float
    """Gain over the pick, from -1 to 1."""
    size_ratio: float
    """By the pick's; so too the latency. NaN where one is not known."""
    latency_ratio: float

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return {
            "trial_id": self.row.trial_id,
            "accuracy": self.accuracy,
            "size_ratio": self.size_ratio,
            "latency_ratio": self.latency_ratio,
        }

    def __str__(self) -> str:
        parts = [
            f"{ratio:.2g}x the {name}"
            for name, ratio in (("size", self.size_ratio), ("latency", self.latency_ratio))
            if not math.isnan(ratio)
        ]
        gain = f"{100 * self.accuracy:+.2f} % accuracy"
        return f"{gain} for {' and '.join(parts)} ({self.row.trial_id})"


def step_more(front: ParetoFront, picked: ResultRow) -> Step | None:
    """Give the smallest member that is more accurate than the pick; None if nothing is."""
    better = [row for row in front.rows if _value(row, "accuracy") > _value(picked, "accuracy")]
    return _step(min(better, key=lambda r: _value(r, "size_bytes")), picked) if better else None


def step_less(front: ParetoFront, picked: ResultRow) -> Step | None:
    """Give the most accurate member that is smaller than the pick; None if nothing is."""
    smaller = [
        row for row in front.rows if _value(row, "size_bytes") < _value(picked, "size_bytes")
    ]
    return _step(max(smaller, key=lambda r: _value(r, "accuracy")), picked) if smaller else None


def step_aside(front: ParetoFront, picked: ResultRow) -> Step | None:
    """Give the fastest member that is no less accurate than the pick; None if that is the pick."""
    as_good = [row for row in front.rows if _value(row, "accuracy") >= _value(picked, "accuracy")]
    fastest = min(as_good, key=lambda r: _value(r, "latency_ms"), default=picked)
    faster = _value(fastest, "latency_ms") < _value(picked, "latency_ms")
    return _step(fastest, picked) if faster else None


def _step(row: ResultRow, picked: ResultRow) -> Step:
    gain = _value(row, "accuracy") - _value(picked, "accuracy")
    size, latency = (
        _value(row, name) / _value(picked, name) for name in ("size_bytes", "latency_ms")
    )
    return Step(row, gain, size, latency)


def _value(row: ResultRow, name: str) -> float:
    return row.metrics.get(name, math.nan)
