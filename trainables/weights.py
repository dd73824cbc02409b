"""The layers with weights in an ONNX graph, and their weights as small integers.

Symmetric, one scale per output channel: w is about q * scale, q in [-127, 127] or [-7, 7].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from trainables.graph import Graph, attribute

INT4 = helper.tensor_dtype_to_np_dtype(TensorProto.INT4)
HIGHEST = {8: 127, 4: 7}
"""Largest integer by bits; the one negative value more is left out, so that 0 is the middle."""
CLIPPING = tuple(np.linspace(1.0, 0.5, 11))
"""Shares of a channel's largest weight at which 4-bit weights may be clipped."""
CHUNK = 1 << 15
"""Weights handled at once: 128 kB of float32 stay in the cache through the search."""


@dataclass(frozen=True)
class Learned:
    """What quantization-aware training has found, to be taken as it is."""

    scales: dict[str, NDArray[np.float32]]
    """(c,) by name of the weights."""
    ranges: dict[str, tuple[float, float]]
    """Lowest and highest value by name of the tensor."""


@dataclass(frozen=True)
class Layer:
    """One node with constant weights: convolution, or matrix product."""

    node: onnx.NodeProto
    axis: int
    """Of the weights' output channels."""

    @property
    def input(self) -> str:
        """Give the name of the tensor that the layer reads."""
        return str(self.node.input[0])

    @property
    def weight(self) -> str:
        """Give the name of the weights."""
        return str(self.node.input[1])

    @property
    def bias(self) -> str | None:
        """Give the name of the bias, None without one."""
        return str(self.node.input[2]) if len(self.node.input) > 2 else None


def layers(graph: Graph) -> list[Layer]:
    """Give the layers with constant float32 weights, in the order they run."""
    found = (_layer(graph, node) for node in graph.nodes)
    return [layer for layer in found if layer is not None]


def _layer(graph: Graph, node: onnx.NodeProto) -> Layer | None:
    if len(node.input) < 2 or not graph.is_float(node.input[1]):
        return None
    if len(node.input) > 2 and node.input[2] and not graph.is_float(node.input[2]):
        return None
    if node.op_type == "Conv":
        return Layer(node, 0)
    scaled = attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
    if node.op_type == "Gemm" and not scaled and not attribute(node, "transA", 0):
        return Layer(node, 0 if attribute(node, "transB", 0) else 1)
    if node.op_type == "MatMul" and len(graph.tensors[node.input[1]].dims) == 2:
        return Layer(node, 1)
    return None


def stored_bits(found: list[Layer], bits: int) -> list[int]:
    """Give the bits of each layer: with 4, the first and the last keep 8.

    They see the pixels and give the classes; they are few weights and lose the most accuracy.
    """
    if bits != 4:
        return [bits] * len(found)
    ends = {0, len(found) - 1}
    return [8 if i in ends else 4 for i in range(len(found))]


def to_integers(
    weight: NDArray[np.float32],
    axis: int,
    bits: int,
    least: NDArray[np.float32] | float = 0.0,
    scale: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """Give the weights as integers of 8 or 4 bits, same shape, and the scale of each channel.

    Args:
        weight: Float weights.
        axis: Of the c output channels.
        bits: 8 scales a channel's largest weight to 127; 4 searches for the clipping with the
            least squared error.
        least: Smallest scale allowed, one or (c,).
        scale: Of each channel (c,), where it is known already.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    highest = HIGHEST[bits]
    if scale is None:
        scale = _largest(rows) / highest if bits == 8 else _least_error_scale(rows, highest)
    scale = np.maximum(scale, least).astype(np.float32)
    integers = np.clip(np.rint(weight / along(scale, axis, weight.ndim)), -highest, highest)
    return integers.astype(np.int8 if bits == 8 else INT4), scale


def along(values: NDArray[np.float32], axis: int, ndim: int) -> NDArray[np.float32]:
    """Shape one value per channel so that it multiplies weights of `ndim` axes."""
    return values.reshape([-1 if i == axis else 1 for i in range(ndim)])


def _largest(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    return np.where(largest > 0, largest, 1.0).astype(np.float32)  # a channel of zeros


def _least_error_scale(rows: NDArray[np.float32], highest: int) -> NDArray[np.float32]:
    step = max(1, CHUNK // rows.shape[1])
    chunks = (rows[start : start + step] for start in range(0, len(rows), step))
    return np.concatenate([_search_clipping(chunk, highest) for chunk in chunks])


def _search_clipping(rows: NDArray[np.float32], highest: int) -> NDArray[np.float32]:
    largest = _largest(rows)
    best_scale, best_error = np.empty_like(largest), np.full(len(rows), np.inf)
    buffer = np.empty_like(rows, order="C")
    for share in CLIPPING:
        scale = (largest * share / highest).astype(np.float32)
        np.divide(rows, scale[:, None], out=buffer)
        np.rint(buffer, out=buffer)
        np.clip(buffer, -highest, highest, out=buffer)
        buffer *= scale[:, None]
        buffer -= rows
        error = np.einsum("ij,ij->i", buffer, buffer)
        better = error < best_error
        best_scale[better], best_error[better] = scale[better], error[better]
    return best_scale
