"""What changed between two studies: the front, its hypervolume, and the pick of each profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from search.front import pareto
from search.front.front import ParetoFront
from search.front.picks import PROFILES, NoModelFits, Profile, bytes_text, ms_text
from search.objectives import broken, losses
from search.study.rows import ResultRow

ACCURACY_TOLERANCE = 0.005
"""A pick whose accuracy fell by no more than this did not get worse: the same config trained
twice differs by about as much."""

Verdict = Literal["same", "better", "worse", "changed", "none"]


@dataclass(frozen=True)
class PickChange:
    """The model that a profile takes, then and now."""

    profile: Profile
    then: ResultRow | None
    """None: no model fitted the budgets."""
    now: ResultRow | None
    verdict: Verdict
    """`worse`: there is none any more, or it is less accurate by more than the tolerance.
    `better`: more accurate by more than that, or there was none. `changed`: another model, as
    accurate. `none`: neither then nor now."""


@dataclass(frozen=True)
class Leaving:
    """A model that was on the front and is not any more."""

    row: ResultRow
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Two fronts, judged by the objectives and constraints of the later one."""

    joined: tuple[ResultRow, ...]
    """On the front now and not then, best in the first objective first."""
    left: tuple[Leaving, ...]
    stayed: int
    hypervolume_then: float
    """On the same reference as `hypervolume_now`, so that the two can be compared."""
    hypervolume_now: float
    picks: tuple[PickChange, ...]
    notes: tuple[str, ...]
    """What makes the two hard to compare: other data, another deploy device."""

    @property
    def worse(self) -> bool:
        """Whether the pick of any profile got worse."""
        return any(change.verdict == "worse" for change in self.picks)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return {
            "worse": self.worse,
            "hypervolume": {"then": self.hypervolume_then, "now": self.hypervolume_now},
            "joined": [_facts(row) for row in self.joined],
            "left": [{**_facts(leaving.row), "reason": leaving.reason} for leaving in self.left],
            "stayed": self.stayed,
            "picks": {
                change.profile.name: {
                    "verdict": change.verdict,
                    "then": change.then and _facts(change.then),
                    "now": change.now and _facts(change.now),
                }
                for change in self.picks
            },
            "notes": list(self.notes),
        }


def compare(
    then: ParetoFront,
    now: ParetoFront,
    *,
    profiles: Mapping[str, Profile] = PROFILES,
    accuracy_tolerance: float = ACCURACY_TOLERANCE,
) -> Comparison:
    """Compare the fronts of two studies.

    A model is known by its trial id: the same config is the same model, also where it was trained
    again.
    """
    before, after = ({row.trial_id for row in front.rows} for front in (then, now))
    return Comparison(
        joined=tuple(row for row in now.rows if row.trial_id not in before),
        left=tuple(
            Leaving(row, _why_left(row, now)) for row in then.rows if row.trial_id not in after
        ),
        stayed=len(before & after),
        hypervolume_then=pareto.hypervolume(_losses(_feasible(then.rows, now), now)),
        hypervolume_now=pareto.hypervolume(_losses(now.rows, now)),
        picks=tuple(_pick_change(p, then, now, accuracy_tolerance) for p in profiles.values()),
        notes=tuple(_notes(then.rows, now.rows)),
    )


def _feasible(rows: Iterable[ResultRow], front: ParetoFront) -> list[ResultRow]:
    return [row for row in rows if not broken(row.metrics, front.constraints)]


def _losses(rows: Sequence[ResultRow], front: ParetoFront) -> Any:
    return losses([row.metrics for row in rows], front.objectives)


def _why_left(row: ResultRow, now: ParetoFront) -> str:
    if bad := broken(row.metrics, now.constraints):
        return f"breaks {', '.join(map(str, bad))}"
    own, others = _losses([row], now), _losses(now.rows, now)
    no_worse, better = (others <= own).all(axis=1), (others < own).any(axis=1)
    for better_row, dominates in zip(now.rows, np.logical_and(no_worse, better), strict=True):
        if dominates:
            return f"dominated by {better_row.trial_id}"
    if no_worse.any():
        return f"equal to {now.rows[int(no_worse.argmax())].trial_id}"
    return "not found again"


def _pick_change(
    profile: Profile, then: ParetoFront, now: ParetoFront, tolerance: float
) -> PickChange:
    before, after = (_pick(profile, front) for front in (then, now))
    return PickChange(profile, before, after, _verdict(before, after, tolerance))


def _pick(profile: Profile, front: ParetoFront) -> ResultRow | None:
    try:
        return profile.pick(front)
    except NoModelFits:
        return None


def _verdict(before: ResultRow | None, after: ResultRow | None, tolerance: float) -> Verdict:
    if before is None:
        return "none" if after is None else "better"
    if after is None:
        return "worse"
    gain = after.metrics["accuracy"] - before.metrics["accuracy"]
    if abs(gain) > tolerance:
        return "better" if gain > 0 else "worse"
    return "same" if after.trial_id == before.trial_id else "changed"


def _notes(then: Sequence[ResultRow], now: Sequence[ResultRow]) -> list[str]:
    # Rows that were copied from an earlier study say where that one was measured; on the same
    # data, or they would not have been copied.
    own = [row for row in now if row.origin != "copied"]
    notes = []
    for what, key, later in (("data", _data, now), ("device that measured", _device, own)):
        before, after = ({str(key(row)) for row in rows} - {"None"} for rows in (then, later))
        if before and after and not before & after:
            notes.append(f"another {what}: {_listed(before)} then, {_listed(after)} now")
    return notes


def _data(row: ResultRow) -> object:
    return row.environment.get("data_fingerprint")


def _device(row: ResultRow) -> object:
    return (row.latency or {}).get("device")


def _listed(values: set[str]) -> str:
    return ", ".join(sorted(values))


def _facts(row: ResultRow) -> dict[str, Any]:
    return {
        "trial_id": row.trial_id,
        "accuracy": row.metrics.get("accuracy"),
        "size_bytes": row.metrics.get("size_bytes"),
        "latency_ms": row.metrics.get("latency_ms"),
    }


# --- for people ----------------------------------------------------------------------------------


def comparison_text(comparison: Comparison) -> str:
    """Give the comparison as lines for a terminal or a log."""
    gain = comparison.hypervolume_now - comparison.hypervolume_then
    lines = [f"note: {note}" for note in comparison.notes]
    lines.append(
        f"hypervolume {comparison.hypervolume_then:.4f} -> {comparison.hypervolume_now:.4f} "
        f"({gain:+.4f})"
    )
    lines.append(
        f"front: {len(comparison.joined)} joined, {len(comparison.left)} left, "
        f"{comparison.stayed} stayed"
    )
    lines += [f"  + {model_text(row)}" for row in comparison.joined]
    lines += [f"  - {model_text(gone.row)}: {gone.reason}" for gone in comparison.left]
    width = max((len(change.profile.name) for change in comparison.picks), default=0)
    for change in comparison.picks:
        lines.append(f"{change.profile.name:<{width}}  {_pick_text(change)}")
    return "\n".join(lines)


def _pick_text(change: PickChange) -> str:
    if change.verdict == "none":
        return "no model fits, as before"
    before = model_text(change.then) if change.then else "none"
    after = model_text(change.now) if change.now else "none"
    if change.verdict == "same":
        return f"same: {after}"
    return f"{change.verdict}: {before} -> {after}"


def model_text(row: ResultRow) -> str:
    """Give a model by its id and what matters of it, as far as known.

    >>> from trainables.config import TrialConfig
    >>> metrics = {"accuracy": 0.9, "size_bytes": 1000.0}
    >>> model_text(ResultRow(trial_id="0a1b2c3d", number=1, status="measured",
    ...                      config=TrialConfig(), metrics=metrics))
    '0a1b2c3d (accuracy 0.900, 1.00 kB)'
    """
    known = row.metrics
    parts = [f"accuracy {known['accuracy']:.3f}"] if "accuracy" in known else []
    parts += [bytes_text(known["size_bytes"])] if "size_bytes" in known else []
    parts += [ms_text(known["latency_ms"])] if "latency_ms" in known else []
    return f"{row.trial_id} ({', '.join(parts)})" if parts else row.trial_id
