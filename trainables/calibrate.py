"""Ranges of activations, seen when the float model runs on a few real images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from trainables.errors import ExportError

BATCH = 32
"""Images per run: feature maps of a small cnn still fit the cache, where min and max are free."""

Range = tuple[float, float]
"""Lowest and highest value that must be represented."""


BINS = 2048
PERCENTILE = 99.99
"""Share of the values, in percent, that the range must hold."""
LEVELS = 256
"""Of an unsigned byte."""
SHARES = tuple(np.linspace(1.0, 0.3, 36))
"""Shares of the whole range that `entropy` tries."""


@dataclass(frozen=True)
class Histogram:
    """How often which values of one tensor were seen."""

    low: float
    high: float
    counts: NDArray[np.int64]
    """(BINS,) from low to high."""


def minmax(seen: Histogram) -> Range:
    """Hold all values."""
    return seen.low, seen.high


def percentile(seen: Histogram) -> Range:
    """Leave out the rarest values, at both ends together."""
    total = seen.counts.sum()
    tail = total * (1 - PERCENTILE / 100) / 2
    below = np.cumsum(seen.counts)
    edges = np.linspace(seen.low, seen.high, BINS + 1)
    first = int(np.searchsorted(below, tail, side="right"))
    last = int(np.searchsorted(below, total - tail, side="left"))
    # 0 must stay exact: a range ends there, or on its other side.
    return min(0.0, float(edges[first])), max(0.0, float(edges[min(last, BINS - 1) + 1]))


def entropy(seen: Histogram) -> Range:
    """Lose the least information: Kullback-Leibler divergence over clipped ranges.

    As Migacz 2017, "8-bit Inference with TensorRT", with both ends clipped by one share.
    """
    centres = (np.arange(BINS) + 0.5) / BINS * (seen.high - seen.low) + seen.low
    ranges = [(seen.low * share, seen.high * share) for share in SHARES]
    losses = [_divergence(seen.counts.astype(np.float64), centres, *r) for r in ranges]
    return ranges[int(np.argmin(losses))]


def _divergence(
    counts: NDArray[np.float64], centres: NDArray[np.float64], low: float, high: float
) -> float:
    """Give KL(clipped values || the same spread evenly over each of 256 levels)."""
    inside = (centres >= low) & (centres <= high)
    if not inside.any() or high <= low:
        return math.inf
    true = counts * inside
    clipped = np.clip(centres, low, high)
    places = np.flatnonzero(inside)
    true[places[0]] += counts[: places[0]].sum()
    true[places[-1]] += counts[places[-1] + 1 :].sum()
    level = np.rint((clipped - low) / (high - low) * (LEVELS - 1)).astype(int)
    filled = (counts > 0) & inside
    sums = np.bincount(level[inside], counts[inside], LEVELS)
    widths = np.bincount(level[filled], minlength=LEVELS)
    spread = np.where(filled, sums[level] / np.maximum(widths[level], 1), 0.0)
    p, q = true / true.sum(), spread / max(spread.sum(), 1.0)
    both = (p > 0) & (q > 0)
    missed = p[(p > 0) & (q == 0)].sum()
    return float((p[both] * np.log(p[both] / q[both])).sum() + missed * math.log(1e9))


CALIBRATION: dict[str, Callable[[Histogram], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
}
"""By name: takes what was seen of a tensor, gives the range that an 8-bit integer should hold."""


def activation_ranges(
    proto: onnx.ModelProto,
    tensors: Sequence[str],
    images: NDArray[np.float32],
    *,
    method: str = "minmax",
) -> dict[str, Range]:
    """Give the range of each named float32 tensor over the images, widened to contain 0.

    Args:
        proto: A float model with one input.
        tensors: Names of inputs or intermediate results; those of other types are left out.
        images: Normalised as for inference, shape (n, c, h, w), n >= 1.
        method: A name in `CALIBRATION`.

    Raises:
        ExportError: the method is unknown, there are no images, or the runtime cannot run them.
    """
    if not len(images):
        raise ExportError("calibration needs at least one image, got none")
    if method not in CALIBRATION:
        raise ExportError(f"calibration is one of {sorted(CALIBRATION)}, got {method!r}")
    choose = CALIBRATION[method]
    try:
        session = _session(proto, tensors)
        watched = [o.name for o in session.get_outputs() if o.type == "tensor(float)"]
        names = [name for name in watched if name in tensors]
        ranges = _whole_ranges(session, names, images)
        if choose is minmax:  # needs no second run
            return ranges
        seen = _histograms(session, ranges, images)
        return {n: choose(h) if h.counts.any() else ranges[n] for n, h in seen.items()}
    except Exception as error:  # the runtime's exceptions have no common base
        raise ExportError(f"calibration cannot run the float model: {error}") from error


def _batches(
    session: onnxruntime.InferenceSession, names: list[str], images: NDArray[np.float32]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    image = session.get_inputs()[0].name
    for start in range(0, len(images), BATCH):
        results = session.run(names, {image: images[start : start + BATCH]})
        yield dict(zip(names, results, strict=True))


def _whole_ranges(
    session: onnxruntime.InferenceSession, names: list[str], images: NDArray[np.float32]
) -> dict[str, Range]:
    ranges = dict.fromkeys(names, (0.0, 0.0))
    for batch in _batches(session, names, images):
        for name, values in batch.items():
            low, high = ranges[name]
            ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
    return ranges


def _histograms(
    session: onnxruntime.InferenceSession,
    ranges: dict[str, Range],
    images: NDArray[np.float32],
) -> dict[str, Histogram]:
    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    for batch in _batches(session, list(ranges), images):
        for name, values in batch.items():
            low, high = ranges[name]
            if high > low:
                counts[name] += np.histogram(values, BINS, (low, high))[0]
    return {name: Histogram(*ranges[name], counts[name]) for name in ranges}


def _session(proto: onnx.ModelProto, tensors: Sequence[str]) -> onnxruntime.InferenceSession:
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    known = {value.name for value in watched.graph.output}
    # Without a type: the runtime finds it.
    watched.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in tensors if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
