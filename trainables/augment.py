"""Random changes to training images, a whole batch at a time.

Shapes: b images, c channels, h = w pixels, float32 and normalised.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

SHIFT = 8
"""Images are shifted by up to 1/8 of their size: 4 pixels of 32 (He et al. 2015, section 4.2)."""


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift every image by its own random offset; what comes in is the mean colour."""
    b, _, h, w = images.shape
    pad = h // SHIFT
    if not pad:
        return images
    padded = functional.pad(images, (pad, pad, pad, pad))
    offsets = torch.randint(2 * pad + 1, (2, b), generator=generator).to(images.device)
    windows = padded.unfold(2, h, 1).unfold(3, w, 1)  # (b, c, offsets, offsets, h, w), a view
    return windows[torch.arange(b, device=images.device), :, offsets[0], offsets[1]]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every other image left to right, at random."""
    mirrored = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda images, generator: images,
    "crop": crop,
    "crop_flip": lambda images, generator: flip(crop(images, generator), generator),
}
