"""How each layer of a CNN is written as ONNX: a function per kind of layer, a line in `MODULES`.

A function adds nodes for one call and gives the name of the result. Settings that ONNX could not
express exactly are refused, never approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.graph import Graph


class UnknownOperatorError(Exception):
    """The model calls something, or calls it in a way, that the tables do not know."""


@dataclass(frozen=True)
class Call:
    """One call of the traced model, its tensors replaced by their names in the graph."""

    name: str
    """Of the result."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    module: Any = None
    """The layer, if a layer is called."""
    path: str = ""
    """Of the layer in the model: names its weights."""

    @property
    def tensor(self) -> str:
        """Give the name of the first argument."""
        self.require(bool(self.args) and isinstance(self.args[0], str), "a call without a tensor")
        return str(self.args[0])

    def require(self, condition: bool, what: str) -> None:
        """Refuse a call whose settings the written operator could not express."""
        if not condition:
            raise UnknownOperatorError(what)


Writer = Callable[[Graph, Call], str]
"""Adds nodes for a call and gives the name of the result."""


def _conv(graph: Graph, call: Call) -> str:
    conv = call.module
    call.require(conv.padding_mode == "zeros", f"Conv2d with {conv.padding_mode} padding")
    return graph.add(
        "Conv",
        [call.tensor, *_weights(graph, call)],
        call.name,
        kernel_shape=list(conv.kernel_size),
        strides=list(conv.stride),
        pads=_conv_pads(conv),
        dilations=list(conv.dilation),
        group=conv.groups,
    )


def _conv_pads(conv: nn.Conv2d) -> list[int]:
    """Give ONNX's (top, left, bottom, right); `same` puts the odd pixel at the end, as torch."""
    if conv.padding == "valid":
        return [0, 0, 0, 0]
    if conv.padding == "same":
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return [t // 2 for t in total] + [t - t // 2 for t in total]
    return [*conv.padding, *conv.padding]


def _linear(graph: Graph, call: Call) -> str:
    return graph.add("Gemm", [call.tensor, *_weights(graph, call)], call.name, transB=1)


def _weights(graph: Graph, call: Call) -> list[str]:
    named = {"weight": call.module.weight, "bias": call.module.bias}
    return [
        graph.constant(f"{call.path}.{name}", value.detach().numpy())
        for name, value in named.items()
        if value is not None
    ]


def _batch_norm(graph: Graph, call: Call) -> str:
    norm = call.module
    call.require(norm.running_mean is not None, "batch norm without running statistics")
    ones = torch.ones(norm.num_features)
    values = {
        "weight": ones if norm.weight is None else norm.weight,
        "bias": torch.zeros(norm.num_features) if norm.bias is None else norm.bias,
        "mean": norm.running_mean,
        "variance": norm.running_var,
    }
    names = [graph.constant(f"{call.path}.{k}", v.detach().numpy()) for k, v in values.items()]
    return graph.add("BatchNormalization", [call.tensor, *names], call.name, epsilon=norm.eps)


def _max_pool(graph: Graph, call: Call) -> str:
    pool = call.module
    kernel, strides = _pair(pool.kernel_size), _pair(pool.stride)
    call.require(not pool.return_indices, "MaxPool2d that returns indices")
    # With windows that may start in the padding, torch and ONNX round up differently.
    safe = _pair(pool.padding) == [0, 0] and all(
        s <= k for s, k in zip(strides, kernel, strict=True)
    )
    call.require(safe or not pool.ceil_mode, "MaxPool2d with ceil_mode and padding")
    return graph.add(
        "MaxPool",
        [call.tensor],
        call.name,
        kernel_shape=kernel,
        strides=strides,
        pads=_pair(pool.padding) * 2,
        dilations=_pair(pool.dilation),
        ceil_mode=int(pool.ceil_mode),
    )


def _average_pool(graph: Graph, call: Call) -> str:
    pool = call.module
    plain = not pool.ceil_mode and pool.divisor_override is None
    call.require(plain, "AvgPool2d with ceil_mode or divisor_override")
    return graph.add(
        "AveragePool",
        [call.tensor],
        call.name,
        kernel_shape=_pair(pool.kernel_size),
        strides=_pair(pool.stride),
        pads=_pair(pool.padding) * 2,
        count_include_pad=int(pool.count_include_pad),
    )


def _global_pool(graph: Graph, call: Call) -> str:
    size = call.module.output_size
    call.require(_pair(size) == [1, 1], f"AdaptiveAvgPool2d to {size}")
    return graph.add("GlobalAveragePool", [call.tensor], call.name)


def _flatten(graph: Graph, call: Call) -> str:
    flatten = call.module
    whole = flatten.start_dim == 1 and flatten.end_dim == -1
    call.require(whole, f"Flatten from {flatten.start_dim} to {flatten.end_dim}")
    return graph.add("Flatten", [call.tensor], call.name, axis=1)


def _gelu(graph: Graph, call: Call) -> str:
    return graph.add("Gelu", [call.tensor], call.name, approximate=call.module.approximate)


def _silu(graph: Graph, call: Call) -> str:
    gate = graph.add("Sigmoid", [call.tensor], f"{call.name}.gate")
    return graph.add("Mul", [call.tensor, gate], call.name)


def _relu6(graph: Graph, call: Call) -> str:
    bounds = [graph.constant(f"/{n:g}", np.float32(n)) for n in (0.0, 6.0)]
    return graph.add("Clip", [call.tensor, *bounds], call.name)


def _softmax(graph: Graph, call: Call) -> str:
    call.require(call.module.dim is not None, "a softmax without dim")
    return graph.add(type(call.module).__name__, [call.tensor], call.name, axis=call.module.dim)


def plain(operator_name: str, **attributes: Any) -> Writer:
    """Write a layer as one operator with fixed attributes."""
    return lambda graph, call: graph.add(operator_name, [call.tensor], call.name, **attributes)


def same_tensor(graph: Graph, call: Call) -> str:
    """Write nothing: in eval mode the layer gives what it gets."""
    return call.tensor


MODULES: dict[type[nn.Module], Writer] = {
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.AvgPool2d: _average_pool,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Conv2d: _conv,
    nn.Dropout: same_tensor,
    nn.Dropout2d: same_tensor,
    nn.Flatten: _flatten,
    nn.GELU: _gelu,
    nn.Hardsigmoid: plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    nn.Hardswish: plain("HardSwish"),
    nn.Identity: same_tensor,
    nn.Linear: _linear,
    nn.LogSoftmax: _softmax,
    nn.MaxPool2d: _max_pool,
    nn.ReLU: plain("Relu"),
    nn.ReLU6: _relu6,
    nn.SiLU: _silu,
    nn.Sigmoid: plain("Sigmoid"),
    nn.Softmax: _softmax,
    nn.Tanh: plain("Tanh"),
}


def _pair(value: Any) -> list[int]:
    """Give (height, width) of a setting that torch lets be one number."""
    return [value, value] if isinstance(value, int) else list(value)
