"""Training with automatic mixed precision, reproducible from the seed and continued bit for bit.

All random numbers of an epoch follow from (seed, epoch), so a checkpoint between two epochs needs
no generator state.

Shapes: b images of a batch, c channels, h = w pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.augment import AUGMENTATIONS
from trainables.config import TrialConfig
from trainables.data import ImageData, Split
from trainables.errors import DivergedError
from trainables.memory import PeakMemory

AMP: dict[str, torch.dtype | None] = {
    "none": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Autocast type by name; a type with the narrow exponent of float16 also needs loss scaling."""
GPU_SHARE = 0.25
"""Images are kept on the GPU if they take at most this share of its free memory."""
EVALUATION_PIXELS = 2**21
"""Pixels scored at a time: 512 images, or fewer where they are larger than 64 x 64."""


@dataclass(frozen=True)
class EpochStats:
    """What one epoch of training was like."""

    loss: float
    """Mean over the training images, as they were seen."""
    learning_rate: float
    """Of the last step."""
    skipped_steps: int
    """Optimiser steps that loss scaling skipped in this epoch."""
    loss_scale: float
    """At the end; 1 without loss scaling."""
    seconds: float
    peak_memory_bytes: int
    """See `memory.py`."""


class Training:
    """One model being trained; between two epochs it can be pruned, evaluated or saved."""

    def __init__(
        self, config: TrialConfig, model: nn.Module, data: ImageData, *, device: torch.device
    ):
        self.config = config
        self.data = data
        self.device = device
        self.model = model.to(device)
        self.epoch = 0
        """Epochs trained so far."""
        self.masks: dict[str, Tensor] = {}
        """0 and 1 by parameter name: pruned weights stay 0, whatever the optimiser does."""
        self.dtype = AMP[config.amp]
        scaled = self.dtype is torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.optimizer_name: str = config.optimizer
        self.peak_rate = config.learning_rate
        self.batches = Batches(data, config.batch_size, device)
        self.replace_parameters()
        if device.type == "cuda":
            # TF32 for float32 products; convolutions use it by default.
            torch.set_float32_matmul_precision("high")

    def replace_parameters(self) -> None:
        """Start a new optimiser, after the parameters were pruned; the schedule goes on."""
        build = OPTIMIZERS[self.optimizer_name]
        groups = parameter_groups(self.model, self.config.weight_decay)
        self.optimizer = build(groups, self.config, fused=self.device.type == "cuda")

    def fine_tune(self, model: nn.Module, optimizer: str, peak_rate: float) -> None:
        """Go on in float32 with another form of the network; the schedule's shape stays."""
        self.model = model.to(self.device)
        self.optimizer_name, self.peak_rate = optimizer, peak_rate
        self.replace_parameters()
        self.dtype = None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=False)

    def train_epoch(self) -> EpochStats:
        """Train on every training image once.

        Raises:
            DivergedError: the loss, a weight or a running average is no longer finite.
        """
        started = time.perf_counter()
        self.model.train()
        total = torch.zeros((), device=self.device)
        images_seen = torch.zeros((), device=self.device)
        skipped = 0
        memory = PeakMemory(self.device)
        with self._own_generators():  # dropout draws from the global ones
            for step, (images, labels) in enumerate(self._epoch_batches()):
                rate = self._set_learning_rate(self.epoch * self.batches.per_epoch + step)
                with memory.watched(step):
                    loss, was_skipped = self._step(images, labels)
                # With loss scaling, a step with an infinite loss is skipped and does no harm.
                counts = torch.isfinite(loss) | (not self.scaler.is_enabled())
                total += torch.where(counts, loss * len(labels), 0)
                images_seen += counts * len(labels)
                skipped += was_skipped
        self.epoch += 1
        mean_loss = (total / images_seen).item()  # not earlier: it waits for the GPU
        self._check_finite(mean_loss)
        seconds = time.perf_counter() - started
        peak = memory.peak_bytes(self.model, self.optimizer)
        return EpochStats(mean_loss, rate, skipped, self.scaler.get_scale(), seconds, peak)

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, bool]:
        """Take one optimiser step; give the loss, and whether loss scaling skipped the step."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            scores = self.model(images)
        loss = functional.cross_entropy(
            scores.float(), labels, label_smoothing=self.config.label_smoothing
        )
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.apply_masks()
        # Reading the scale waits for the GPU; without loss scaling it is the constant 1.
        scale = self.scaler.get_scale()
        self.scaler.update()
        return loss.detach(), self.scaler.get_scale() < scale

    def apply_masks(self) -> None:
        """Zero the pruned weights again: momentum and weight decay know nothing of masks."""
        if not self.masks:
            return
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, mask in self.masks.items():
                parameters[name].mul_(mask)

    def _epoch_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(epoch_seed(self.config.seed, self.epoch))
        augment = AUGMENTATIONS[self.config.augmentation]
        for images, labels in self.batches.shuffled(generator):
            yield augment(images, generator), labels

    def _set_learning_rate(self, step: int) -> float:
        rate = self.peak_rate * schedule(
            step, self.batches.per_epoch * self.config.epochs, self.config.warmup_share
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _check_finite(self, loss: float) -> None:
        # An overflow in a skipped step still enters the running averages of batch norm.
        finite = [torch.isfinite(t).all() for t in self.model.state_dict().values()]
        if math.isfinite(loss) and torch.stack(finite).all():
            return
        config = self.config
        what = "weights or running averages are not finite"
        if not math.isfinite(loss):
            what = f"the loss is {loss}"
        other = ", or amp bf16 or none" if config.amp == "fp16" else ""
        raise DivergedError(
            f"epoch {self.epoch}: {what} (learning_rate {config.learning_rate:g}, warmup_share"
            f" {config.warmup_share:g}, {config.optimizer}, amp {config.amp}); try a lower"
            f" learning_rate, a longer warm-up{other}"
        )

    def evaluate(self, split: Split) -> float:
        """Give the share of a split the model in memory classifies right, without autocast."""
        size = self.data.image_size
        step = max(1, min(512, EVALUATION_PIXELS // size**2))
        training = self.model.training
        self.model.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        with torch.no_grad():
            for start in range(0, len(split), step):
                images = self.batches.to_device(split.images[start : start + step])
                labels = torch.tensor(split.labels[start : start + step], device=self.device)
                right += (self.model(images).argmax(1) == labels).sum()
        self.model.train(training)
        return right.item() / len(split)

    def state_dict(self) -> dict[str, Any]:
        """Give what a Training of the same config, data and model shape needs to go on from here.

        The tensors are the live ones: save them, or copy them, before training goes on.
        """
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "masks": self.masks,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; a pruned model must have been pruned the same way before."""
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.masks = state["masks"]

    @contextmanager
    def _own_generators(self) -> Iterator[None]:
        gpus = [self.device] if self.device.type == "cuda" else []
        seed = epoch_seed(self.config.seed, self.epoch)
        with torch.random.fork_rng(gpus):
            torch.default_generator.manual_seed(seed)
            if gpus:
                torch.cuda.manual_seed(seed)
            yield


class Batches:
    """Training images, shuffled and normalised batch by batch; on the GPU where they fit."""

    def __init__(self, data: ImageData, batch_size: int, device: torch.device):
        self.split = data.train
        self.batch_size = batch_size
        self.device = device
        self.mean = torch.tensor(data.mean, device=device).view(-1, 1, 1)
        self.std = torch.tensor(data.std, device=device).view(-1, 1, 1)
        self.resident: tuple[Tensor, Tensor] | None = None
        if device.type == "cuda" and fits_on_gpu(self.split.images.nbytes, device):
            images, labels = self.split.images, self.split.labels
            self.resident = (torch.tensor(images).to(device), torch.tensor(labels).to(device))

    @property
    def per_epoch(self) -> int:
        """Batches of one epoch. A last batch of one image is left out: batch norm needs two."""
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > 1 or (rest == 1 and full == 0))

    def shuffled(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Give every batch of one epoch: images (b, c, h, w) float32, labels (b,)."""
        order = torch.randperm(len(self.split), generator=generator)
        for rows in order.split(self.batch_size)[: self.per_epoch]:
            if self.resident:
                images, labels = (part[rows.to(self.device)] for part in self.resident)
                yield self.normalised(images), labels
            else:
                labels = torch.from_numpy(self.split.labels[rows.numpy()])
                yield self.to_device(self.split.images[rows.numpy()]), labels.to(self.device)

    def to_device(self, images: np.ndarray) -> Tensor:
        """Normalise uint8 images on the device: (b, c, h, w) float32."""
        batch = torch.from_numpy(np.require(images, requirements="W"))  # copies a mapped slice
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        return self.normalised(batch)

    def normalised(self, images: Tensor) -> Tensor:
        """Do in torch what `ImageData.normalised` does in NumPy."""
        return images.float().div_(255).sub_(self.mean).div_(self.std)


def fits_on_gpu(size_bytes: int, device: torch.device) -> bool:
    """Tell whether images can stay on the GPU and leave it to the training."""
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return size_bytes <= GPU_SHARE * free_bytes


def epoch_seed(seed: int, epoch: int) -> int:
    """Mix the seeds of a trial and an epoch, so that no two trials share a stream."""
    words = np.random.SeedSequence((seed % 2**64, epoch)).generate_state(1, np.uint64)
    return int(words[0] >> 1)  # torch takes 63 bits everywhere


def schedule(step: int, steps: int, warmup_share: float) -> float:
    """Give the learning rate of a step as a share of its peak: linear warm-up, cosine to zero.

    >>> [round(schedule(s, 8, 0.25), 2) for s in range(9)]
    [0.5, 1.0, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07, 0.0]
    """
    warmup = warmup_share * steps
    if step + 1 <= warmup:
        return (step + 1) / warmup
    done = min(1.0, max(0.0, step - warmup) / (steps - warmup))
    return 0.5 * (1 + math.cos(math.pi * done))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Spare vectors (biases, and the scales of norms) the weight decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _sgd(groups: list[dict[str, Any]], config: TrialConfig, *, fused: bool) -> torch.optim.SGD:
    momentum, nesterov = config.momentum, config.momentum > 0
    rate = config.learning_rate
    return torch.optim.SGD(groups, rate, momentum=momentum, nesterov=nesterov, fused=fused)


def _adamw(groups: list[dict[str, Any]], config: TrialConfig, *, fused: bool) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, config.learning_rate, fused=fused)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}
