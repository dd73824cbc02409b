"""Images as memory-mapped arrays: prepared once per machine, split once per study. No torch here.

A prepared data set is a folder of .npy files in the cache, named by a hash of all that decides it.
Opening it takes milliseconds, and the processes of a machine share its pages.

Shapes: n images, c channels, h = w pixels.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from trainables.config import DataConfig
from trainables.errors import DataError
from trainables.image_folder import Collection
from trainables.sources import SOURCES

FORMAT = 1
"""Of the prepared folder. Raise it when the same source would be prepared otherwise."""
SPLITS = ("train", "val", "test")
CHUNK_BYTES = 2**24
"""Copied at a time."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images in random order, so that the first k are a fair sample."""

    images: NDArray[np.uint8]
    """(n, c, h, w), memory-mapped."""
    labels: NDArray[np.int64]
    """(n,) places in the classes."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set, split; every class is in every split."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    mean: NDArray[np.float32]
    """(c,) of the training images, as shares of 255."""
    std: NDArray[np.float32]
    """(c,) likewise."""
    fingerprint: str
    """16 hexadecimal digits that name images, labels and split."""

    @property
    def channels(self) -> int:
        """Channels of every image: 1 gray, 3 RGB."""
        return int(self.train.images.shape[1])

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return int(self.train.images.shape[2])

    def normalised(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give uint8 images (n, c, h, w) as models take them: float32, the same shape."""
        scaled = images.astype(np.float32, order="C") / np.float32(255)
        return (scaled - self.mean[:, None, None]) / self.std[:, None, None]


def load_data(config: DataConfig, cache_dir: Path | None = None) -> ImageData:
    """Open a data set; prepare it first if this machine has not yet.

    Args:
        config: which images, and how they are split.
        cache_dir: None takes PARETUNE_CACHE from the environment, or ~/.cache/paretune.

    Raises:
        DataError: the images cannot be had or used, or the cache cannot be written.
    """
    cache = cache_dir or Path(os.environ.get("PARETUNE_CACHE") or "~/.cache/paretune").expanduser()
    folder = cache / "data" / f"{config.name}-{_key(config)}"
    try:
        if not folder.is_dir():
            with _locked(folder.with_suffix(".lock")):
                if not folder.is_dir():  # another process may have made it meanwhile
                    _prepare(config, cache, folder)
        return _open(config.name, folder)
    except OSError as error:
        raise DataError(
            f"the data cache {cache} cannot be used: {error}; let PARETUNE_CACHE name a folder"
            " that can be written"
        ) from error


# --- the cache -----------------------------------------------------------------------------------


def _key(config: DataConfig) -> str:
    decides = {
        "config": config.model_dump(),
        "version": SOURCES[config.name].version(config),
        "format": FORMAT,
        "pillow": PIL.__version__,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file, or dying, lets go
        yield


def _prepare(config: DataConfig, cache: Path, folder: Path) -> None:
    collection = SOURCES[config.name].read(config, cache)
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that died; the lock is ours
    unfinished.mkdir()
    digest = hashlib.sha256(json.dumps(collection.classes).encode())
    counts = {}
    for name, rows in _split(collection, config).items():
        labels = collection.labels[rows]
        np.save(unfinished / f"{name}_labels.npy", labels)
        digest.update(f"{name} {len(rows)}".encode() + labels.tobytes())
        counts[name] = _copy(collection.images, rows, unfinished / f"{name}_images.npy", digest)
    mean, std = _moments(counts["train"])
    description = {"classes": collection.classes, "mean": mean.tolist(), "std": std.tolist()}
    description["fingerprint"] = digest.hexdigest()[:16]
    (unfinished / "description.json").write_text(json.dumps(description, indent=1))
    unfinished.rename(folder)


def _copy(
    images: NDArray[np.uint8], rows: NDArray[np.int64], path: Path, digest: Any
) -> NDArray[np.int64]:
    """Write rows of the images as .npy; count the bytes of each channel: (c, 256)."""
    channels = images.shape[1]
    step = max(1, CHUNK_BYTES // images[0].nbytes)
    counts = np.zeros((channels, 256), np.int64)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *images.shape[1:])}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(rows), step):
            chunk = images[rows[start : start + step]]
            written = chunk.tobytes()
            digest.update(written)
            file.write(written)
            for channel in range(channels):
                counts[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
    return counts


def _moments(counts: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give mean and standard deviation of each channel from byte counts (c, 256)."""
    share = counts / counts.sum(axis=1, keepdims=True)
    level = np.arange(256) / 255
    mean = share @ level
    std = np.sqrt((share * (level - mean[:, None]) ** 2).sum(axis=1))
    # A channel that never varies is only shifted.
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def _open(name: str, folder: Path) -> ImageData:
    try:
        train, val, test = (
            Split(
                np.load(folder / f"{split}_images.npy", mmap_mode="r"),
                np.load(folder / f"{split}_labels.npy"),
            )
            for split in SPLITS
        )
        found = json.loads((folder / "description.json").read_text())
        mean, std = (np.array(found[k], np.float32) for k in ("mean", "std"))
        classes, fingerprint = tuple(found["classes"]), found["fingerprint"]
    except (ValueError, KeyError, EOFError, FileNotFoundError) as error:
        raise DataError(
            f"the prepared data in {folder} are damaged ({error}); delete that folder and they"
            " are prepared again"
        ) from error
    return ImageData(name, classes, train, val, test, mean, std, fingerprint)


# --- the split -----------------------------------------------------------------------------------


def _split(collection: Collection, config: DataConfig) -> dict[str, NDArray[np.int64]]:
    """Give the rows of every split; what the data do not bring is held out from `train`."""
    rng = np.random.default_rng(config.split_seed % 2**64)
    own = collection.parts
    parts = {name: rng.permutation(own[name]) for name in SPLITS if name in own}
    shares = {"test": config.test_share, "val": config.validation_share}
    missing = [name for name in shares if name not in parts]
    for i, name in enumerate(missing):
        parts["train"], parts[name] = _hold_out(
            parts["train"], collection, shares[name], rng, leave=len(missing) - i
        )
    return {name: parts[name] for name in SPLITS}


def _hold_out(
    rows: NDArray[np.int64],
    collection: Collection,
    share: float,
    rng: np.random.Generator,
    *,
    leave: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide rows: (at least `leave` images of every class, a share of it, at least one image)."""
    held = np.zeros(len(rows), bool)
    for label, name in enumerate(collection.classes):
        places = np.flatnonzero(collection.labels[rows] == label)
        if len(places) <= leave:
            raise DataError(
                f"class {name!r} has {len(places)} images; train, val and test share them and need"
                f" at least {leave + 1}"
            )
        count = min(max(1, round(share * len(places))), len(places) - leave)
        held[rng.permutation(places)[:count]] = True
    return rows[~held], rows[held]
