"""What each kind of compression buys: pairs of models that differ in nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from search.space.settings import bits_name
from search.study.rows import ResultRow
from trainables.config import COMPRESSION_FIELDS, PRUNING_FIELDS, TrialConfig
from trainables.contract import Status

Quartiles = tuple[float, float, float]
"""25 %, 50 % (the median) and 75 %."""


@dataclass(frozen=True)
class Knob:
    """Settings that are changed together, and what people call their values."""

    name: str
    fields: frozenset[str]
    label: Callable[[TrialConfig], str]
    plain: Callable[[TrialConfig], bool]
    """Whether the knob is off: the model that the others are compared with."""


@dataclass(frozen=True)
class PairedDifference:
    """Models with one change, each compared with the same model without it."""

    knob: str
    change: str
    """Such as `W32A32 -> W8A8`."""
    pairs: tuple[tuple[str, str], ...]
    """(without, with), as trial ids."""
    accuracy: Quartiles
    """Of the differences, with minus without."""
    size_ratio: Quartiles
    """Of the quotients, with by without; so too the next."""
    latency_ratio: Quartiles


def _pruning_label(config: TrialConfig) -> str:
    if config.pruning_method == "none":
        return "not pruned"
    # Ratios are continuous: only shares of a quarter have several models each.
    quarter = min(int(config.pruning_ratio * 4), 3)
    return f"{config.pruning_method} {25 * quarter} to {25 * quarter + 25} %"


KNOBS = (
    Knob(
        "bits",
        COMPRESSION_FIELDS - PRUNING_FIELDS,
        lambda c: bits_name(c) + (" qat" if c.quantization == "qat" else ""),
        lambda c: (c.weight_bits, c.activation_bits) == (32, 32),
    ),
    Knob(
        "pruning",
        PRUNING_FIELDS,
        _pruning_label,
        lambda c: c.pruning_method == "none",
    ),
    Knob(
        "quantization",
        frozenset({"quantization", "qat_at"}),
        lambda c: c.quantization,
        lambda c: c.quantization == "ptq",
    ),
    Knob(
        "mixed precision",
        frozenset({"amp"}),
        lambda c: f"amp {c.amp}",
        lambda c: c.amp == "none",
    ),
)


def paired_differences(rows: Sequence[ResultRow]) -> list[PairedDifference]:
    """Compare every measured row with the one that is its like but for one knob, which is off."""
    measured = [row for row in rows if row.status is Status.MEASURED]
    return [difference for knob in KNOBS for difference in _of_knob(knob, measured)]


def _of_knob(knob: Knob, rows: Sequence[ResultRow]) -> list[PairedDifference]:
    plain = {_rest(row, knob): row for row in rows if knob.plain(row.config)}
    changes: dict[str, list[tuple[ResultRow, ResultRow]]] = {}
    for row in rows:
        base = plain.get(_rest(row, knob))
        if base is not None and not knob.plain(row.config):
            change = f"{knob.label(base.config)} → {knob.label(row.config)}"
            changes.setdefault(change, []).append((base, row))
    return [_difference(knob.name, change, changes[change]) for change in sorted(changes)]


def _rest(row: ResultRow, knob: Knob) -> str:
    """Give everything about a config that the knob does not change."""
    return json.dumps(row.config.model_dump(exclude=set(knob.fields)), sort_keys=True)


def _difference(
    knob: str, change: str, pairs: Sequence[tuple[ResultRow, ResultRow]]
) -> PairedDifference:
    def of(name: str) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.array([r.metrics[name] for r in side]) for side in zip(*pairs))  # type: ignore[return-value]  # noqa: B905

    accuracy, sizes, latencies = (of(n) for n in ("accuracy", "size_bytes", "latency_ms"))
    return PairedDifference(
        knob,
        change,
        tuple((base.trial_id, row.trial_id) for base, row in pairs),
        _quartiles(accuracy[1] - accuracy[0]),
        _quartiles(sizes[1] / sizes[0]),
        _quartiles(latencies[1] / latencies[0]),
    )


def _quartiles(values: np.ndarray) -> Quartiles:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)
