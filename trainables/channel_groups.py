"""Channels that can only leave a network together, and what the network weighs without them.

A filter cannot go alone: the batch norm behind it, the layers that read it and every layer added
to it lose the same channel. torch-pruning finds these groups (Fang et al. 2023, arXiv:2301.12900).
Shapes: a group has c channels; the same place in every layer of the group.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning.dependency import Group
from torch_pruning.ops import OPTYPE

from trainables.errors import PruningError

Kinds = tuple[type[nn.Module], ...]
"""Kinds of layers whose outputs are pruned."""
Kept = Mapping[str, int]
"""Channels that stay, by the name of a group's root layer."""


@dataclass(frozen=True)
class Channels:
    """One group of coupled layers, named after its root."""

    group: Group
    width: int
    blocks: int
    """Blocks of equal width that must lose the same places, see `_blocks`."""

    def weakest(self, scores: Tensor, keep: int) -> list[int]:
        """Give the channels to remove, the same places in every block."""
        per_block = scores.detach().cpu().view(self.blocks, -1).mean(0)
        width = len(per_block)
        places = per_block.argsort(stable=True)[: width - keep // self.blocks]
        offsets = width * torch.arange(self.blocks)[:, None]
        return sorted((places + offsets).flatten().tolist())


class ChannelGroups:
    """The groups of a model whose roots are layers of some kinds."""

    def __init__(self, model: nn.Module, kinds: Kinds, example: Tensor):
        self.model = model
        self.graph = torch_pruning.DependencyGraph()
        # A list, because a bare tensor would be unpacked into single images without a batch.
        self.graph.build_dependency(model, [example], verbose=False)
        self.names = {layer: name for name, layer in model.named_modules()}
        self._check_all_found(kinds)
        found = self.graph.get_all_groups(root_module_types=list(kinds))
        self.by_root = {
            self.names[group[0].dep.target.module]: Channels(
                group, len(group[0].idxs), _blocks(group)
            )
            for group in list(found)
            if not self._are_scores(group)
        }

    def _are_scores(self, group: Group) -> bool:
        """Tell whether the channels leave the model: no layer with weights reads them."""
        deps = [dep for dep, _ in group]
        leave = any(dep.target.type == OPTYPE.OUTPUT for dep in deps)
        return leave or not any(
            isinstance(dep.target.module, nn.Conv2d | nn.Linear)
            and not self.graph.is_out_channel_pruning_fn(dep.handler)
            for dep in deps
        )

    def _check_all_found(self, kinds: Kinds) -> None:
        missed = [
            name
            for layer, name in self.names.items()
            if isinstance(layer, kinds) and layer not in self.graph.module2node
        ]
        if missed:
            raise PruningError(f"no gradient flows from the scores back to {', '.join(missed)}")

    def remove(self, weakest: Mapping[str, list[int]]) -> None:
        """Remove channels by root; scores must have been taken before, of the whole network."""
        for root, indices in weakest.items():
            if indices:
                item = self.by_root[root].group[0].dep
                self.graph.get_pruning_group(item.target.module, item.handler, indices).prune()

    @contextmanager
    def silenced(self, root: str, indices: list[int]) -> Iterator[None]:
        """Zero channels of one group, which answers like removing them, for a while."""
        saved = []
        with torch.no_grad():
            for item in self.by_root[root].group:
                if not self.graph.is_out_channel_pruning_fn(item.dep.handler):
                    continue
                places = [item.idxs[i] for i in indices]
                for parameter in item.dep.target.module.parameters(recurse=False):
                    saved.append((parameter, parameter.clone()))
                    parameter[places] = 0
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in reversed(saved):
                    parameter.copy_(value)

    # --- size ------------------------------------------------------------------------------

    def parameters_with(self, kept: Kept) -> int:
        """Count the parameters that the model would have; exact, without removing anything."""
        rows: dict[nn.Module, float] = defaultdict(lambda: 1.0)
        columns: dict[nn.Module, float] = defaultdict(lambda: 1.0)
        for root, channels in self.by_root.items():
            gone = 1 - kept.get(root, channels.width) / channels.width
            for item in channels.group:
                layer = item.dep.target.module
                outputs = self.graph.is_out_channel_pruning_fn(item.dep.handler)
                share = gone * len(item.idxs) / max(1, _channels(layer, outputs))
                (rows if outputs else columns)[layer] -= share
        return sum(
            round(p.numel() * rows[layer] * (columns[layer] if p.ndim > 1 else 1.0))
            for layer in self.model.modules()
            for p in layer.parameters(recurse=False)
        )


def _channels(layer: nn.Module, outputs: bool) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels if outputs else layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features if outputs else layer.in_features
    weight = getattr(layer, "weight", None)
    return len(weight) if isinstance(weight, Tensor) else 0


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
