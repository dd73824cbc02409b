"""A small CNN that, on demand, does to its worker what goes wrong in the night.

PARETUNE_FAULT=kind:folder:times: in each of the first `times` trainings that get far enough, the
fault happens once. Files in `folder` count, so that a worker started anew knows.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

AFTER_STEPS = 160
"""Batches of one training before the fault: some epochs are over, and pruning is still to come."""


def net(in_channels: int, classes: int, image_size: int, width: int = 8) -> nn.Module:
    """Make the network."""
    model = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )
    if "PARETUNE_FAULT" in os.environ:
        model.register_forward_pre_hook(_Fault())
    return model


class _Fault:
    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, model: nn.Module, _: object) -> None:
        self.steps += model.training
        if not model.training or self.steps != AFTER_STEPS:
            return
        kind, folder, times = os.environ["PARETUNE_FAULT"].rsplit(":", 2)
        for turn in range(int(times)):
            try:
                (Path(folder) / f"{kind}-{turn}").touch(exist_ok=False)
            except FileExistsError:
                continue
            FAULTS[kind](model)
            return


def _raise(_: nn.Module) -> None:
    raise RuntimeError("planted error")


def _spoil(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))


def _kill(_: nn.Module) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(_: nn.Module) -> None:
    time.sleep(10_000)


def _hoard(_: nn.Module) -> None:
    hoard = []
    while True:
        hoard.append(np.ones(2**24))  # 128 MiB, touched
        time.sleep(0.05)


def _too_large(_: nn.Module) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


FAULTS = {
    "exception": _raise,
    "nan": _spoil,
    "gpu-memory": _too_large,
    "worker": _kill,
    "hang": _hang,
    "memory": _hoard,
}
