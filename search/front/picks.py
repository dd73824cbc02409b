"""Choosing the one model to deploy: by a budget, or the knee of the front."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from search.errors import SearchError
from search.front.front import ParetoFront
from search.objectives import losses
from search.study.rows import ResultRow


class NoModelFits(SearchError):  # noqa: N818 - reads as what happened
    """No model on the front keeps the asked budgets."""

    exit_code = 1


@dataclass(frozen=True)
class Profile:
    """Budgets of a kind of device. None: any. Latency is that of the sweep's deploy settings."""

    name: str
    about: str
    max_size_bytes: float | None = None
    max_latency_ms: float | None = None
    min_accuracy: float | None = None

    def with_budgets(self, budgets: Mapping[str, float | None]) -> Profile:
        """Give the profile with other budgets, by name; those that are None stay."""
        given = {name: value for name, value in budgets.items() if value is not None}
        return replace(self, **given)  # type: ignore[arg-type]  # names of budgets, all floats

    @property
    def budgets_text(self) -> str:
        """Give the budgets in words."""
        budgets = _budgets(self.max_size_bytes, self.max_latency_ms, self.min_accuracy)
        return " and ".join(b.asked for b in budgets) or "any model"

    def pick(self, front: ParetoFront, *, knee: bool = False) -> ResultRow:
        """Choose the most accurate member within the budgets, or the knee: see `pick`."""
        return pick(
            front,
            max_size_bytes=self.max_size_bytes,
            max_latency_ms=self.max_latency_ms,
            min_accuracy=self.min_accuracy,
            knee=knee,
        )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "phone",
            "downloaded inside an app, run on every camera frame (30 a second)",
            max_size_bytes=5e6,
            max_latency_ms=33.0,
        ),
        Profile(
            "edge",
            "beside a microcontroller's program in 1 MB of flash, ten answers a second",
            max_size_bytes=500e3,
            max_latency_ms=100.0,
        ),
        Profile("server", "any size, an answer within 50 ms", max_latency_ms=50.0),
    )
}
"""Usual budgets; where the latency is measured on another device, read them as relative."""


@dataclass(frozen=True)
class _Budget:
    """A bound asked for on the spot, unlike a constraint of the sweep file."""

    asked: str
    superlative: str
    """What the nearest model is called if none fits."""
    value: Callable[[ResultRow], float]
    text: Callable[[float], str]
    high: float | None = None
    low: float | None = None

    def excess(self, row: ResultRow) -> float:
        """Give by what share of the bound the row misses it; 0 or less if it fits."""
        value = self.value(row)
        if self.high is not None:
            return value / self.high - 1 if self.high > 0 else math.inf
        return 1 - value / self.low if self.low else 0.0


def pick(
    front: ParetoFront,
    *,
    max_size_bytes: float | None = None,
    max_latency_ms: float | None = None,
    min_accuracy: float | None = None,
    knee: bool = False,
) -> ResultRow:
    """Choose one member of the front.

    Args:
        front: of one study.
        max_size_bytes: largest size of the file; None for any.
        max_latency_ms: longest time of one inference call, in the sweep's deploy settings.
        min_accuracy: lowest accuracy on the validation images.
        knee: choose the member within the budgets that is closest to the ideal corner. Every loss
            is scaled so that the whole front spans 0 to 1, and the distance is Euclidean: the
            usual knee by distance to the utopia point. Otherwise the most accurate member within
            the budgets is chosen; of equally accurate ones the smaller, then the faster.

    Raises:
        NoModelFits: the front is empty, or no member keeps the budgets; says the nearest miss.
    """
    if not front.rows:
        raise NoModelFits("the front is empty: the study has no measured, feasible model yet")
    budgets = _budgets(max_size_bytes, max_latency_ms, min_accuracy)
    fitting = [row for row in front.rows if all(b.excess(row) <= 0 for b in budgets)]
    if not fitting:
        raise NoModelFits(_nearest_miss(front, budgets))
    if knee:
        distances = dict(zip((r.trial_id for r in front.rows), _distances(front), strict=True))
        return min(fitting, key=lambda row: distances[row.trial_id])
    return min(fitting, key=lambda row: (-_accuracy(row), _size(row), _latency(row)))


def _distances(front: ParetoFront) -> list[float]:
    table = losses([row.metrics for row in front.rows], front.objectives)
    best, worst = table.min(axis=0), table.max(axis=0)
    # An objective in which all members are equal says nothing: its column becomes 0.
    span = np.where(worst > best, worst - best, 1.0)
    return [float(d) for d in np.linalg.norm((table - best) / span, axis=1)]


# --- budgets -------------------------------------------------------------------------------------


def _budgets(size: float | None, latency: float | None, accuracy: float | None) -> list[_Budget]:
    out = []
    if size is not None:
        asked = f"size <= {bytes_text(size)}"
        out.append(_Budget(asked, "smallest", _size, bytes_text, size))
    if latency is not None:
        out.append(
            _Budget(f"latency <= {ms_text(latency)}", "fastest", _latency, ms_text, latency)
        )
    if accuracy is not None:
        text = "{:.4g}".format
        asked = f"accuracy >= {text(accuracy)}"
        out.append(_Budget(asked, "most accurate", _accuracy, text, low=accuracy))
    return out


def _nearest_miss(front: ParetoFront, budgets: list[_Budget]) -> str:
    asked = " and ".join(b.asked for b in budgets)
    alone = [
        f"the {b.superlative} model has {b.text(b.value(min(front.rows, key=b.excess)))}"
        for b in budgets
        if all(b.excess(row) > 0 for row in front.rows)
    ]
    if alone:
        return f"no model on the front has {asked}; {', '.join(alone)}"
    nearest = min(front.rows, key=lambda row: sum(max(0.0, b.excess(row)) for b in budgets))
    has = ", ".join(b.text(b.value(nearest)) for b in budgets)
    return (
        f"no model on the front has {asked} together, though each alone is met; "
        f"the nearest is {nearest.trial_id} with {has}"
    )


def _size(row: ResultRow) -> float:
    return row.metrics.get("size_bytes", math.inf)


def _latency(row: ResultRow) -> float:
    return row.metrics.get("latency_ms", math.inf)


def _accuracy(row: ResultRow) -> float:
    return row.metrics.get("accuracy", -math.inf)


# --- how sizes and times look to people ----------------------------------------------------------


def bytes_text(size: float) -> str:
    """Give a file size in decimal units, as storage and networks count.

    >>> bytes_text(512), bytes_text(43_120), bytes_text(999_960)
    ('512 B', '43.1 kB', '1.00 MB')
    """
    if size < 1000:
        return f"{size:.0f} B"
    return _scaled(size, {"kB": 1e3, "MB": 1e6, "GB": 1e9})


def ms_text(ms: float) -> str:
    """Give a latency; in seconds from one second on.

    >>> ms_text(0.05213), ms_text(12.3), ms_text(1234.0)
    ('0.0521 ms', '12.3 ms', '1.23 s')
    """
    return _scaled(ms, {"ms": 1.0, "s": 1e3})


def _scaled(value: float, units: dict[str, float]) -> str:
    """Write three significant digits in the largest unit that keeps the number at 1 or more."""
    rounded = float(f"{value:.3g}")
    first, *_ = units
    unit = [name for name, worth in units.items() if rounded >= worth][-1:] or [first]
    number = rounded / units[unit[0]]
    decimals = 2 - math.floor(math.log10(number)) if number > 0 else 2
    return f"{number:.{max(decimals, 0)}f} {unit[0]}"
