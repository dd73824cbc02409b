"""Integer arithmetic: where activations are quantized, so that ONNX Runtime uses integer kernels.

A tensor that is quantized gets one QuantizeLinear / DequantizeLinear pair, and whoever reads it
reads the pair's end. The runtime replaces "dequantize, operate, quantize" by one integer operator
when every input and the output of an operator in `INTEGER_OPERATORS` has its pair. So those get
pairs, with three exceptions: a Relu or Clip that alone reads an output moves the pair behind
itself, where the range already is its effect; matrix products may give float32; the model's
output stays float32.

Activations are uint8 with a zero point, weights int8 without (U8S8): the fastest pairing on x86.
Without VNNI instructions its 16-bit sums can saturate; accuracy is measured on the file, so such
a loss shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from trainables.calibrate import Range, activation_ranges
from trainables.graph import Graph, node_of
from trainables.weights import INT4, Layer, Learned, layers, stored_bits, to_integers

SAME_VALUES = frozenset({"MaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"})
"""Operators that only move values: the result has the scale of the input."""
INTEGER_OPERATORS = SAME_VALUES | {
    "Conv",
    "AveragePool",
    "GlobalAveragePool",
    "Add",
    "Mul",
    "Concat",
}
"""Operators with an integer kernel that reads and writes uint8."""
CLAMPS = frozenset({"Relu", "Clip"})
"""Operators that a quantized range makes superfluous."""


@dataclass(frozen=True)
class Uint8:
    """How one tensor is quantized: value is about (integer - zero) * scale."""

    scale: np.float32
    zero: np.uint8

    @classmethod
    def of(cls, seen: Range) -> Uint8:
        """Spread 0..255 over a range that contains 0, so that 0 is exact."""
        low, high = seen
        # Where nothing was seen but 0 any scale does; products of scales must stay normal floats.
        scale = np.float32((high - low) / 255 if high - low > 1e-20 else 1.0)
        return cls(scale, np.uint8(np.clip(round(-low / float(scale)), 0, 255)))


def run_integer(
    graph: Graph,
    calibration: NDArray[np.float32],
    *,
    bits: int,
    method: str = "minmax",
    learned: Learned | None = None,
) -> None:
    """Quantize activations to 8 bits and weights to `bits`; the graph is changed in place.

    Scales and ranges that were `learned` are taken as they are.

    Raises:
        ExportError: the model does not run on the calibration images.
    """
    found = layers(graph)
    sources = quantized_tensors(graph, found)
    learned = learned or Learned({}, {})
    ranges = learned.ranges or activation_ranges(
        graph.proto(), sorted(set(sources.values())), calibration, method=method
    )
    sources = {tensor: source for tensor, source in sources.items() if source in ranges}
    parameters = {tensor: Uint8.of(ranges[source]) for tensor, source in sources.items()}
    for layer, layer_bits in zip(found, stored_bits(found, bits), strict=True):
        if layer.input in parameters:  # not where it reads a constant or the model's output
            known = learned.scales.get(layer.weight)
            _quantize_layer(graph, layer, layer_bits, parameters[layer.input].scale, known)
    _insert_pairs(graph, sources, parameters)


# --- where -------------------------------------------------------------------------------------


def quantized_tensors(graph: Graph, found: list[Layer]) -> dict[str, str]:
    """Give the tensors to quantize, each with the tensor whose range it takes."""
    weighted = {id(layer.node) for layer in found}
    readers, writers, outputs = graph.readers(), graph.writers(), graph.output_names()
    chosen: dict[str, None] = {}
    for node in graph.nodes:
        activations = [name for name in node.input if name and name not in graph.tensors]
        if id(node) in weighted:
            chosen[node.input[0]] = None
        elif _runs_on_integers(node, activations):
            chosen |= dict.fromkeys(activations)
        if _gives_integers(node, activations, id(node) in weighted):
            chosen[_behind_clamp(node.output[0], readers)] = None
    return {name: _source(name, writers) for name in chosen if name not in outputs}


def _runs_on_integers(node: NodeProto, activations: list[str]) -> bool:
    unary = node.op_type not in {"Add", "Mul", "Concat"}
    operands = 1 if unary else len(node.input)
    return node.op_type in INTEGER_OPERATORS - {"Conv"} and len(activations) == operands


def _gives_integers(node: NodeProto, activations: list[str], weighted: bool) -> bool:
    if node.op_type in SAME_VALUES:
        return False  # quantized where an integer operator reads it
    return (weighted and node.op_type == "Conv") or _runs_on_integers(node, activations)


def _behind_clamp(tensor: str, readers: dict[str, list[NodeProto]]) -> str:
    alone = readers[tensor]
    return alone[0].output[0] if len(alone) == 1 and alone[0].op_type in CLAMPS else tensor


def _source(tensor: str, writers: dict[str, NodeProto]) -> str:
    while tensor in writers and writers[tensor].op_type in SAME_VALUES:
        tensor = writers[tensor].input[0]
    return tensor


# --- how ---------------------------------------------------------------------------------------


def _quantize_layer(
    graph: Graph,
    layer: Layer,
    bits: int,
    input_scale: np.float32,
    known: NDArray[np.float32] | None,
) -> None:
    name = layer.node.output[0]
    bias = graph.array(layer.bias) if layer.bias else None
    # The bias becomes int32 in steps of input_scale * scale: tiny weights must leave it room.
    least = 0.0 if bias is None else np.abs(bias) / (input_scale * 2.0**30)
    integers, scale = to_integers(graph.array(layer.weight), layer.axis, bits, least, known)
    nodes = _dequantize(graph, f"{name}.weight", integers, scale, layer.axis)
    layer.node.input[1] = nodes[-1].output[0]
    if bias is not None:
        step = scale * input_scale
        integers = np.rint(bias / step.astype(np.float64)).astype(np.int32)
        nodes += _dequantize(graph, f"{name}.bias", integers, step, axis=0)
        layer.node.input[2] = nodes[-1].output[0]
    graph.nodes[:0] = nodes


def _dequantize(
    graph: Graph, name: str, integers: NDArray[Any], scale: NDArray[np.float32], axis: int
) -> list[NodeProto]:
    """Store integers and compute their float values; the last node's output has them."""
    stored, kind = graph.constant(f"{name}.int", integers), integers.dtype
    nodes = []
    if kind == INT4:  # unpacked once, at load: integer kernels read 8 bits
        stored, kind = f"{name}.int8", np.dtype(np.int8)
        nodes.append(node_of("Cast", [f"{name}.int"], stored, to=TensorProto.INT8))
    factor = graph.constant(f"{name}.scale", scale)
    zero = graph.constant(f"{name}.zero", np.zeros(scale.shape, kind))
    nodes.append(node_of("DequantizeLinear", [stored, factor, zero], f"{name}.float", axis=axis))
    return nodes


def _insert_pairs(graph: Graph, sources: dict[str, str], parameters: dict[str, Uint8]) -> None:
    """Put a pair behind each chosen tensor and let all its readers read the pair's end."""
    pairs = {name: _pair(graph, name, sources[name], parameters[name]) for name in sources}
    nodes = [node for i in graph.inputs for node in pairs.get(i.name, ())]
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            if name in pairs:
                node.input[i] = pairs[name][1].output[0]
        nodes.append(node)
        nodes += [end for name in node.output for end in pairs.get(name, ())]
    graph.nodes = nodes


def _pair(graph: Graph, name: str, source: str, how: Uint8) -> tuple[NodeProto, NodeProto]:
    settings = [
        graph.constant(f"{source}.scale", how.scale),
        graph.constant(f"{source}.zero", how.zero),
    ]
    quantize = node_of("QuantizeLinear", [name, *settings], f"{name}.uint8")
    return quantize, node_of("DequantizeLinear", [f"{name}.uint8", *settings], f"{name}.float")
