"""Which channels or weights are weak: one scoring function per criterion.

`l1`, `l2`: norm of all weights that go with a channel. `taylor`: |weight * gradient| on training
images, the first-order change of the loss (Molchanov et al. 2019, arXiv:1906.10771). `bn_scale`:
the factor of the batch norm behind (Liu et al. 2017, arXiv:1708.06519), or l2 where there is none.
`random`: the baseline that the others must beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_pruning.dependency import Group
from torch_pruning.pruner.importance import GroupMagnitudeImportance, GroupTaylorImportance

TAYLOR_BATCH = 64


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


ChannelScore = Callable[[Group, torch.Generator], Tensor]
"""Scores the c channels of a group of coupled layers, (c,); their mean is 1."""


def _magnitude(p: int) -> ChannelScore:
    score = GroupMagnitudeImportance(p=p)
    return lambda group, generator: score(group)


def _taylor(group: Group, generator: torch.Generator) -> Tensor:
    scores = GroupTaylorImportance()(group)
    return torch.nan_to_num(scores, nan=1.0)  # all gradients 0: all channels equal


def _bn_scale(group: Group, generator: torch.Generator) -> Tensor:
    norms = [d.target.module for d, _ in group if isinstance(d.target.module, nn.BatchNorm2d)]
    width = len(group[0].idxs)
    scales = [n.weight.detach().abs() for n in norms if n.affine and len(n.weight) == width]
    if not scales:
        return GroupMagnitudeImportance(p=2)(group)
    mean = torch.stack(scales).mean(0)
    return mean / mean.mean().clamp(min=1e-12)


def _random(group: Group, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(len(group[0].idxs), generator=generator)


CHANNEL_SCORES: dict[str, ChannelScore] = {
    "l1": _magnitude(1),
    "l2": _magnitude(2),
    "taylor": _taylor,
    "bn_scale": _bn_scale,
    "random": _random,
}


def weight_scores(weight: Tensor, criterion: str, generator: torch.Generator) -> Tensor:
    """Score single weights: their size, or |weight * gradient|; same shape.

    Every norm of one weight is its size.
    """
    if criterion == "random":
        return torch.rand(weight.shape, generator=generator).to(weight.device)
    if criterion == "taylor" and weight.grad is not None:
        return (weight * weight.grad).abs().detach()
    return weight.detach().abs()


@contextmanager
def gradients(model: nn.Module, look: Look | None, criterion: str) -> Iterator[None]:
    """Hold the gradients that a criterion asks for, in eval mode; afterwards there are none."""
    if criterion != "taylor" or look is None:
        yield
        return
    model.zero_grad()
    for images, labels in zip(
        look.images.split(TAYLOR_BATCH), look.labels.split(TAYLOR_BATCH), strict=True
    ):
        functional.cross_entropy(model(images), labels, reduction="sum").backward()
    try:
        yield
    finally:
        model.zero_grad()
