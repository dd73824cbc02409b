"""How long one ONNX file takes by another, without favour to either."""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray

from trainables.latency import exclusive, paired_ratio, pinned, private_folder, without_gc
from trainables.measure import bound_runner, open_session


def file_ratio(
    file: bytes, whole: bytes, images: NDArray[np.float32], *, max_seconds: float = 1.0
) -> tuple[float, float, float]:
    """Give the time of `file` by that of `whole` on a CPU, with its 95 % interval.

    `paired_ratio` is made for a reference that leaves the caches alone: of two large models the
    first of a pair comes out up to a tenth slower. So each is the first once, and the geometric
    mean counts.
    """
    runners = [bound_runner(open_session(f), images, "cpu") for f in (file, whole)]
    with exclusive(private_folder()), pinned(), without_gc():
        first, second = (
            paired_ratio(*pair, time.thread_time_ns, half_width=0.015, max_seconds=max_seconds)
            for pair in (runners, runners[::-1])
        )
    both = (first.value / second.value, first.low / second.high, first.high / second.low)
    value, low, high = map(math.sqrt, both)
    return value, low, high
