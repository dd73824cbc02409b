"""Pruning: filters and hidden units leave the network for real, or single weights become 0.

How many channels of each group stay is decided here, exactly. With scope `uniform` it does not
depend on the weights; `global` and `sensitivity` share out the parameters uniform would leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainables.channel_groups import ChannelGroups, Kept, Kinds
from trainables.config import ROUND_TO, kept_channels
from trainables.errors import PruningError
from trainables.importance import CHANNEL_SCORES, Look, loss_changes
from trainables.sensitivity import Curves, allocate, measure_curves
from trainables.weight_masks import prune_weights

FILTERS: Kinds = (nn.Conv2d, nn.Linear)
"""Convolutions, and the hidden layers behind them: in some classifiers these are most of the file
(mobilenet_v3_small with its own kept whole does not get below .35 of its size at ratio .5)."""
NEURONS: Kinds = (nn.Linear,)


@dataclass
class Pruning:
    """What pruning removed."""

    parameters_before: int
    parameters_after: int
    """Those that are not 0, of single weights."""
    layers: dict[str, tuple[int, int]]
    """Channels (or weights) before and after, of every layer that lost some."""
    sensitivity: Curves = field(default_factory=dict)
    """Accuracy lost by layer, see `sensitivity.py`; empty for the other scopes."""
    plan: dict[str, int] = field(default_factory=dict)
    """Channels that stay in the end, by root of each group; empty for single weights."""


@dataclass(frozen=True)
class How:
    """What of a trial's config pruning follows."""

    ratio: float
    criterion: str = "l2"
    scope: str = "uniform"


class Pruner(Protocol):
    """Prunes one network in one step or several."""

    def step(self, share: float) -> Pruning:
        """Prune on to a share of what is to go, in (0, 1]; what went before counts."""

    def restore(self, pruning: Mapping[str, Any]) -> None:
        """Give a fresh model the shape that an earlier `Pruning`, as a dict, left behind."""

    masks: dict[str, Tensor]
    """0 and 1 by parameter name, to be kept through training; empty where channels went."""
    curves: Curves
    """Sensitivity, once measured."""


class ChannelPruner:
    """Removes the output channels of all layers of some kinds that are not the scores."""

    def __init__(
        self,
        model: nn.Module,
        how: How,
        *,
        kinds: Kinds,
        example: Tensor,
        look: Look | None = None,
        round_to: int = ROUND_TO,
        curves: Curves | None = None,
        plan: Kept | None = None,
    ):
        self.model, self.how, self.kinds = model, how, kinds
        self.example, self.look, self.round_to = example, look, round_to
        self.masks: dict[str, Tensor] = {}
        self.curves: Curves = curves or {}
        self.parameters = _count(model)
        self.widths = _widths(model, kinds)
        with self._tracing():
            groups = ChannelGroups(model, kinds, example)
            self.full = {root: channels.width for root, channels in groups.by_root.items()}
            self.kept = self._plan(groups) if plan is None else plan

    def step(self, share: float) -> Pruning:
        """Prune on to a share of the way from the full to the planned widths.

        Raises:
            PruningError: the model cannot be pruned this way, or was not as asked.
        """
        with self._tracing():
            groups = ChannelGroups(self.model, self.kinds, self.example)
            kept = {root: self._between(root, share, groups) for root in groups.by_root}
            self._cut(groups, kept)
        after = _widths(self.model, self.kinds)
        layers = {n: (w, after[n]) for n, w in self.widths.items() if after[n] != w}
        plan = dict(self.kept)
        pruning = Pruning(self.parameters, _count(self.model), layers, self.curves, plan)
        self._check(pruning, kept, after)
        return pruning

    def restore(self, pruning: Mapping[str, Any]) -> None:
        """Give a fresh model the shape that an earlier `Pruning`, as a dict, left behind."""
        with self._tracing():
            groups = ChannelGroups(self.model, self.kinds, self.example)
            layers = pruning["layers"]
            self._cut(groups, {root: layers.get(root, (w, w))[1] for root, w in self.full.items()})

    def _cut(self, groups: ChannelGroups, kept: Kept) -> None:
        scores = self._scores(groups)
        groups.remove(
            {
                root: channels.weakest(scores[root], kept[root])
                for root, channels in groups.by_root.items()
                if kept[root] < channels.width
            }
        )

    # --- how many stay ---------------------------------------------------------------------

    def _plan(self, groups: ChannelGroups) -> Kept:
        uniform = {root: self._keep(root, self.how.ratio, groups) for root in groups.by_root}
        if self.how.scope == "uniform" or uniform == self.full:
            return uniform
        target = groups.parameters_with(uniform)
        if self.how.scope == "global":
            return self._global(groups, target)
        ratios = allocate(
            self._curves(groups),
            lambda ratios: groups.parameters_with(self._keep_all(ratios, groups)),
            target,
        )
        return self._keep_all(ratios, groups)

    def _keep_all(self, ratios: Mapping[str, float], groups: ChannelGroups) -> Kept:
        return {root: self._keep(root, ratio, groups) for root, ratio in ratios.items()}

    def _keep(self, root: str, ratio: float, groups: ChannelGroups) -> int:
        channels = groups.by_root[root]
        multiple = math.lcm(self.round_to, channels.blocks)
        return kept_channels(channels.width, min(ratio, 0.999999), multiple)

    def _between(self, root: str, share: float, groups: ChannelGroups) -> int:
        """Give the width after a step: never above what is left, never below the plan."""
        full, kept, now = self.full[root], self.kept[root], groups.by_root[root].width
        wanted = self._rounded(full - (full - kept) * share, groups.by_root[root].blocks)
        return kept if share >= 1 else min(now, max(kept, wanted))

    def _rounded(self, width: float, blocks: int) -> int:
        multiple = math.lcm(self.round_to, blocks)
        return int(width / multiple + 0.5) * multiple

    def _global(self, groups: ChannelGroups, target: int) -> Kept:
        """Cut all groups at one score, so low that the parameters meet the target."""
        scores = {root: s.detach().cpu() for root, s in self._scores(groups).items()}
        cuts = torch.cat([*scores.values(), torch.tensor([math.inf])]).sort().values
        low, high = 0, len(cuts) - 1
        while low < high:
            middle = (low + high) // 2
            if groups.parameters_with(self._above(cuts[middle], scores, groups)) <= target:
                high = middle
            else:
                low = middle + 1
        return self._above(cuts[high], scores, groups)

    def _above(self, cut: Tensor, scores: Mapping[str, Tensor], groups: ChannelGroups) -> Kept:
        shares = {root: float((s < cut).float().mean()) for root, s in scores.items()}
        return self._keep_all(shares, groups)

    def _curves(self, groups: ChannelGroups) -> Curves:
        look = self._looked("sensitivity")
        if not self.curves:
            scores = self._scores(groups)

            def without(root: str, ratio: float) -> AbstractContextManager[None]:
                channels = groups.by_root[root]
                keep = self._keep(root, ratio, groups)
                return groups.silenced(root, channels.weakest(scores[root], keep))

            self.curves = measure_curves(
                list(groups.by_root), without, lambda: look.accuracy(self.model)
            )
        return self.curves

    # --- which -----------------------------------------------------------------------------

    def _scores(self, groups: ChannelGroups) -> dict[str, Tensor]:
        # All scores first: they are those of the whole network, not of one half pruned.
        criterion = self.how.criterion
        if self.look is None and criterion == "taylor":
            criterion = "l2"  # of an untrained network: only its shape matters
        score = CHANNEL_SCORES[criterion]
        generator = torch.Generator().manual_seed(self.look.seed if self.look else 0)
        changes = loss_changes(self.model, self.look, criterion)
        return {root: score(c.group, generator, changes) for root, c in groups.by_root.items()}

    def _looked(self, what: str) -> Look:
        if self.look is None:
            raise PruningError(f"{what} needs images to look at")
        return self.look

    # --- checks ----------------------------------------------------------------------------

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        """Hold eval mode; say what foreign code cannot do; check that the scores keep a shape."""
        _check_traceable(self.model, self.kinds)
        modes = {layer: layer.training for layer in self.model.modules()}
        try:
            with torch.no_grad():
                shape = self.model.eval()(self.example).shape
            yield
            with torch.no_grad():
                scores = self.model(self.example)
        except PruningError:
            raise
        except Exception as error:  # tracing runs foreign code, and fails in many ways
            raise PruningError(
                f"{_METHOD[self.kinds]} pruning cannot handle this {type(self.model).__name__}:"
                f" {error!r}; take pruning_method none, or another model"
            ) from error
        finally:
            for layer, training in modes.items():
                layer.training = training
        if scores.shape != shape:
            raise PruningError(f"pruning changed the scores from {tuple(shape)} to {scores.shape}")

    def _check(self, pruning: Pruning, kept: Kept, after: Mapping[str, int]) -> None:
        wrong = {name: after[name] for name, keep in kept.items() if after[name] != keep}
        wrong |= {n: w for n, (_, w) in pruning.layers.items() if w % self.round_to or w < 1}
        if wrong:
            raise PruningError(f"layers came out with other channels than planned: {wrong}")
        ratio, widths = self.how.ratio, sorted(self.widths.values())
        # What gives the scores may be wide enough to lose channels, but is in no group.
        able = self.full.values() or widths
        asked = any(kept_channels(w, ratio, self.round_to) < w for w in able)
        if asked and dict(self.kept) == self.full:
            raise PruningError(
                f"nothing was pruned at ratio {ratio}: no {_LAYERS[self.kinds]} of {widths}"
                " channels can lose any without changing the scores"
            )


def prune_filters(
    model: nn.Module,
    ratio: float,
    *,
    example: Tensor,
    criterion: str = "l2",
    scope: str = "uniform",
    look: Look | None = None,
    round_to: int = ROUND_TO,
) -> Pruning:
    """Remove the weakest filters and hidden units, in place and at once.

    With scope `uniform` every group of coupled layers keeps `kept_channels(width, ratio,
    round_to)` of its channels; the other scopes meet the same number of parameters. What gives
    the scores keeps its outputs. Random generators and training modes stay as they are; an
    optimiser must be built anew.

    Args:
        model: With gradients on for all convolutions (the graph is found by automatic
            differentiation).
        ratio: Share of the channels removed, in [0, 1).
        example: Images (b, c, h, w) on the model's device.
        criterion: A name in `CHANNEL_SCORES`.
        scope: `uniform`, `global` or `sensitivity`.
        look: Images for criteria and scopes that need them.
        round_to: Kept widths are multiples of this.

    Raises:
        PruningError: the model cannot be pruned this way, or was not as asked.
    """
    if ratio == 0:
        return Pruning(_count(model), _count(model), {})
    how = How(ratio, criterion, scope)
    pruner = ChannelPruner(
        model, how, kinds=FILTERS, example=example, look=look, round_to=round_to
    )
    return pruner.step(1.0)


class WeightPruner:
    """Zeroes single weights; the masks must be kept through training."""

    def __init__(
        self,
        model: nn.Module,
        how: How,
        *,
        example: Tensor,
        look: Look | None = None,
        curves: Curves | None = None,
        plan: Kept | None = None,
    ):
        self.model, self.how, self.look = model, how, look
        self.masks: dict[str, Tensor] = {}
        self.curves: Curves = curves or {}

    def step(self, share: float) -> Pruning:
        """Zero the weakest weights up to a share of the ratio."""
        before = _count(self.model)
        self.masks, self.curves = prune_weights(
            self.model,
            self.how.ratio * share,
            criterion=self.how.criterion,
            scope=self.how.scope,
            look=self.look,
            curves=self.curves,
        )
        layers = {n: (m.numel(), int(m.count_nonzero())) for n, m in self.masks.items()}
        after = before - sum(whole - left for whole, left in layers.values())
        return Pruning(before, after, layers, self.curves)

    def restore(self, pruning: Mapping[str, Any]) -> None:
        """Change nothing: zeros and masks are part of the training's state."""


def _filters(model: nn.Module, how: How, **given: object) -> Pruner:
    return ChannelPruner(model, how, kinds=FILTERS, **given)  # type: ignore[arg-type]


def _neurons(model: nn.Module, how: How, **given: object) -> Pruner:
    return ChannelPruner(model, how, kinds=NEURONS, **given)  # type: ignore[arg-type]


PRUNING: dict[str, Callable[..., Pruner]] = {
    "filter": _filters,
    "neuron": _neurons,
    "weight": WeightPruner,
}
"""By method: takes a model and How, and `example`, `look` and earlier `curves` by name."""

_METHOD: dict[Kinds, str] = {FILTERS: "filter", NEURONS: "neuron"}
_LAYERS: dict[Kinds, str] = {FILTERS: "convolution or hidden layer", NEURONS: "linear layer"}


def _check_traceable(model: nn.Module, kinds: Kinds) -> None:
    if not torch.is_grad_enabled():
        raise PruningError(
            f"{_METHOD[kinds]} pruning needs gradients: call it outside of torch.no_grad"
        )
    frozen = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, kinds) and not layer.weight.requires_grad
    ]
    if frozen:
        raise PruningError(
            f"frozen layers would be left out silently: {', '.join(frozen[:5])}"
            f"{' ...' if len(frozen) > 5 else ''}; set requires_grad before pruning"
        )


def _widths(model: nn.Module, kinds: Kinds) -> dict[str, int]:
    return {
        n: m.out_channels if isinstance(m, nn.Conv2d) else m.out_features
        for n, m in model.named_modules()
        if isinstance(m, kinds)
    }


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
