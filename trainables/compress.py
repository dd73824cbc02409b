"""What the compression part of a config does to a network under training, epoch by epoch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.data import ImageData, Split
from trainables.importance import Look
from trainables.prune import PRUNING, How, Pruner
from trainables.sensitivity import Curves
from trainables.train import Training

LOOKED_AT = 256
"""Training images for the taylor criterion, and validation images for sensitivity curves."""

_curves: dict[str, Curves] = {}
"""Sensitivity by trained network: trials that share a training measure it once per worker."""


def prune_untrained(model: nn.Module, config: TrialConfig, data: ImageData) -> None:
    """Give a fresh model the shape that it will be deployed in, in place.

    Where trained weights will decide the widths it is the uniform shape of the same size.
    """
    if config.pruning_method in ("filter", "neuron"):
        how = How(config.pruning_ratio)
        pruner = PRUNING[config.pruning_method](model, how, example=_example(data, model))
        pruner.step(1.0)


class Compression:
    """Prunes the network of one trial, at once or gradually."""

    def __init__(self, config: TrialConfig, data: ImageData, network: str):
        self.config = config
        self.data = data
        self.network = network
        """Names the trained weights that pruning starts from."""
        self.pruner: Pruner | None = None

    def prune(self, training: Training) -> dict[str, Any] | None:
        """Do what is due before the next epoch; say what is gone by now, None if nothing was due.

        The optimiser starts anew where parameters were replaced.
        """
        share = self.config.pruning_steps.get(training.epoch)
        if self.config.pruning_method == "none" or share is None:
            return None
        if self.pruner is None:
            self.pruner = self._start(training)
        pruning = self.pruner.step(share)
        training.masks = self.pruner.masks
        if not training.masks:
            training.replace_parameters()
        return asdict(pruning)

    def restore(self, training: Training, pruning: dict[str, Any] | None) -> None:
        """Give a fresh network the shape in which a checkpoint was saved, before it is loaded."""
        if pruning is None:
            return
        key = self._curves_key()
        _curves.setdefault(key, pruning["sensitivity"])
        self.pruner = self._start(training, plan=pruning["plan"])
        self.pruner.restore(pruning)
        training.replace_parameters()

    def _start(self, training: Training, plan: dict[str, int] | None = None) -> Pruner:
        config = self.config
        pruner = PRUNING[config.pruning_method](
            training.model,
            How(config.pruning_ratio, config.pruning_criterion, config.pruning_scope),
            example=_example(self.data, training.model),
            look=self._look(training),
            curves=_curves.get(self._curves_key()),
            plan=plan,
        )
        if pruner.curves:
            _curves[self._curves_key()] = pruner.curves
        return pruner

    def _curves_key(self) -> str:
        config = self.config
        return f"{self.network} {config.pruning_method} {config.pruning_criterion}"

    def _look(self, training: Training) -> Look:
        seen, val = self.data.train, self.data.val
        some = Split(val.images[:LOOKED_AT], val.labels[:LOOKED_AT])
        labels = torch.tensor(seen.labels[:LOOKED_AT], device=training.device)
        return Look(
            images=training.batches.to_device(seen.images[:LOOKED_AT]),
            labels=labels,
            accuracy=lambda model: training.evaluate(some),
            seed=self.config.seed,
        )


def _example(data: ImageData, model: nn.Module) -> torch.Tensor:
    example = torch.from_numpy(data.normalised(data.val.images[:2]))
    return example.to(next(model.parameters()).device)
