"""Structured pruning: whole filters leave the network, which is smaller and faster by itself.

A filter cannot go alone: the batch norm behind it, the layers that read it and every layer added
to it lose the same channel. torch-pruning finds these groups (Fang et al. 2023, arXiv:2301.12900);
how many channels of each group stay is decided here, exactly, and does not depend on the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning.dependency import Group
from torch_pruning.ops import OPTYPE
from torch_pruning.pruner.importance import GroupMagnitudeImportance

from trainables.config import ROUND_TO, kept_channels
from trainables.errors import PruningError


@dataclass
class Pruning:
    """What pruning removed."""

    parameters_before: int
    parameters_after: int
    layers: dict[str, tuple[int, int]]
    """Channels before and after, of every convolution that lost some."""


def prune_filters(
    model: nn.Module, ratio: float, *, example: Tensor, round_to: int = ROUND_TO
) -> Pruning:
    """Remove the filters of least L2 norm from every convolution, in place.

    Every group of coupled convolutions keeps `kept_channels(width, ratio, round_to)` of its
    channels. Linear layers only lose inputs, and what gives the scores keeps its outputs. Random
    generators and training modes stay as they are; an optimiser must be built anew.

    Args:
        model: with gradients on for all convolutions (the graph is found by automatic
            differentiation).
        ratio: share of the channels removed, in [0, 1).
        example: images (b, c, h, w) on the model's device.
        round_to: kept widths are multiples of this.

    Raises:
        PruningError: the model cannot be pruned this way, or was not as asked.
    """
    widths = _widths(model)
    parameters = _count(model)
    if ratio == 0:
        return Pruning(parameters, parameters, {})
    _check_traceable(model)
    modes = {layer: layer.training for layer in model.modules()}
    try:
        with torch.no_grad():
            shape = model.eval()(example).shape
        kept = _prune(model, ratio, example, round_to)
        with torch.no_grad():
            scores = model(example)
    except PruningError:
        raise
    except Exception as error:  # tracing runs foreign code, and fails in many ways
        raise PruningError(
            f"filter pruning cannot handle this {type(model).__name__}: {error!r};"
            " take pruning_method none, or another model"
        ) from error
    finally:
        for layer, training in modes.items():
            layer.training = training
    after = _widths(model)
    layers = {name: (w, after[name]) for name, w in widths.items() if after[name] != w}
    pruning = Pruning(parameters, _count(model), layers)
    _check_result(pruning, widths, kept, ratio, round_to)
    if scores.shape != shape:
        raise PruningError(f"pruning changed the scores from {tuple(shape)} to {scores.shape}")
    return pruning


PRUNING: dict[str, Callable[..., Pruning]] = {
    "filter": prune_filters,
}


def _prune(model: nn.Module, ratio: float, example: Tensor, round_to: int) -> dict[str, int]:
    """Remove filters; give the channels that were to stay, by name of each group's root."""
    graph = torch_pruning.DependencyGraph()
    # A list, because a bare tensor would be unpacked into single images without a batch.
    graph.build_dependency(model, [example], verbose=False)
    score = GroupMagnitudeImportance(p=2)
    names = {layer: name for name, layer in model.named_modules()}
    missed = [
        n for m, n in names.items() if isinstance(m, nn.Conv2d) and m not in graph.module2node
    ]
    if missed:
        raise PruningError(f"no gradient flows from the scores back to {', '.join(missed)}")
    plans = []
    # All scores first: they are those of the whole network, not of one half pruned.
    for group in list(graph.get_all_groups(root_module_types=[nn.Conv2d])):
        if any(dep.target.type == OPTYPE.OUTPUT for dep, _ in group):
            continue  # these channels are the scores
        root, function = group[0].dep.target.module, group[0].dep.handler
        blocks = _blocks(group)
        keep = kept_channels(root.out_channels, ratio, math.lcm(round_to, blocks))
        plans.append((root, function, _weakest(score(group), keep, blocks), keep))
    for root, function, indices, _ in plans:
        if indices:
            graph.get_pruning_group(root, function, indices).prune()
    return {names[root]: keep for root, _, _, keep in plans}


def _blocks(group: Group) -> int:
    """Give in how many blocks, all of the same width, the channels of a group are cut.

    A grouped convolution cuts them; a depthwise one does not, it only loses blocks.
    """
    cuts = {1}
    for dep, _ in group:
        layer = dep.target.module
        if isinstance(layer, nn.Conv2d) and layer.groups != layer.out_channels:
            cuts.add(layer.groups)
        if isinstance(layer, nn.GroupNorm):
            cuts.add(layer.num_groups)
    return math.lcm(*cuts)


def _weakest(scores: Tensor, keep: int, blocks: int) -> list[int]:
    """Give the channels to remove, the same places in every block of channels."""
    per_block = scores.view(blocks, -1).mean(0)
    width = len(per_block)
    places = per_block.argsort(stable=True)[: width - keep // blocks]
    return sorted((places + width * torch.arange(blocks)[:, None]).flatten().tolist())


def _check_traceable(model: nn.Module) -> None:
    if not torch.is_grad_enabled():
        raise PruningError("filter pruning needs gradients: call it outside of torch.no_grad")
    frozen = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and not layer.weight.requires_grad
    ]
    if frozen:
        raise PruningError(
            f"frozen layers would be left out silently: {', '.join(frozen[:5])}"
            f"{' ...' if len(frozen) > 5 else ''}; set requires_grad before pruning"
        )


def _check_result(
    pruning: Pruning, widths: dict[str, int], kept: dict[str, int], ratio: float, round_to: int
) -> None:
    after = {name: pruning.layers.get(name, (w, w))[1] for name, w in widths.items()}
    wrong = {name: after[name] for name, keep in kept.items() if after[name] != keep}
    wrong |= {name: w for name, (_, w) in pruning.layers.items() if w % round_to or w < 1}
    if wrong:
        raise PruningError(f"layers came out with other channels than planned: {wrong}")
    asked = any(kept_channels(w, ratio, round_to) < w for w in widths.values())
    if asked and pruning.parameters_after >= pruning.parameters_before:
        raise PruningError(
            f"nothing was pruned at ratio {ratio}: no convolution of {sorted(widths.values())}"
            " channels can lose any without changing the scores"
        )


def _widths(model: nn.Module) -> dict[str, int]:
    return {n: m.out_channels for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
