"""How latency is measured so that it repeats on a busy machine: pairs, CPU time, 10th percentile.

The candidate and a fixed reference model run alternately, so that clock speed and neighbours act
on both; only their ratio is kept. Measured on 2 cores of an AMD EPYC (Zen 5), 10 repeats with a
busy process on each core, batch 1, coefficient of variation: cnn of 1 MB 0.1 to 0.4 %,
mobilenet_v3_small (6 MB) 0.6 to 2.6 %, resnet18 (45 MB in float32) 1.4 to 8 %. Models that outgrow
the caches depend on what neighbours leave of the memory's bandwidth; the interval only covers what
varied while it was taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import json
import math
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import onnx
from onnx import TensorProto, helper

from trainables.errors import TrialError
from trainables.graph import Graph

Runner = Callable[[], object]
"""Runs one inference call to its end."""
Clock = Callable[[], int]
"""Gives nanoseconds."""

WARM_UP_RUNS = 20
SLOW_RUN_NS = 50_000_000
"""A run this long is warm after three."""
PERCENTILE = 10
"""Low, because interruptions only ever add time; not the minimum, which one lucky run decides."""
BLOCK_PAIRS = 20
LEAST_PAIRS = 4
"""Pairs per block, and the least where runs are so slow that 20 would exceed the time allowed."""
LEAST_BLOCKS = 5
REFERENCE_RUNS = 2000
SIGN_SECONDS = 5.0


@dataclass(frozen=True)
class Ratio:
    """Time of the candidate relative to the reference, with a 95 % confidence interval."""

    value: float
    low: float
    high: float
    pairs: int

    @property
    def half_width(self) -> float:
        """Give half the interval, relative to the value."""
        return (self.high - self.low) / 2 / self.value


# --- pairs -------------------------------------------------------------------------------------


def paired_ratio(
    candidate: Runner,
    reference: Runner,
    clock: Clock,
    *,
    half_width: float,
    max_seconds: float,
) -> Ratio:
    """Run both alternately until the ratio is known to `half_width`, relative, or time is up.

    The value is the mean of the ratios of blocks of pairs; the interval is Student's, from the
    spread of the blocks. At least `LEAST_BLOCKS` blocks are run.
    """
    warm_up(reference, clock)
    slow = warm_up(candidate, clock)
    pairs = min(BLOCK_PAIRS, max(LEAST_PAIRS, int(max_seconds * 1e9 / LEAST_BLOCKS / slow)))
    blocks: list[float] = []
    end = time.perf_counter() + max_seconds
    while True:
        blocks.append(_block(candidate, reference, clock, pairs))
        if len(blocks) < LEAST_BLOCKS:
            continue
        ratio = _interval(blocks, pairs)
        if ratio.half_width <= half_width or time.perf_counter() > end:
            return ratio


def warm_up(run: Runner, clock: Clock) -> int:
    """Run until caches and buffers are as they stay; give the last run's nanoseconds."""
    spent = _timed(run, clock)
    for _ in range(2 if spent > SLOW_RUN_NS else WARM_UP_RUNS - 1):
        spent = _timed(run, clock)
    return max(spent, 1)


def _block(candidate: Runner, reference: Runner, clock: Clock, pairs: int) -> float:
    times = np.empty((2, pairs))
    for i in range(pairs):
        times[0, i] = _timed(candidate, clock)
        # Untimed: a large candidate leaves the caches to itself, and the first run of the
        # reference behind it takes up to a quarter longer than the second.
        reference()
        times[1, i] = _timed(reference, clock)
    low = np.percentile(times, PERCENTILE, axis=1)
    return float(low[0] / low[1])


def _timed(run: Runner, clock: Clock) -> int:
    start = clock()
    run()
    return clock() - start


def _interval(blocks: list[float], pairs: int) -> Ratio:
    mean, n = float(np.mean(blocks)), len(blocks)
    half = student_t(n - 1) * float(np.std(blocks, ddof=1)) / math.sqrt(n)
    return Ratio(mean, mean - half, mean + half, n * pairs)


def student_t(degrees: int) -> float:
    """Give the 97.5 % point of Student's t, to 0.3 % from 4 degrees of freedom.

    Cornish-Fisher expansion, Abramowitz & Stegun 26.7.5.

    >>> [round(student_t(n), 2) for n in (4, 10, 100)]
    [2.77, 2.23, 1.98]
    """
    z = NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(sum(term / degrees**k for k, term in enumerate(terms)))


# --- the reference -----------------------------------------------------------------------------


REFERENCE_SHAPE = (1, 16, 24, 24)


@functools.cache
def reference_model() -> bytes:
    """Give the file of the reference: 12 equal convolutions, about 0.2 ms.

    They share one weight of 9 kB, so that the reference leaves the candidate's caches alone.
    """
    channels = REFERENCE_SHAPE[1]
    weight = np.random.default_rng(0).normal(size=(channels, channels, 3, 3))
    graph = Graph(
        inputs=[helper.make_tensor_value_info("images", TensorProto.FLOAT, REFERENCE_SHAPE)],
        outputs=[helper.make_tensor_value_info("logits", TensorProto.FLOAT, REFERENCE_SHAPE)],
    )
    graph.constant("weight", (weight / math.sqrt(9 * channels)).astype(np.float32))
    tensor = "images"
    for i in range(12):
        tensor = graph.add("Conv", [tensor, "weight"], f"conv{i}", pads=[1, 1, 1, 1])
        tensor = graph.add("Relu", [tensor], f"relu{i}")
    graph.rename(tensor, "logits")
    proto: onnx.ModelProto = graph.proto()
    return proto.SerializeToString()


def reference_ms(name: str, reference: Runner, clock: Clock, folder: Path) -> float:
    """Give the reference's own time on this device, measured once and kept in the folder.

    Args:
        name: Of the device and the runtime.
        reference: Runs the reference.
        clock: The clock that ratios are taken with.
        folder: Private to the user; see `private_folder`.
    """
    file = folder / "reference_ms.json"
    try:
        known = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        known = {}
    if name not in known:
        warm_up(reference, clock)
        times = [_timed(reference, clock) for _ in range(REFERENCE_RUNS)]
        known[name] = float(np.percentile(times, PERCENTILE)) / 1e6
        whole = file.with_suffix(".part")
        whole.write_text(json.dumps(known, indent=1))
        whole.replace(file)
    return float(known[name])


# --- quiet -------------------------------------------------------------------------------------


def private_folder() -> Path:
    """Give the folder, on this node, that all measuring processes of this user share.

    Raises:
        TrialError: somebody else owns a folder of that name.
    """
    folder = Path(tempfile.gettempdir()) / f"paretune-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022
    if not private or found.st_uid != os.getuid():
        raise TrialError(f"{folder} must be a folder that only its owner, you, can write to")
    return folder


waiting_sign: ContextVar[Callable[[], None]] = ContextVar("waiting_sign", default=lambda: None)
"""Called every SIGN_SECONDS while this process waits until others have measured."""


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Wait until no other process measures on this node, and keep others waiting."""
    with (folder / "measure.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with _giving_signs(waiting_sign.get()):
                fcntl.flock(lock, fcntl.LOCK_EX)  # in the order of asking
        yield


@contextlib.contextmanager
def _giving_signs(sign: Callable[[], None]) -> Iterator[None]:
    ended = threading.Event()

    def give() -> None:
        while not ended.wait(SIGN_SECONDS):
            sign()

    thread = threading.Thread(target=give, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()  # nothing of this process runs beside a measurement


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Keep the calling thread on the CPU it is on, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_current_cpu()} & before or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _current_cpu() -> int:
    # Field 39 of proc_pid_stat(5); the name in field 2 may itself hold blanks and brackets.
    return int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[36])


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Keep Python's garbage collector from running in between."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
