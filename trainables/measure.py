"""Accuracy, latency and evidence of one ONNX file, by the runtime that will run it."""

from __future__ import annotations

import contextlib
import functools
import platform
import tempfile
import time
import zlib
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from trainables.config import DeployConfig
from trainables.contract import Latency
from trainables.errors import TrialError
from trainables.latency import (
    REFERENCE_SHAPE,
    Clock,
    Ratio,
    Runner,
    exclusive,
    paired_ratio,
    pinned,
    private_folder,
    reference_model,
    reference_ms,
    without_gc,
)

Images = NDArray[np.float32]
"""Normalised images, (n, c, h, w)."""
PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
"""Instructions that decide how fast few bits are."""


# --- answers -----------------------------------------------------------------------------------


def open_session(
    model: bytes | str | Path, *, threads: int = 1, device: str = "cpu"
) -> onnxruntime.InferenceSession:
    """Load a file, or its bytes, for inference.

    Raises:
        TrialError: the installed ONNX Runtime cannot use the device.
    """
    return _open(model, _options(threads), device)


def predict(
    session: onnxruntime.InferenceSession, images: Images, batch_size: int = 256
) -> NDArray[np.float32]:
    """Give the logits of the images: (n, classes)."""
    name = session.get_inputs()[0].name
    starts = range(0, len(images), batch_size)
    return np.concatenate(
        [session.run(None, {name: images[i : i + batch_size]})[0] for i in starts]
    )


def score(
    session: onnxruntime.InferenceSession, images: Images, labels: NDArray[np.integer]
) -> float:
    """Give the share of images whose highest logit is at the label."""
    return float((predict(session, images).argmax(axis=1) == labels).mean())


def disagreement(
    session: onnxruntime.InferenceSession, model_outputs: NDArray[np.float32], images: Images
) -> float:
    """Give the largest difference from the model's outputs, relative to max(1, the largest)."""
    difference = np.abs(predict(session, images) - model_outputs).max()
    return float(difference / max(1.0, np.abs(model_outputs).max()))


def executed_operators(model: bytes, *, device: str = "cpu") -> dict[str, int]:
    """Count the operators of the runtime's optimised graph: what is really executed."""
    with tempfile.TemporaryDirectory(prefix="paretune-") as folder:
        options = _options(threads=1)
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        _open(model, options, device)
        optimised = onnx.load(options.optimized_model_filepath)
    return dict(sorted(Counter(node.op_type for node in optimised.graph.node).items()))


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Waiting threads would burn the CPU of the neighbour's trial.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _open(
    model: bytes | str | Path, options: onnxruntime.SessionOptions, device: str
) -> onnxruntime.InferenceSession:
    source = model if isinstance(model, bytes) else str(model)
    wanted = PROVIDERS[device][0]
    available = onnxruntime.get_available_providers()
    if wanted not in available:
        raise TrialError(
            f"deploy.device {device} needs an ONNX Runtime with {wanted}, this one has "
            f"{', '.join(available)}: install onnxruntime-gpu in place of onnxruntime"
        )
    session = onnxruntime.InferenceSession(source, options, providers=PROVIDERS[device])
    if wanted not in session.get_providers():  # it falls back without a word
        raise TrialError(f"deploy.device {device}: ONNX Runtime could not start {wanted}")
    return session


# --- latency -----------------------------------------------------------------------------------


def measure_latency(
    model: bytes,
    deploy: DeployConfig,
    example: Images,
    *,
    half_width: float = 0.015,
    max_seconds: float = 1.0,
) -> Latency:
    """Measure one inference call of a file on this node's device.

    Waits until no other process measures here. Protocol: see `latency.py`.

    Args:
        model: The file.
        deploy: Device, batch size and threads.
        example: One image, (1, c, h, w); repeated to the batch size.
        half_width: Half of the 95 % interval to reach, relative to the value.
        max_seconds: Time after which it ends without having reached it.

    Raises:
        TrialError: the device cannot be used.
    """
    session = open_session(model, threads=deploy.threads, device=deploy.device)
    candidate = bound_runner(session, np.repeat(example, deploy.batch_size, axis=0), deploy.device)
    reference = _reference(deploy.threads, deploy.device)
    # CPU time sees one thread only, and does not see a GPU at all.
    by_cpu = deploy.threads == 1 and deploy.device == "cpu"
    clock: Clock = time.thread_time_ns if by_cpu else time.perf_counter_ns
    folder = private_folder()
    with exclusive(folder), pinned() if by_cpu else contextlib.nullcontext(), without_gc():
        own_ms = reference_ms(_device_name(deploy), reference, clock, folder)
        ratio = paired_ratio(
            candidate, reference, clock, half_width=half_width, max_seconds=max_seconds
        )
    return _latency(ratio, own_ms, deploy, by_cpu=by_cpu)


def _latency(ratio: Ratio, own_ms: float, deploy: DeployConfig, *, by_cpu: bool) -> Latency:
    return Latency(
        ms=ratio.value * own_ms,
        low_ms=ratio.low * own_ms,
        high_ms=ratio.high * own_ms,
        ratio=ratio.value,
        clock="thread_cpu" if by_cpu else "wall",
        runs=ratio.pairs,
        threads=deploy.threads,
        batch_size=deploy.batch_size,
        device=deploy.device,
    )


def bound_runner(
    session: onnxruntime.InferenceSession, images: Images, device: str = "cpu"
) -> Runner:
    """Give a call that infers images that already lie on the device and waits for the end."""
    binding = session.io_binding()
    placed = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images), device)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, placed)
    binding.bind_output(session.get_outputs()[0].name, device)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


@functools.lru_cache(maxsize=4)
def _reference(threads: int, device: str) -> Runner:
    session = open_session(reference_model(), threads=threads, device=device)
    return bound_runner(session, np.ones(REFERENCE_SHAPE, np.float32), device)


def _device_name(deploy: DeployConfig) -> str:
    """Name all that the reference's own time depends on."""
    return (
        f"{_cpu_model()}, {deploy.device}, {deploy.threads} threads, "
        f"onnxruntime {onnxruntime.__version__}, reference {zlib.crc32(reference_model()):08x}"
    )


# --- environment -------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _environment(deploy: DeployConfig) -> dict[str, Any]:
    packages = ("paretune", "torch", "onnx", "onnxruntime", "numpy")
    flags = _cpuinfo("flags").split()
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags],
        "threads": deploy.threads,
        "providers": PROVIDERS[deploy.device],
    }


def environment(deploy: DeployConfig) -> dict[str, Any]:
    """Give what the numbers depend on: versions, CPU and its flags, threads, providers."""
    return dict(_environment(deploy))


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@functools.lru_cache(maxsize=4)
def _cpuinfo(field: str) -> str:
    """Give one field of the first CPU in /proc/cpuinfo, empty where there is none."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(field))
    return next(found, "")
