"""From a network in memory to a measured file: quantize, write, read back, compare, measure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables import storage
from trainables.benchmark import example_of
from trainables.config import DeployConfig, TrialConfig
from trainables.contract import Forecast, Measurement
from trainables.data import ImageData, Split
from trainables.errors import DisagreementError
from trainables.export import count_parameters, export_float, serialise
from trainables.measure import (
    disagreement,
    executed_operators,
    measure_latency,
    open_session,
    predict,
)
from trainables.qat import QuantizedModule
from trainables.quantize import quantize
from trainables.weights import Learned

FORECAST_CALIBRATION_IMAGES = 16
"""Activation ranges of untrained weights decide nothing about size or latency."""
COMPARED_IMAGES = 64
FLOAT_TOLERANCE = 1e-3
"""Largest difference between the float file and the model, relative to the largest output."""
QUANTIZED_TOLERANCE: Mapping[tuple[int, int], float] = {
    (32, 32): FLOAT_TOLERANCE,
    (16, 32): 0.02,
    (16, 16): 0.05,
    (8, 32): 0.1,
    (8, 8): 0.2,
    (4, 32): 1.0,
    (4, 8): 1.0,
}
"""The same after quantization, by (weight_bits, activation_bits). Measured on healthy files of
`cnn`: .001 at 16 bits, .006 to .012 at W8A32, .006 to .018 at W8A8, .12 to .33 at 4 bits."""
QAT_TOLERANCE = 0.05
"""The same where the model in memory rounded as the file does: only sums of integers may differ in
their last bit. Measured on files of `cnn`: below .006 with 8-bit activations, else below 1e-6."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in memory with its float file, ready to be compressed in several ways."""

    float_file: object
    """An onnx.ModelProto."""
    parameters: int
    images: NDArray[np.float32]
    """(n, c, h, w), what `outputs` answers to."""
    outputs: NDArray[np.float32]
    """(n, classes) of the model in memory."""
    learned: Learned | None = None
    """Scales and ranges, if it was trained with the rounding of its file."""


def export_network(model: torch.nn.Module, data: ImageData) -> TrainedNetwork:
    """Write the float graph of a network and keep its answers to some validation images."""
    model = model.cpu().eval()
    images = data.normalised(data.val.images[:COMPARED_IMAGES])
    with torch.no_grad():
        outputs = model(torch.from_numpy(images)).float().numpy()
    if isinstance(model, QuantizedModule):
        graph, learned = model.proto(), model.learned()
    else:
        graph = export_float(model, channels=data.channels, image_size=data.image_size)
        learned = None
    return TrainedNetwork(graph, count_parameters(model), images, outputs, learned)


def make_file(
    network: TrainedNetwork,
    config: TrialConfig,
    data: ImageData,
    *,
    calibration_images: int | None = None,
) -> bytes:
    """Give the bytes of the deployable file under the bits of `config`."""
    count = calibration_images or config.calibration_images
    calibration = data.normalised(data.train.images[:count])
    graph = quantize(
        network.float_file,
        weight_bits=config.weight_bits,
        activation_bits=config.activation_bits,
        calibration=calibration,
        method=config.calibration,
        learned=network.learned,
    )
    return serialise(graph, metadata(data))


def metadata(data: ImageData) -> dict[str, str]:
    """Give what a user of the file needs to feed it.

    It does not depend on the trial: two files of one structure have one size.
    """
    return {
        "classes": json.dumps(list(data.classes)),
        "input": f"images: float32 (N, {data.channels}, {data.image_size}, {data.image_size})"
        " = (pixels / 255 - mean) / std",
        "mean": json.dumps([round(float(x), 6) for x in data.mean]),
        "std": json.dumps([round(float(x), 6) for x in data.std]),
        "output": "logits: float32 (N, classes)",
    }


def forecast_file(
    network: TrainedNetwork, config: TrialConfig, data: ImageData, deploy: DeployConfig
) -> Forecast:
    """Measure size and latency of an untrained network: they do not depend on the weights."""
    file = make_file(network, config, data, calibration_images=FORECAST_CALIBRATION_IMAGES)
    latency = measure_latency(file, deploy, network.images[:1])
    return Forecast(len(file), network.parameters, latency)


def write_and_read_back(file: bytes, location: str) -> bytes:
    """Store the file whole and give what the storage now holds."""
    storage.patiently(lambda: storage.write_whole(location, file))
    return storage.patiently(lambda: storage.read(location))


def measure_stored(location: str, deploy: DeployConfig) -> dict[str, Any]:
    """Measure the latency of a stored file again: the fields of `Latency`."""
    file = storage.patiently(lambda: storage.read(location))
    latency = measure_latency(file, deploy, example_of(file), half_width=0.01, max_seconds=2.0)
    return asdict(latency)


def measure_file(
    file: bytes,
    network: TrainedNetwork,
    config: TrialConfig,
    data: ImageData,
    deploy: DeployConfig,
    *,
    threads: int,
    train_seconds: float,
    peak_memory_bytes: int,
    uncompressed: Forecast | None,
) -> Measurement:
    """Measure everything on the bytes of one file.

    Raises:
        DisagreementError: the file does not answer like the model in memory.
    """
    session = open_session(file, threads=threads, device=deploy.device)
    difference = disagreement(session, network.outputs, network.images)
    tolerance = QUANTIZED_TOLERANCE[config.weight_bits, config.activation_bits]
    if network.learned is not None:
        tolerance = QAT_TOLERANCE
    if not difference <= tolerance:
        raise DisagreementError(
            f"the file of {config.trial_id} (W{config.weight_bits}A{config.activation_bits})"
            f" differs from the model in memory by {difference:.3g}, allowed {tolerance:g}"
        )
    return Measurement(
        accuracy=_accuracy(session, data, data.val),
        test_accuracy=_accuracy(session, data, data.test),
        size_bytes=len(file),
        compressed_bytes=len(zlib.compress(file, 9)),
        parameters=network.parameters,
        latency=measure_latency(file, deploy, network.images[:1]),
        train_seconds=train_seconds,
        operators=executed_operators(file, device=deploy.device),
        max_disagreement=difference,
        peak_memory_bytes=peak_memory_bytes,
        uncompressed=uncompressed,
    )


def _accuracy(session: object, data: ImageData, split: Split, batch_size: int = 256) -> float:
    right = 0
    for start in range(0, len(split), batch_size):
        images = data.normalised(split.images[start : start + batch_size])
        answers = predict(session, images).argmax(axis=1)
        right += int((answers == split.labels[start : start + batch_size]).sum())
    return right / len(split)
