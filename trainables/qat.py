"""Quantization-aware training: the float graph of the file, trained with the file's own rounding.

Where `quantize.py` will put scales, training rounds already: weights to `to_integers`' grid with
one learned scale per channel (LSQ, Esser et al. 2020, arXiv:1902.08153), activations to `Uint8` of
a range that follows what is seen. The scales and ranges then go into the file as they are, so that
the file answers like the network that was trained. Batch norm is folded before.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.calibrate import activation_ranges
from trainables.graph import Graph, fold_batch_norm
from trainables.graph_module import GraphModule
from trainables.qdq import Uint8, quantized_tensors
from trainables.weights import HIGHEST, Learned, along, layers, stored_bits, to_integers

MOMENTUM = 0.01
"""Share of a batch's range that enters the running range."""
LEAST_SCALE = 1e-9


class QuantizedModule(GraphModule):
    """A float graph that answers as if its weights and activations had few bits."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        *,
        weight_bits: int,
        activation_bits: int,
        calibration: NDArray[np.float32],
        method: str,
        parameters: int,
    ):
        graph = Graph.read(proto)
        fold_batch_norm(graph)
        super().__init__(graph)
        self.network_parameters = parameters
        """Of the network it stands for, norms included and scales not."""
        self.bits: dict[str, int] = {}
        self.scales = nn.ParameterDict()
        self._learn_scales(weight_bits)
        self.sources: dict[str, str] = {}
        """By quantized tensor, the one whose range it takes."""
        if activation_bits == 8:
            self._watch_ranges(proto, calibration, method)

    def _learn_scales(self, weight_bits: int) -> None:
        found = layers(self.graph)
        for layer, bits in zip(found, stored_bits(found, weight_bits), strict=True):
            weight = self.graph.array(layer.weight)
            _, scale = to_integers(weight, layer.axis, bits)
            self.bits[layer.weight] = bits
            shaped = along(scale, layer.axis, weight.ndim)
            # Flat, so that weight decay spares them as it does all vectors.
            # Of logarithms a step is relative, whatever the size of the weights.
            logarithms = torch.from_numpy(np.log(np.maximum(scale, LEAST_SCALE)))
            self.scales[self.places[layer.weight]] = nn.Parameter(logarithms)
            setattr(self, f"shape_{self.places[layer.weight]}", shaped.shape)

    def _watch_ranges(
        self, proto: onnx.ModelProto, calibration: NDArray[np.float32], method: str
    ) -> None:
        wanted = quantized_tensors(self.graph, layers(self.graph))
        folded = self.graph.proto()
        ranges = activation_ranges(
            folded, sorted(set(wanted.values())), calibration, method=method
        )
        self.sources = {name: source for name, source in wanted.items() if source in ranges}
        for i, source in enumerate(sorted(ranges)):
            self.places[f"{source} range"] = f"range{i}"
            self.register_buffer(f"range{i}", torch.tensor(ranges[source], dtype=torch.float64))

    # --- running ---------------------------------------------------------------------------

    def weight(self, name: str) -> Tensor:
        """Give a constant, a layer's weight on its grid."""
        value = self.constant(name)
        if name not in self.bits:
            return value
        place = self.places[name]
        scale = self._scale(place).view(getattr(self, f"shape_{place}"))
        highest = HIGHEST[self.bits[name]]
        shrink = 1 / math.sqrt(value.numel() / scale.numel() * highest)
        rounded: Tensor = _OnGrid.apply(value, scale, highest, shrink)
        return rounded

    def activation(self, name: str, value: Tensor) -> Tensor:
        """Give a tensor rounded where the file does."""
        source = self.sources.get(name)
        if source is None:
            return value
        seen = getattr(self, self.places[f"{source} range"])
        if self.training and source == name:
            with torch.no_grad():
                now = torch.stack([value.min().clamp(max=0), value.max().clamp(min=0)])
                seen.lerp_(now.to(seen), MOMENTUM)
        how = Uint8.of((float(seen[0]), float(seen[1])))
        return torch.fake_quantize_per_tensor_affine(
            value, float(how.scale), int(how.zero), 0, 255
        )

    def _scale(self, place: str) -> Tensor:
        return self.scales[place].exp()

    # --- what the file takes ---------------------------------------------------------------

    def learned(self) -> Learned:
        """Give the scales and ranges, for `quantize`."""
        scales = {
            name: self._scale(self.places[name]).detach().cpu().numpy() for name in self.bits
        }
        ranges = {}
        for source in set(self.sources.values()):
            low, high = getattr(self, self.places[f"{source} range"]).tolist()
            ranges[source] = (low, high)
        return Learned(scales, ranges)

    def masks(self) -> dict[str, Tensor]:
        """Give 0 and 1 by parameter name: what is 0 now has been pruned."""
        places = [self.places[name] for name in self.bits]
        return {place: (getattr(self, place) != 0).float() for place in places}


class _OnGrid(torch.autograd.Function):
    """Rounds to integers times a scale; gradients pass inside the grid, and reach the scale."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: Tensor, highest: int, shrink: float) -> Tensor:
        steps = value / scale
        ctx.save_for_backward(steps, scale)
        ctx.highest, ctx.shrink = highest, shrink
        return torch.clamp(torch.round(steps), -highest, highest) * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        steps, scale = ctx.saved_tensors
        inside = steps.abs() <= ctx.highest
        slope = torch.where(
            inside, torch.round(steps) - steps, torch.clamp(steps, -ctx.highest, ctx.highest)
        )
        by_scale = (gradient * slope).sum_to_size(scale.shape) * ctx.shrink
        return gradient * inside, by_scale, None, None
