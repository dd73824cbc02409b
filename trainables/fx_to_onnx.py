"""Write a traced CNN as ONNX nodes: milliseconds, where the official exporter takes seconds.

torch.fx gives the calls of the model in order. A layer is written by its function in
`onnx_layers.MODULES`; a functional call that equals a layer (`relu` and `nn.ReLU`) is turned into
that layer by `LAYERS`; what is left has its own function in `FUNCTIONS`. One more operator is one
function and one line. What no table has raises `UnknownOperatorError`: never a guess.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional
from torchvision.ops import stochastic_depth

from trainables.graph import Graph
from trainables.onnx_layers import MODULES, Call, UnknownOperatorError, Writer


def write(model: nn.Module, graph: Graph, image: str) -> str:
    """Add the nodes of a model in eval mode to the graph and give the name of its output.

    Raises:
        UnknownOperatorError: the tables lack an operator.
        Exception: whatever torch.fx raises for a model that it cannot trace.
    """
    modules = dict(model.named_modules())
    names: dict[fx.Node, Any] = {}
    for node in fx.Tracer().trace(model).nodes:
        if node.op == "output":
            return _only_tensor(fx.map_arg(node.args[0], names.__getitem__))
        if node.op == "placeholder":
            names[node] = _only_input(node, image) if names else image
        elif node.op == "get_attr":
            names[node] = _parameter(graph, node.target, operator.attrgetter(node.target)(model))
        else:
            module = modules[node.target] if node.op == "call_module" else None
            _refuse_overwriting(node, module)
            call = Call(
                name=f"/{node.name}",
                args=fx.map_arg(node.args, names.__getitem__),
                kwargs=fx.map_arg(node.kwargs, names.__getitem__),
                module=module,
                path=node.target if module is not None else "",
            )
            names[node] = _writer(node.target, call)(graph, call)
    raise UnknownOperatorError("a model without output")


def _only_tensor(output: Any) -> str:
    if not isinstance(output, str):
        raise UnknownOperatorError("an output that is not one tensor")
    return output


def _only_input(node: fx.Node, image: str) -> Any:
    if not node.args:
        raise UnknownOperatorError(f"a second input, {node.target}")
    return node.args[0]  # an optional argument: its default


def _parameter(graph: Graph, path: str, value: torch.Tensor) -> str:
    if value.dtype != torch.float32:
        raise UnknownOperatorError(f"a constant of type {value.dtype}")
    return graph.constant(path, value.detach().numpy())


def _refuse_overwriting(node: fx.Node, module: nn.Module | None) -> None:
    """Refuse `relu(x, inplace=True)` where x is read afterwards: ONNX tensors never change."""
    inplace = getattr(module, "inplace", False) or node.kwargs.get("inplace", False)
    method = node.op == "call_method" and str(node.target).endswith("_")
    if inplace or method or node.target in INPLACE_OPERATORS:
        overwritten = node.args[0]
        if isinstance(overwritten, fx.Node) and any(user > node for user in overwritten.users):
            raise UnknownOperatorError(f"{node.name} overwrites a tensor that is read again")


def _writer(target: Any, call: Call) -> Writer:
    if call.module is None and target in LAYERS:
        return _as_layer(LAYERS[target])
    kind = target if call.module is None else type(call.module)
    found = FUNCTIONS.get(kind) if call.module is None else MODULES.get(kind)
    if found is None:
        raise UnknownOperatorError(getattr(kind, "__name__", str(kind)))
    return found


def _as_layer(layer: Callable[..., nn.Module]) -> Writer:
    def write_layer(graph: Graph, call: Call) -> str:
        tensor, *settings = call.args
        module = layer(*settings, **call.kwargs)
        return MODULES[type(module)](graph, Call(call.name, (tensor,), {}, module))

    return write_layer


def _max_pool_layer(kernel_size: Any, *settings: Any, **named: Any) -> nn.Module:
    """Give the layer of `max_pool2d`, whose last two arguments come in the other order."""
    order = ("stride", "padding", "dilation", "ceil_mode", "return_indices")
    return nn.MaxPool2d(kernel_size, **dict(zip(order, settings, strict=False)), **named)


def _flatten_layer(start_dim: int = 0, end_dim: int = -1) -> nn.Module:
    return nn.Flatten(start_dim, end_dim)


def _dropout_layer(p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module:
    if training:
        raise UnknownOperatorError("a dropout that is also on when the model is used")
    return nn.Dropout(p)


LAYERS: dict[Any, Callable[..., nn.Module]] = {
    functional.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    functional.avg_pool2d: nn.AvgPool2d,
    functional.dropout: _dropout_layer,
    functional.gelu: nn.GELU,
    functional.hardsigmoid: nn.Hardsigmoid,
    functional.hardswish: nn.Hardswish,
    functional.max_pool2d: _max_pool_layer,
    functional.relu6: nn.ReLU6,
    functional.silu: nn.SiLU,
    torch.flatten: _flatten_layer,
    "flatten": _flatten_layer,
    **dict.fromkeys((functional.relu, torch.relu, "relu"), nn.ReLU),
    **dict.fromkeys((functional.sigmoid, torch.sigmoid, "sigmoid"), nn.Sigmoid),
    **dict.fromkeys((functional.tanh, torch.tanh, "tanh"), nn.Tanh),
}
"""Functional calls, and methods by name, that equal a layer made of their other arguments."""


INPLACE_OPERATORS = frozenset({operator.iadd, operator.imul, operator.isub, operator.itruediv})


def _binary(operator_name: str) -> Writer:
    def write_binary(graph: Graph, call: Call) -> str:
        plain = len(call.args) == 2 and not call.kwargs
        plain = plain and all(isinstance(a, str | int | float) for a in call.args)
        call.require(plain, f"{operator_name} with settings")
        inputs = [
            a if isinstance(a, str) else graph.constant(f"{call.name}.{i}", np.float32(a))
            for i, a in enumerate(call.args)
        ]
        return graph.add(operator_name, inputs, call.name)

    return write_binary


def _concat(graph: Graph, call: Call) -> str:
    tensors, *dim = call.args
    axis = dim[0] if dim else call.kwargs.get("dim", 0)
    return graph.add("Concat", list(tensors), call.name, axis=axis)


def _mean(graph: Graph, call: Call) -> str:
    dims = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    keepdim = call.args[2] if len(call.args) > 2 else call.kwargs.get("keepdim", False)
    spatial = isinstance(dims, list | tuple) and sorted(dims) in ([2, 3], [-2, -1])
    call.require(spatial, f"a mean over {dims}")
    if keepdim:
        return graph.add("GlobalAveragePool", [call.tensor], call.name)
    pooled = graph.add("GlobalAveragePool", [call.tensor], f"{call.name}.pool")
    return graph.add("Flatten", [pooled], call.name, axis=1)


class _Extent(Enum):
    """What `x.shape` and `x.shape[0]` stand for: good for nothing but a view that flattens."""

    SHAPE = "shape"
    BATCH = "batch"


def _size(graph: Graph, call: Call) -> _Extent:
    call.require(call.args[1:] in ((), (0,)), "a size other than the batch's")
    return _Extent.BATCH if call.args[1:] else _Extent.SHAPE


def _shape(graph: Graph, call: Call) -> _Extent:
    call.require(call.args[1:] == ("shape",), f"the attribute {call.args[1]} of a tensor")
    return _Extent.SHAPE


def _item(graph: Graph, call: Call) -> _Extent:
    call.require(call.args == (_Extent.SHAPE, 0), "an index into a tensor")
    return _Extent.BATCH


def _view(graph: Graph, call: Call) -> str:
    flattens = call.args[1:] == (_Extent.BATCH, -1)
    call.require(flattens, "a view that does more than flatten")
    return graph.add("Flatten", [call.tensor], call.name, axis=1)


def _stochastic_depth(graph: Graph, call: Call) -> str:
    training = call.args[3] if len(call.args) > 3 else call.kwargs.get("training", True)
    call.require(not training, "a stochastic depth that is also on when the model is used")
    return call.tensor


FUNCTIONS: dict[Any, Callable[[Graph, Call], Any]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _binary("Add")),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _binary("Mul")),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), _binary("Sub")),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div"), _binary("Div")),
    **dict.fromkeys((torch.cat, torch.concat), _concat),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys(("view", "reshape"), _view),
    "size": _size,
    getattr: _shape,
    operator.getitem: _item,
    stochastic_depth: _stochastic_depth,
}
"""The other functions, and methods by name."""
