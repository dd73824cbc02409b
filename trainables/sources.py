"""Where images come from. A new source is one function and one line in SOURCES. No torch here.

Shapes: n images, c channels, h = w pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.config import DataConfig
from trainables.errors import DataError
from trainables.image_folder import DEFAULT_SIZE, Collection, contents, read_image_folder, square


@dataclass(frozen=True)
class Source:
    """Where images come from."""

    read: Callable[[DataConfig, Path], Collection]
    """Config and cache folder -> all images."""
    version: Callable[[DataConfig], object] = lambda _: None
    """What decides the images besides the config."""


def _digits(config: DataConfig, cache: Path) -> Collection:
    from sklearn.datasets import load_digits

    bunch = load_digits()  # gray levels from 0 to 16
    images = _fitted(np.rint(bunch.images * (255 / 16)).astype(np.uint8), config)
    parts = {"train": np.arange(len(images))}
    classes = tuple(str(name) for name in bunch.target_names)
    return Collection(classes, images, bunch.target.astype(np.int64), parts)


def _torchvision(config: DataConfig, cache: Path, *, dataset: str) -> Collection:
    from torchvision import datasets

    root = Path(config.path).expanduser() if config.path else cache / "torchvision"
    try:
        train, test = (
            getattr(datasets, dataset)(root, train=t, download=True) for t in (True, False)
        )
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{config.name} is not in {root} and cannot be downloaded: {error}. Put torchvision's"
            " files there, let `path` name the folder that has them, or take `digits`, which is"
            " bundled"
        ) from error
    images = np.concatenate([np.asarray(part.data) for part in (train, test)])
    labels = np.concatenate([np.asarray(part.targets, np.int64) for part in (train, test)])
    rows = np.arange(len(labels))
    parts = {"train": rows[: len(train)], "test": rows[len(train) :]}
    return Collection(tuple(train.classes), _fitted(images, config), labels, parts)


def _image_folder(config: DataConfig, cache: Path) -> Collection:
    return read_image_folder(
        Path(str(config.path)),
        channels=config.channels or 3,
        size=config.image_size or DEFAULT_SIZE,
        scratch=cache,
    )


def _fitted(images: NDArray[np.uint8], config: DataConfig) -> NDArray[np.uint8]:
    """Bring images (n, h, w) or (n, h, w, 3) to the size and channels asked for: (n, c, h, w)."""
    images = images.reshape(*images.shape[:3], -1)
    size, own_channels = images.shape[2:]
    asked = (config.channels or own_channels, config.image_size or size)
    if asked == (own_channels, size):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return np.stack([square(Image.fromarray(i.squeeze()), *asked) for i in images])


SOURCES: dict[str, Source] = {
    "digits": Source(_digits),
    "mnist": Source(partial(_torchvision, dataset="MNIST")),
    "fashion_mnist": Source(partial(_torchvision, dataset="FashionMNIST")),
    "cifar10": Source(partial(_torchvision, dataset="CIFAR10")),
    "image_folder": Source(_image_folder, lambda config: contents(Path(str(config.path)))),
}
