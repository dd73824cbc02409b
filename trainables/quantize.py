"""Fewer bits for an exported model: ONNX in, ONNX out, one function per scheme.

Weight-only schemes store small weights and restore float32 with `Cast` (and `Mul`), which ONNX
Runtime computes once when it loads the file; `DequantizeLinear` would be computed at every call.
Integer schemes mark the graph with QuantizeLinear / DequantizeLinear pairs, which the runtime
turns into integer operators: see `qdq.py`.

Size and latency against float32, one thread, batch 1, cnn of 6 convolutions (305k parameters), 2
cores of an AMD EPYC (Zen 5, AVX512-VNNI), ONNX Runtime 1.32:

    W16A32  .50  1.00        W8A32  .26  1.00        W4A32  .13  1.00
                             W8A8   .26   .40        W4A8   .14   .40

The same of resnet18 at 32 pixels is .49 to .65 in latency, of mobilenet_v3_small 1.17 to 1.18: its
HardSwish has no integer kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from trainables.errors import ExportError
from trainables.graph import Graph, fold_batch_norm, node_of
from trainables.qdq import run_integer
from trainables.weights import Learned, along, layers, stored_bits, to_integers

Images = NDArray[np.float32]
"""Calibration images, normalised as for inference: (n, c, h, w)."""


def quantize(
    proto: onnx.ModelProto,
    *,
    weight_bits: int,
    activation_bits: int,
    calibration: Images,
    method: str = "minmax",
    learned: Learned | None = None,
) -> onnx.ModelProto:
    """Give a new model with the asked bits; the given one stays as it is.

    Works on any float32 ONNX graph of opset 21 or newer with one input. Weights of Conv, Gemm and
    MatMul are quantized, all else keeps its type. With 4 bits the first and the last layer keep 8.

    Args:
        proto: The float model.
        weight_bits: Of stored weights.
        activation_bits: 32, 16 for float16, or 8 for integer arithmetic.
        calibration: (n, c, h, w), only looked at for 8-bit activations.
        method: How their ranges are chosen, a name in `calibrate.CALIBRATION`.
        learned: Scales and ranges of quantization-aware training, in place of own ones.

    Raises:
        ExportError: the pair of bits has no scheme, or the graph cannot be handled.
    """
    scheme = SCHEMES.get((weight_bits, activation_bits))
    if scheme is None:
        allowed = ", ".join(f"W{w}A{a}" for w, a in SCHEMES)
        raise ExportError(f"no scheme for W{weight_bits}A{activation_bits}; there are {allowed}")
    graph = Graph.read(proto)
    fold_batch_norm(graph)
    scheme(graph, Evidence(calibration, method, learned))
    return graph.proto()


@dataclass(frozen=True)
class Evidence:
    """What scales and ranges are chosen from."""

    images: Images
    method: str
    learned: Learned | None


def keep(graph: Graph, evidence: Evidence) -> None:
    """Leave everything in float32."""


def store_half(graph: Graph, evidence: Evidence) -> None:
    """Store weights and biases as float16; `Cast` brings them back when the file is loaded."""
    limit = np.finfo(np.float16).max
    names = {name for layer in layers(graph) for name in (layer.weight, layer.bias) if name}
    for name in sorted(names):
        value = np.clip(graph.array(name), -limit, limit)
        stored = graph.constant(f"{name}.half", value.astype(np.float16))
        _restore(graph, name, [node_of("Cast", [stored], name, to=TensorProto.FLOAT)])


def store_scaled(graph: Graph, evidence: Evidence, *, bits: int) -> None:
    """Store weights as integers with one scale per output channel; biases stay float32."""
    found = layers(graph)
    for layer, layer_bits in zip(found, stored_bits(found, bits), strict=True):
        name = layer.weight
        if name not in graph.tensors:  # shared with a layer that came before
            continue
        weight = graph.array(name)
        known = evidence.learned.scales.get(name) if evidence.learned else None
        integers, scale = to_integers(weight, layer.axis, layer_bits, scale=known)
        stored = graph.constant(f"{name}.int", integers)
        factor = graph.constant(f"{name}.scale", along(scale, layer.axis, weight.ndim))
        cast = node_of("Cast", [stored], f"{name}.cast", to=TensorProto.FLOAT)
        _restore(graph, name, [cast, node_of("Mul", [cast.output[0], factor], name)])


def _restore(graph: Graph, name: str, nodes: list[onnx.NodeProto]) -> None:
    """Compute a tensor that was a constant."""
    del graph.tensors[name]
    graph.nodes[:0] = nodes


def compute_integers(graph: Graph, evidence: Evidence, *, bits: int) -> None:
    """Store weights in few bits and let the runtime compute with 8-bit activations."""
    run_integer(
        graph, evidence.images, bits=bits, method=evidence.method, learned=evidence.learned
    )


def compute_half(graph: Graph, evidence: Evidence) -> None:
    """Store and compute in float16; inputs and outputs of the file stay float32."""
    proto = convert_float_to_float16(graph.proto(), keep_io_types=True, disable_shape_infer=True)
    sorted_by_use = OnnxModel(proto)
    sorted_by_use.topological_sort(is_deterministic=True)
    half = Graph.read(sorted_by_use.model)
    graph.nodes, graph.tensors, graph.opsets = half.nodes, half.tensors, half.opsets


Scheme = Callable[[Graph, Evidence], None]
"""Changes the graph in place."""

SCHEMES: dict[tuple[int, int], Scheme] = {
    (32, 32): keep,
    (16, 32): store_half,
    (8, 32): partial(store_scaled, bits=8),
    (4, 32): partial(store_scaled, bits=4),
    (8, 8): partial(compute_integers, bits=8),
    (4, 8): partial(compute_integers, bits=4),
    (16, 16): compute_half,
}
"""By (weight_bits, activation_bits): what `config.BITS_ON` lists, and how."""
