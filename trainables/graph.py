"""An ONNX graph under the knife: its nodes in order, its constants by name.

Export writes one, quantization rewrites one. Every tensor name stands for one value, so an edit is
"make a new name, let its readers read that".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from trainables.errors import ExportError

OPSET = 21
"""First operator set with 4-bit integers that `Cast` and `DequantizeLinear` read."""
IR_VERSION = 10
"""File format that came with opset 21; newer ones are refused by older runtimes."""


@dataclass
class Graph:
    """Nodes, constants, inputs and outputs of one model."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    """Constants, as they are stored in the file."""
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    opsets: list[onnx.OperatorSetIdProto] = field(default_factory=list)

    @classmethod
    def read(cls, proto: onnx.ModelProto) -> Graph:
        """Copy a model apart; Constant nodes become constants, Identity nodes vanish.

        Raises:
            ExportError: its operator set is older than 21, or it has functions or branches.
        """
        opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
        if opset < OPSET:
            raise ExportError(f"needs an ONNX graph of opset {OPSET} or newer, got opset {opset}")
        nested = {n.op_type for n in proto.graph.node if any(a.HasField("g") for a in n.attribute)}
        nested |= {function.name for function in proto.functions}
        if nested:
            raise ExportError(
                f"needs an ONNX graph without parts of its own, got {sorted(nested)}"
            )
        constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        graph = cls(
            tensors=constants,
            inputs=[i for i in proto.graph.input if i.name not in constants],
            outputs=list(proto.graph.output),
            opsets=list(proto.opset_import),
        )
        for node in proto.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            graph.nodes.append(copy)
        _constants_apart(graph)
        _drop_identities(graph)
        return graph

    def proto(self) -> onnx.ModelProto:
        """Put the model together again."""
        self.drop_unread()
        graph = helper.make_graph(
            self.nodes, "model", self.inputs, self.outputs, list(self.tensors.values())
        )
        opsets = self.opsets or [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="paretune"
        )

    # --- reading -------------------------------------------------------------------------------

    def array(self, name: str) -> NDArray[Any]:
        """Give the value of a constant."""
        return np.asarray(numpy_helper.to_array(self.tensors[name]))

    def is_float(self, name: str) -> bool:
        """Tell whether the name is a float32 constant."""
        tensor = self.tensors.get(name)
        return tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT

    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """Give for each tensor the nodes that read it."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                found[name].append(node)
        return found

    def writers(self) -> dict[str, onnx.NodeProto]:
        """Give for each tensor the node that computes it."""
        return {name: node for node in self.nodes for name in node.output}

    def output_names(self) -> set[str]:
        """Give the names of the model's outputs."""
        return {output.name for output in self.outputs}

    # --- editing -------------------------------------------------------------------------------

    def constant(self, name: str, value: ArrayLike) -> str:
        """Store a constant and give its name."""
        self.tensors[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node with one output and give the output's name."""
        self.nodes.append(node_of(operator, inputs, output, **attributes))
        return output

    def rename(self, old: str, new: str) -> None:
        """Give a tensor another name, wherever it stands."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new

    def drop_unread(self) -> None:
        """Drop the constants that nobody reads."""
        read = {name for node in self.nodes for name in node.input} | self.output_names()
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in read}


def node_of(
    operator: str, inputs: Iterable[str], output: str, **attributes: Any
) -> onnx.NodeProto:
    """Make a node that is named after its one output."""
    return helper.make_node(operator, list(inputs), [output], name=output, **attributes)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Give an attribute of a node, or the default that the operator has without it."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def fold_batch_norm(graph: Graph) -> None:
    """Multiply each batch norm into the convolution or linear layer that alone feeds it.

    With scale g, shift b, mean m and variance v, g * (w * x - m) / sqrt(v + eps) + b is the same
    layer with weights w * k and bias b - m * k, where k = g / sqrt(v + eps).
    """
    readers, writers = graph.readers(), graph.writers()
    for norm in [node for node in graph.nodes if node.op_type == "BatchNormalization"]:
        layer = writers.get(norm.input[0])
        if layer is None or len(readers[norm.input[0]]) != 1 or not _foldable(graph, layer, norm):
            continue
        scale, shift, mean, variance = (
            graph.array(name).astype(np.float64) for name in norm.input[1:5]
        )
        factor = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
        weight = graph.array(layer.input[1])
        bias = graph.array(layer.input[2]) if len(layer.input) > 2 else 0.0
        bias = shift + (bias - mean) * factor
        by_row = factor.astype(np.float32).reshape(-1, *[1] * (weight.ndim - 1))
        name = layer.input[1]
        if len(readers[name]) > 1:  # other layers share the weights
            name += norm.output[0]
        weights = graph.constant(name, weight * by_row)
        biases = graph.constant(f"{name}.bias", bias.astype(np.float32))
        layer.input[:] = [layer.input[0], weights, biases]
        layer.output[0] = norm.output[0]
        graph.nodes.remove(norm)
    graph.drop_unread()


def _foldable(graph: Graph, layer: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
    by_row = layer.op_type == "Conv" or (
        layer.op_type == "Gemm"
        and attribute(layer, "transB", 0) == 1
        and attribute(layer, "alpha", 1.0) == attribute(layer, "beta", 1.0) == 1.0
    )
    constants = [*layer.input[1:], *norm.input[1:]]
    return by_row and all(graph.is_float(name) for name in constants)


def _constants_apart(graph: Graph) -> None:
    for node in [n for n in graph.nodes if n.op_type == "Constant" and n.attribute]:
        if node.attribute[0].name == "value":
            graph.constant(node.output[0], numpy_helper.to_array(node.attribute[0].t))
            graph.nodes.remove(node)


def _drop_identities(graph: Graph) -> None:
    outputs = graph.output_names()
    for node in [n for n in graph.nodes if n.op_type == "Identity"]:
        if node.output[0] not in outputs:
            graph.nodes.remove(node)
            graph.rename(node.output[0], node.input[0])
