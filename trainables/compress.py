"""What the compression part of a config does to a network under training, epoch by epoch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.data import ImageData, Split
from trainables.export import count_parameters, export_float
from trainables.importance import Look
from trainables.prune import PRUNING, How, Pruner
from trainables.qat import QuantizedModule
from trainables.sensitivity import Curves
from trainables.train import Training

LOOKED_AT = 256
"""Training images for the taylor criterion, and validation images for sensitivity curves."""

QAT_PEAK_RATE = 5e-3
"""Of adamw at the start of the schedule; at the default `qat_at` it begins at a seventh."""

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

    def prepare(self, training: Training) -> dict[str, Any] | None:
        """Do what is due before the next epoch; say what is pruned by now, None if nothing was."""
        pruning = self.prune(training)
        if training.epoch == self.config.qat_after:
            self.start_quantized(training)
        return pruning

    def start_quantized(self, training: Training) -> None:
        """Go on with the float graph of the file, and with the file's rounding."""
        config, pruned = self.config, bool(training.masks)
        parameters = count_parameters(training.model)
        quantized = QuantizedModule(
            export_float(
                training.model, channels=self.data.channels, image_size=self.data.image_size
            ),
            weight_bits=config.weight_bits,
            activation_bits=config.activation_bits,
            calibration=self.data.normalised(self.data.train.images[: config.calibration_images]),
            method=config.calibration,
            parameters=parameters,
        )
        # Without batch norm, the rate of the first training would break the network.
        training.fine_tune(quantized, "adamw", QAT_PEAK_RATE)
        training.masks = quantized.masks() if pruned else {}

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

    def restore(self, training: Training, pruning: dict[str, Any] | None, *, epoch: int) -> None:
        """Give a fresh network the shape in which a checkpoint was saved, before it is loaded."""
        if pruning is not None:
            _curves.setdefault(self._curves_key(), pruning["sensitivity"])
            self.pruner = self._start(training, plan=pruning["plan"])
            self.pruner.restore(pruning)
            training.replace_parameters()
        if self.config.qat_after is not None and epoch > self.config.qat_after:
            self.start_quantized(training)

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
