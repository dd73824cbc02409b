"""The latency protocol for any ONNX file, alone and against another one."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.config import DeployConfig
from trainables.contract import Latency
from trainables.errors import ExportError
from trainables.latency import Ratio, exclusive, paired_ratio, pinned, private_folder, without_gc
from trainables.measure import bound_runner, executed_operators, measure_latency, open_session

HALF_WIDTH = 0.01
MAX_SECONDS = 3.0


@dataclass(frozen=True)
class Benchmark:
    """What was measured of one file."""

    size_bytes: int
    latency: Latency
    operators: dict[str, int]
    """Of the runtime's optimised graph: what was really executed."""


def benchmark(file: bytes, deploy: DeployConfig) -> Benchmark:
    """Measure one file.

    Raises:
        ExportError: it is not a model with one float image input of fixed size.
        TrialError: the device cannot be used.
    """
    example = example_of(file)
    latency = measure_latency(
        file, deploy, example, half_width=HALF_WIDTH, max_seconds=MAX_SECONDS
    )
    return Benchmark(len(file), latency, executed_operators(file, device=deploy.device))


def against(file: bytes, baseline: bytes, deploy: DeployConfig) -> Ratio:
    """Measure the time of a file relative to another one's, run in turn.

    Raises:
        ExportError: one of them is not a model with one float image input of fixed size.
        TrialError: the device cannot be used.
    """
    runners = [
        bound_runner(
            open_session(f, threads=deploy.threads, device=deploy.device),
            np.repeat(example_of(f), deploy.batch_size, axis=0),
            deploy.device,
        )
        for f in (file, baseline)
    ]
    # CPU time sees one thread only, and does not see a GPU at all.
    by_cpu = deploy.threads == 1 and deploy.device == "cpu"
    clock = time.thread_time_ns if by_cpu else time.perf_counter_ns
    pin = pinned() if by_cpu else contextlib.nullcontext()
    with exclusive(private_folder()), pin, without_gc():
        return paired_ratio(*runners, clock, half_width=HALF_WIDTH, max_seconds=MAX_SECONDS)


def example_of(file: bytes) -> NDArray[np.float32]:
    """Give one image of the size that a file takes: (1, c, h, w)."""
    try:
        inputs = open_session(file).get_inputs()
    except Exception as error:  # the runtime's exceptions have no common base
        raise ExportError(f"ONNX Runtime cannot open the file: {error}") from error
    shapes = [f"{i.name} {i.type} {i.shape}" for i in inputs]
    shape = inputs[0].shape
    fixed = len(shape) == 4 and all(isinstance(n, int) for n in shape[1:])
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not fixed:
        raise ExportError(
            f"needs one input of type tensor(float) and shape (N, channels, height, width), "
            f"got {', '.join(shapes)}"
        )
    generator = np.random.default_rng(0)
    return generator.normal(size=(1, *shape[1:])).astype(np.float32)
