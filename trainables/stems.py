"""torchvision's classifiers, drawn for 224 x 224 RGB images, fitted to smaller or gray ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

SMALL = 64
"""Images up to this size, in pixels, get a torchvision model with an adapted stem: the originals
were drawn for 224 pixels and shrink them 32 times."""
SMALLEST_MAP = 4
"""Size in pixels of the last map that an adapted model keeps at least, as the usual ResNet-18 for
CIFAR-10 does (the original CIFAR-10 ResNets keep 8: He et al. 2015, section 4.2)."""
POOLS = (nn.MaxPool2d, nn.AvgPool2d)
BIG_KERNEL = 7
"""A strided first convolution with at least this kernel size is replaced by one of 3x3."""


def adapt_stem(model: nn.Module, in_channels: int, image_size: int) -> list[str]:
    """Fit a torchvision model to the images; say what was changed."""
    changes = []
    name, first = _first(model, nn.Conv2d)
    if first.in_channels != in_channels:
        first = _replace(model, name, in_channels=in_channels)
        changes.append(f"{name} takes {in_channels} channels")
    if image_size > SMALL:
        return changes
    if _reduces(first) and first.kernel_size[0] >= BIG_KERNEL:  # ResNet's: a pool follows
        pool, _ = _first(model, nn.MaxPool2d)
        _replace(model, name, kernel_size=3, stride=1, padding=1)
        model.set_submodule(pool, nn.Identity())
        changes.append(f"{name} is 3x3 with stride 1, no {pool}")
    elif _reduces(first):
        changes.append(_undo(model, name))
    example = torch.zeros(2, in_channels, image_size, image_size)
    while layers := _too_early(model, example):
        changes += [_undo(model, layer) for layer in layers]
    return changes


def _too_early(model: nn.Module, example: torch.Tensor) -> list[str]:
    """Name the layers that reduce the map first, if the last map comes out too small.

    The branches of a block reduce side by side: all that reduce a map of that size go together.
    """
    sizes, last = _map_sizes(model, example)
    reducing = [name for name in sizes if _reduces(model.get_submodule(name))]
    if last >= min(SMALLEST_MAP, example.shape[-1]):
        return []
    return [name for name in reducing if sizes[name] == sizes[reducing[0]]]


def _map_sizes(model: nn.Module, example: torch.Tensor) -> tuple[dict[str, int], int]:
    """Give the size of the map that each convolution and pool takes, and of the last map.

    The last map has size 0 if the model cannot take the example.
    """
    sizes: dict[str, int] = {}
    last = 0

    def record(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal last
        sizes[name] = inputs[0].shape[-1]
        last = output.shape[-1]

    hooks = [
        layer.register_forward_hook(partial(record, name))
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Conv2d, *POOLS))
    ]
    model.eval()
    try:
        with torch.no_grad():
            model(example)
    except (RuntimeError, ValueError, AssertionError):  # mostly a map smaller than a kernel
        last = 0
    finally:
        model.train()
        for hook in hooks:
            hook.remove()
    return sizes, last


def _reduces(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):  # cutting into patches (stride = kernel) is left alone
        return layer.stride[0] > 1 and layer.stride != layer.kernel_size
    stride = layer.stride
    return (stride if isinstance(stride, int) else stride[0]) > 1


def _undo(model: nn.Module, name: str) -> str:
    layer = model.get_submodule(name)
    if isinstance(layer, nn.Conv2d):
        layer.stride = (1, 1)
        return f"{name} has stride 1"
    model.set_submodule(name, nn.Identity())
    return f"no {name}"


def _replace(model: nn.Module, name: str, **changes: Any) -> nn.Conv2d:
    """Put a new convolution in place of one, initialised as torchvision's ResNets are."""
    old = model.get_submodule(name)
    kept = {k: getattr(old, k) for k in ("in_channels", "out_channels", "kernel_size")}
    kept |= {k: getattr(old, k) for k in ("stride", "padding", "dilation", "groups")}
    new = nn.Conv2d(**(kept | changes), bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(name, new)
    return new


def _first(model: nn.Module, kind: type[nn.Module]) -> tuple[str, Any]:
    return next((n, m) for n, m in model.named_modules() if isinstance(m, kind))
