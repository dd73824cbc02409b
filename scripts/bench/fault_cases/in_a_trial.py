"""Faults inside a trial, or of the worker it runs in."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from bench.fault_cases.bench import (
    Bench,
    CaseError,
    Result,
    end_of,
    line_with,
    rows_of,
    under_way,
    wait_until,
)


def exception(bench: Bench) -> Result:
    """Raise an error in a trial."""
    return _own_fault(bench, "exception", "failed", "an error raised in a trial")


def nan(bench: Bench) -> Result:
    """Spoil the weights of a trial."""
    return _own_fault(bench, "nan", "diverged", "NaN put into the weights of a trial")


def gpu_memory(bench: Bench) -> Result:
    """Raise what torch raises when a GPU is full."""
    return _own_fault(bench, "gpu-memory", "failed", "torch's error of a full GPU raised")


def _own_fault(bench: Bench, kind: str, status: str, done: str) -> Result:
    study, _ = bench.planted(kind, 1)
    ended = [row for row in rows_of(study).values() if row["status"] == status]
    if len(ended) != 1:
        raise CaseError(f"{len(ended)} rows are {status}")
    return bench.result(done, study, said=f"{status}: {ended[0]['reason']}")


def worker(bench: Bench) -> Result:
    """Kill workers in the middle of training."""
    study, output = bench.planted("worker", 3)
    return _went_on(bench, "SIGKILL of a worker, 3 times", study, output, 3)


def memory(bench: Bench) -> Result:
    """Let Ray's memory monitor kill a worker that takes all memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    threshold = 1 - (kib["MemAvailable"] - 3 * 2**20) / kib["MemTotal"]
    monitor = {
        "RAY_memory_usage_threshold": f"{threshold:.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    study, output = bench.planted("memory", 1, environment=monitor)
    return _went_on(bench, "a worker takes 3 GiB more than there are", study, output, 1)


def hang(bench: Bench) -> Result:
    """Let a worker hang."""
    study, output = bench.planted("hang", 1, trial_timeout_seconds=20.0)
    return _went_on(bench, "a worker hangs, timeout 20 s", study, output, 1)


def queue(bench: Bench) -> Result:
    """Keep trials from measuring for longer than they may be without progress."""
    folder = bench.folder / "tmp" / f"paretune-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    process = bench.start(bench.sweep("queue", trial_timeout_seconds=10.0))
    with (folder / "measure.lock").open("a") as lock:
        study = bench.folder / "queue"
        wait_until(lambda: len(under_way(study)) > 1, process)
        fcntl.flock(lock, fcntl.LOCK_EX)
        time.sleep(40.0)
    output = end_of(process)
    lost = output.count("goes on from")
    done = "nobody may measure for 40 s, timeout 10 s"
    return bench.result(done, study, from_zero=lost, said=f"{lost} workers lost")


def _went_on(bench: Bench, done: str, study: Path, output: str, times: int) -> Result:
    resumed = sum(len(row["resumed_from"]) for row in rows_of(study).values())
    said = line_with(output, "goes on from")[9:]
    return bench.result(done, study, from_zero=max(0, times - resumed), said=said)
