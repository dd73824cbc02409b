"""What was tried to make integers pay on mobilenet_v3_small, beside what W8A8 files here do.

    python scripts/bench/int8_mobilenet.py

Latency relative to the float32 file, in turn in one process, for this project's W8A8 and for ONNX
Runtime's own quantizer with some layers left in float32. Weights are untrained: they do not matter
to latency.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
from bench.ratios import file_ratio
from trainables.export import export_float
from trainables.graph import Graph, fold_batch_norm
from trainables.models import build_model
from trainables.quantize import quantize

SIZE = 32
IMAGES = np.random.default_rng(0).normal(size=(64, 3, SIZE, SIZE)).astype(np.float32)


class _Reader(CalibrationDataReader):
    def __init__(self, name: str):
        self.batches = iter([{name: IMAGES[i : i + 16]} for i in range(0, len(IMAGES), 16)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def by_onnxruntime(
    proto: onnx.ModelProto, leave_out: Callable[[onnx.NodeProto], bool], kinds: list[str] | None
) -> bytes:
    """Quantize with ONNX Runtime's tool: uint8 activations, int8 weights per channel."""
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(proto, f"{folder}/float.onnx")
        quantize_static(
            f"{folder}/float.onnx",
            f"{folder}/int8.onnx",
            _Reader(proto.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=kinds,
            nodes_to_exclude=[node.name for node in proto.graph.node if leave_out(node)],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return Path(folder, "int8.onnx").read_bytes()


def ratio(file: bytes, whole: bytes, batch: int) -> str:
    """Give the ratio of two files' times, with its 95 % interval."""
    value, low, high = file_ratio(file, whole, IMAGES[:batch], max_seconds=2)
    return f"{value:.2f} ± {(high - low) / 2:.2f}"


def is_depthwise(node: onnx.NodeProto) -> bool:
    """Tell whether a convolution works on every channel by itself."""
    return any(a.name == "group" and a.i > 1 for a in node.attribute)


def main() -> None:
    """Print one line per way."""
    torch.set_num_threads(1)
    model = build_model(
        "mobilenet_v3_small", {}, in_channels=3, image_size=SIZE, classes=10, seed=0
    )
    whole = export_float(model.eval(), channels=3, image_size=SIZE)
    graph = Graph.read(whole)
    fold_batch_norm(graph)
    folded = graph.proto()
    for i, node in enumerate(folded.graph.node):
        node.name = node.name or f"node{i}"
    squeezed = {
        node.output[0] for node in folded.graph.node if node.op_type == "GlobalAveragePool"
    }
    for _ in range(3):  # the two convolutions of squeeze-and-excitation, and what is between
        squeezed |= {
            node.output[0]
            for node in folded.graph.node
            if node.op_type in ("Conv", "Relu") and node.input[0] in squeezed
        }

    def never(node: onnx.NodeProto) -> bool:
        return False

    def excites(node: onnx.NodeProto) -> bool:
        return node.output[0] in squeezed

    layers = ["Conv", "Gemm"]
    ways = {
        "this project's W8A8": quantize(
            whole, weight_bits=8, activation_bits=8, calibration=IMAGES
        ).SerializeToString(),
        "every operator, ONNX Runtime's tool": by_onnxruntime(folded, never, None),
        "convolutions and the last layers alone": by_onnxruntime(folded, never, layers),
        "the same, depthwise ones in float32": by_onnxruntime(folded, is_depthwise, layers),
        "the same, squeeze-and-excitation in float32": by_onnxruntime(folded, excites, layers),
        "the same, both in float32": by_onnxruntime(
            folded, lambda node: is_depthwise(node) or excites(node), layers
        ),
    }
    print("| integers in | batch 1 | batch 64 |\n| --- | --- | --- |")
    for name, file in ways.items():
        both = [ratio(file, folded.SerializeToString(), batch) for batch in (1, 64)]
        print(f"| {name} | {both[0]} | {both[1]} |", flush=True)


if __name__ == "__main__":
    main()
