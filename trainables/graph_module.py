"""An ONNX graph as a torch module: the file itself, to be trained on, traced or written otherwise.

One function per operator; what the table lacks raises `ExportError`, never a guess. Constants of
float layers are parameters, so that gradients reach what the file stores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional

from trainables.errors import ExportError
from trainables.graph import Graph

Value = Tensor | None
Operator = Callable[[list[Any], dict[str, Any]], Tensor]
"""Takes the inputs of a node (None where one is left out) and its attributes."""


class GraphModule(nn.Module):
    """Runs the nodes of a graph with one input and one output, in order."""

    def __init__(self, graph: Graph):
        super().__init__()
        self.graph = graph
        unknown = {node.op_type for node in graph.nodes} - OPERATORS.keys()
        if unknown:
            raise ExportError(
                f"no torch form of {', '.join(sorted(unknown))}; known: {', '.join(OPERATORS)}"
            )
        self.attributes = [_attributes(node) for node in graph.nodes]
        self.places: dict[str, str] = {}
        """Attribute of the module by name of the constant."""
        self.lists: dict[str, list[int]] = {}
        """Shapes and axes, by name of the constant."""
        for i, name in enumerate(graph.tensors):
            value = _tensor(graph.array(name))
            if value.dtype == torch.int64:
                self.lists[name] = value.tolist()
                continue
            self.places[name] = f"constant{i}"
            if value.is_floating_point() and value.ndim:
                self.register_parameter(f"constant{i}", nn.Parameter(value))
            else:
                self.register_buffer(f"constant{i}", value)

    def constant(self, name: str) -> Tensor:
        """Give the constant of a name, as the graph calls it."""
        value: Tensor = getattr(self, self.places[name])
        return value

    def forward(self, images: Tensor) -> Tensor:
        """Give what the file would: (n, classes)."""
        weights = {name: self.weight(name) for name in self.places if name in self.graph.tensors}
        values: dict[str, Any] = self.lists | weights
        values[self.graph.inputs[0].name] = self.activation(self.graph.inputs[0].name, images)
        for node, attributes in zip(self.graph.nodes, self.attributes, strict=True):
            inputs = [values[name] if name else None for name in node.input]
            result = OPERATORS[node.op_type](inputs, attributes)
            values[node.output[0]] = self.activation(node.output[0], result)
        answer: Tensor = values[self.graph.outputs[0].name]
        return answer

    def weight(self, name: str) -> Tensor:
        """Give a constant as the nodes read it."""
        return self.constant(name)

    def activation(self, name: str, value: Tensor) -> Tensor:
        """Give a computed tensor as its readers read it."""
        return value

    def proto(self) -> onnx.ModelProto:
        """Write the graph with the parameters as they are now."""
        for name, place in self.places.items():
            value = getattr(self, place)
            if isinstance(value, nn.Parameter):
                self.graph.constant(name, value.detach().cpu().numpy())
        return self.graph.proto()


def _tensor(value: np.ndarray) -> Tensor:
    if value.dtype.kind == "V" or value.dtype.name in ("int4", "uint4"):  # of ml_dtypes
        value = value.astype(np.int8)
    return torch.from_numpy(np.array(value))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


# --- operators -----------------------------------------------------------------------------------


def _padded(x: Tensor, pads: list[int], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """Give the padding that torch takes itself; where sides differ, pad before."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return x, [top, left]
    return functional.pad(x, (left, right, top, bottom), value=value), [0, 0]


def _conv(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    x, padding = _padded(inputs[0], a.get("pads", [0] * 4))
    bias = inputs[2] if len(inputs) > 2 else None
    strides, dilations = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
    return functional.conv2d(x, inputs[1], bias, strides, padding, dilations, a.get("group", 1))


def _gemm(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    x, weight = inputs[:2]
    x = x.T if a.get("transA", 0) else x
    weight = weight.T if a.get("transB", 0) else weight
    product = a.get("alpha", 1.0) * (x @ weight)
    return product + a.get("beta", 1.0) * inputs[2] if len(inputs) > 2 else product


def _max_pool(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    x, padding = _padded(inputs[0], a.get("pads", [0] * 4), -torch.inf)
    return functional.max_pool2d(
        x, a["kernel_shape"], a.get("strides", [1, 1]), padding, a.get("dilations", [1, 1]),
        ceil_mode=bool(a.get("ceil_mode", 0)),
    )  # fmt: skip


def _average_pool(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    top, left, *rest = a.get("pads", [0] * 4)
    if [top, left] != rest:
        raise ExportError("no torch form of an average over unequal padding")
    return functional.avg_pool2d(
        inputs[0], a["kernel_shape"], a.get("strides", [1, 1]), [top, left],
        bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0)),
    )  # fmt: skip


def _flatten(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    if a.get("axis", 1) != 1:
        raise ExportError(f"no torch form of Flatten at axis {a['axis']}")
    return inputs[0].flatten(1)


def _reshape(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    x, shape = inputs
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape)])


def _reduce_mean(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    axes = inputs[1] if len(inputs) > 1 else a["axes"]
    return inputs[0].mean(axes, keepdim=bool(a.get("keepdims", 1)))


def _clip(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    low, high = ([*inputs[1:], None, None])[:2]
    return torch.clamp(inputs[0], low, high)


def _along(value: Tensor, axis: int, ndim: int) -> Tensor:
    return (
        value.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])
        if value.ndim
        else value
    )


def _quantize(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    x, scale, zero = inputs
    axis = a.get("axis", 1)
    zero = _along(zero, axis, x.ndim)
    limits = torch.iinfo(zero.dtype)
    steps = torch.round(x / _along(scale, axis, x.ndim)) + zero
    return torch.clamp(steps, limits.min, limits.max)


def _dequantize(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    x, scale, *zero = inputs
    axis = a.get("axis", 1)
    x = x.float() - _along(zero[0].float(), axis, x.ndim) if zero else x.float()
    return x * _along(scale, axis, x.ndim)


_TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.INT8: torch.int8,
}


def _cast(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    return inputs[0].to(_TYPES[a["to"]])


def _gelu(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    kind = a.get("approximate", b"none")
    return functional.gelu(inputs[0], approximate=kind.decode())


def _hard_sigmoid(inputs: list[Any], a: dict[str, Any]) -> Tensor:
    return torch.clamp(a.get("alpha", 0.2) * inputs[0] + a.get("beta", 0.5), 0, 1)


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda inputs, attributes: function(inputs[0])


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda inputs, attributes: function(inputs[0], inputs[1])


OPERATORS: dict[str, Operator] = {
    "Add": _binary(torch.add),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda inputs, a: torch.cat(inputs, a["axis"]),
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Div": _binary(torch.div),
    "Flatten": _flatten,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _unary(lambda x: x.mean((2, 3), keepdim=True)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "Identity": _unary(lambda x: x),
    "LogSoftmax": lambda inputs, a: functional.log_softmax(inputs[0], a.get("axis", -1)),
    "MatMul": _binary(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _binary(torch.mul),
    "QuantizeLinear": _quantize,
    "ReduceMean": _reduce_mean,
    "Relu": _unary(functional.relu),
    "Reshape": _reshape,
    "Sigmoid": _unary(torch.sigmoid),
    "Softmax": lambda inputs, a: functional.softmax(inputs[0], a.get("axis", -1)),
    "Sub": _binary(torch.sub),
    "Tanh": _unary(torch.tanh),
    "Transpose": lambda inputs, a: inputs[0].permute(a["perm"]),
}
