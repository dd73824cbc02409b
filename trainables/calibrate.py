"""Ranges of activations, seen when the float model runs on a few real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from trainables.errors import ExportError

BATCH = 32
"""Images per run: feature maps of a small cnn still fit the cache, where min and max are free."""

Range = tuple[float, float]
"""Lowest and highest value that must be represented."""


def minmax(seen: Range, values: NDArray[np.float32]) -> Range:
    """Widen a range to all values."""
    return min(seen[0], float(values.min())), max(seen[1], float(values.max()))


CALIBRATION: dict[str, Callable[[Range, NDArray[np.float32]], Range]] = {"minmax": minmax}
"""By name: takes the range so far and one batch of a tensor, gives the new range."""


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
    widen = CALIBRATION[method]
    ranges: dict[str, Range] = {}
    try:
        session = _session(proto, tensors)
        image = session.get_inputs()[0].name
        watched = [o.name for o in session.get_outputs() if o.type == "tensor(float)"]
        ranges = {name: (0.0, 0.0) for name in watched if name in tensors}
        for start in range(0, len(images), BATCH):
            results = session.run(list(ranges), {image: images[start : start + BATCH]})
            for name, values in zip(ranges, results, strict=True):
                ranges[name] = widen(ranges[name], values)
    except Exception as error:  # the runtime's exceptions have no common base
        raise ExportError(f"calibration cannot run the float model: {error}") from error
    return ranges


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
