"""Which channels or weights are weak: one scoring function per criterion.

`l1`, `l2`: norm of all weights that go with a channel. `taylor`: the squared first-order change of
the loss without it, averaged over small batches of training images, at the batch norm where there
is one (Molchanov et al. 2019, arXiv:1906.10771). `bn_scale`:
the factor of the batch norm behind (Liu et al. 2017, arXiv:1708.06519), or l2 where there is none.
`random`: the baseline that the others must beat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_pruning.dependency import Group
from torch_pruning.pruner.importance import GroupMagnitudeImportance

TAYLOR_BATCH = 8
"""Images per gradient: the mean over many says nothing, as training has brought it to 0."""


@dataclass(frozen=True)
class Look:
    """What pruning may look at, on the model's device. Without images only shapes are found."""

    images: Tensor
    """(b, c, h, w), training images, for `taylor`."""
    labels: Tensor
    """(b,)"""
    accuracy: Callable[[nn.Module], float]
    """On a few validation images, for `sensitivity`."""
    seed: int = 0
    """For `random`."""


@dataclass
class Changes:
    """Squared first-order changes of the loss, summed over batches; empty unless asked for."""

    channels: dict[nn.Module, Tensor] = field(default_factory=dict)
    """(outputs,) by layer."""
    weights: dict[Tensor, Tensor] = field(default_factory=dict)
    """In the weight's own shape."""


ChannelScore = Callable[[Group, torch.Generator, Changes], Tensor]
"""Scores the c channels of a group of coupled layers, (c,); their mean is 1."""


def _magnitude(p: int) -> ChannelScore:
    score = GroupMagnitudeImportance(p=p)
    return lambda group, generator, changes: score(group)


def _taylor(group: Group, generator: torch.Generator, changes: Changes) -> Tensor:
    layers = [dep.target.module for dep, _ in group if dep.target.module in changes.channels]
    norms = [m for m in layers if isinstance(m, nn.BatchNorm2d)] or [group[0].dep.target.module]
    total = torch.stack([changes.channels[norm] for norm in norms]).sum(0)
    return total / total.mean().clamp(min=1e-30)


def _bn_scale(group: Group, generator: torch.Generator, changes: Changes) -> Tensor:
    norms = [d.target.module for d, _ in group if isinstance(d.target.module, nn.BatchNorm2d)]
    width = len(group[0].idxs)
    scales = [n.weight.detach().abs() for n in norms if n.affine and len(n.weight) == width]
    if not scales:
        return GroupMagnitudeImportance(p=2)(group)
    mean = torch.stack(scales).mean(0)
    return mean / mean.mean().clamp(min=1e-12)


def _random(group: Group, generator: torch.Generator, changes: Changes) -> Tensor:
    return 2 * torch.rand(len(group[0].idxs), generator=generator)


CHANNEL_SCORES: dict[str, ChannelScore] = {
    "l1": _magnitude(1),
    "l2": _magnitude(2),
    "taylor": _taylor,
    "bn_scale": _bn_scale,
    "random": _random,
}


def weight_scores(
    weight: Tensor, criterion: str, generator: torch.Generator, changes: Changes
) -> Tensor:
    """Score single weights: their size, or what the loss makes of them; same shape.

    Every norm of one weight is its size.
    """
    if criterion == "random":
        return torch.rand(weight.shape, generator=generator).to(weight.device)
    if criterion == "taylor" and weight in changes.weights:
        return changes.weights[weight]
    return weight.detach().abs()


def loss_changes(model: nn.Module, look: Look | None, criterion: str) -> Changes:
    """Measure what a criterion asks for, in eval mode; gradients are gone afterwards."""
    changes = Changes()
    if criterion != "taylor" or look is None:
        return changes
    layers = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    batches = zip(look.images.split(TAYLOR_BATCH), look.labels.split(TAYLOR_BATCH), strict=True)
    for images, labels in batches:
        model.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        for layer in layers:
            _add_changes(layer, changes)
    model.zero_grad()
    return changes


@torch.no_grad()
def _add_changes(layer: nn.Module, changes: Changes) -> None:
    """Add the change without each output channel, and without each weight, of one batch."""
    channels = []
    for parameter in layer.parameters(recurse=False):
        if parameter.grad is None or not parameter.ndim:
            continue
        product = parameter * parameter.grad
        channels.append(product.flatten(1).sum(1) if product.ndim > 1 else product)
        if product.ndim > 1:
            known = changes.weights.get(parameter, 0.0)
            changes.weights[parameter] = known + product.square()
    if channels and all(c.shape == channels[0].shape for c in channels):
        known = changes.channels.get(layer, 0.0)
        changes.channels[layer] = known + torch.stack(channels).sum(0).square()
