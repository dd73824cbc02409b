"""Unstructured pruning: single weights of convolutions and linear layers become 0.

The file keeps its size as stored and shrinks when deflated; a dense runtime computes as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainables.errors import PruningError
from trainables.importance import Look, loss_changes, weight_scores
from trainables.sensitivity import Curves, allocate, measure_curves

Masks = dict[str, Tensor]
"""0 and 1 by parameter name, in the parameter's shape and type."""


def prune_weights(
    model: nn.Module,
    ratio: float,
    *,
    criterion: str = "l2",
    scope: str = "uniform",
    look: Look | None = None,
    curves: Curves | None = None,
) -> tuple[Masks, Curves]:
    """Zero the weakest share of all weights, in place; give the masks and sensitivity curves.

    Args:
        model: Any; biases and norms keep everything.
        ratio: Share of the weights zeroed, in [0, 1).
        criterion: `l2` by size, `taylor` by what the loss makes of them, or `random`.
        scope: `uniform` in every layer, `global` over all, or `sensitivity`.
        look: Images for `taylor` and `sensitivity`.
        curves: Known from an earlier call on this network.

    Raises:
        PruningError: the model has no such layers, or there are no images to look at.
    """
    weights = {
        f"{name}.weight": layer.weight
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    if not weights:
        raise PruningError("weight pruning found no convolution and no linear layer")
    modes = {layer: layer.training for layer in model.modules()}
    model.eval()
    generator = torch.Generator().manual_seed(look.seed if look else 0)
    changes = loss_changes(model, look, criterion)
    scores = {n: weight_scores(w, criterion, generator, changes) for n, w in weights.items()}
    curves = curves or {}
    if scope == "sensitivity" and not curves:
        curves = _curves(model, weights, scores, look)
    for layer, training in modes.items():
        layer.training = training
    masks = _masks(scores, _ratios(scores, ratio, scope, curves))
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(masks[name])
    return masks, curves


def _ratios(
    scores: Mapping[str, Tensor], ratio: float, scope: str, curves: Curves
) -> Mapping[str, float]:
    if scope == "uniform":
        return dict.fromkeys(scores, ratio)
    total = sum(s.numel() for s in scores.values())
    if scope == "sensitivity":
        target = round(total * (1 - ratio))
        return allocate(curves, lambda ratios: _left(scores, ratios), target)
    every = torch.cat([s.flatten() for s in scores.values()])
    order = every.argsort(stable=True)[: round(total * ratio)]
    gone = torch.zeros(total, device=every.device).index_fill_(0, order, 1.0)
    parts = gone.split([s.numel() for s in scores.values()])
    return {name: float(part.mean()) for name, part in zip(scores, parts, strict=True)}


def _left(scores: Mapping[str, Tensor], ratios: Mapping[str, float]) -> int:
    return sum(s.numel() - round(s.numel() * ratios[n]) for n, s in scores.items())


def _masks(scores: Mapping[str, Tensor], ratios: Mapping[str, float]) -> Masks:
    masks = {}
    for name, score in scores.items():
        weakest = score.flatten().argsort(stable=True)[: round(score.numel() * ratios[name])]
        mask = torch.ones(score.numel(), device=score.device)
        masks[name] = mask.index_fill_(0, weakest, 0.0).view_as(score)
    return masks


def _curves(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
    look: Look | None,
) -> Curves:
    if look is None:
        raise PruningError("sensitivity needs images to look at")

    @contextmanager
    def without(name: str, ratio: float) -> Iterator[None]:
        saved = weights[name].detach().clone()
        with torch.no_grad():
            weights[name].mul_(_masks({name: scores[name]}, {name: ratio})[name])
        yield
        with torch.no_grad():
            weights[name].copy_(saved)

    return measure_curves(list(weights), without, lambda: look.accuracy(model))
