"""Images from a folder with one subfolder per class. No torch here.

Two layouts: `root/<class>/**`, or `root/{train,test,val}/<class>/**` with `train` and at least one
of the others. Hidden files and files that are no images are ignored.

Shapes: n images, c channels, size pixels high and wide.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trainables.errors import DataError

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
DEFAULT_SIZE = 64
MAX_SKIPPED_SHARE = 0.01
"""Share of unreadable images that is reported and left out; above it the folder is refused. One
unreadable image is always allowed."""
SHOWN = 10
"""File names that a message lists."""

log = logging.getLogger("paretune")


class Collection(NamedTuple):
    """All images of one data set, before they are split."""

    classes: tuple[str, ...]
    images: NDArray[np.uint8]
    """(n, c, size, size); may be memory-mapped."""
    labels: NDArray[np.int64]
    """(n,) places in `classes`."""
    parts: dict[str, NDArray[np.int64]]
    """Rows of `train`, and of `val` and `test` where the data bring their own."""


class ImageFile(NamedTuple):
    """One image on disk, and where it belongs."""

    path: str
    part: str
    label: str
    size_bytes: int
    modified_ns: int


def read_image_folder(root: Path, *, channels: int, size: int, scratch: Path) -> Collection:
    """Decode all images of a folder: centre-cropped to a square, then resized.

    That is the same as resizing the shorter side to `size` and cropping the centre, but an image
    of 1 x 100,000 pixels stays small. Photographs are turned upright as their EXIF data say.

    Args:
        root: the folder.
        channels: 1 (gray) or 3 (RGB).
        size: height and width in pixels.
        scratch: a folder on a disk with room for all decoded images.

    Raises:
        DataError: fewer than two classes, an empty class, classes that differ between parts, a
            link that leaves the folder, or more than 1 % unreadable images.
        OSError: `scratch` cannot be written.
    """
    files = scan(root)
    images, readable = _decode(files, channels, size, scratch)
    classes = tuple(sorted({f.label for f in files}))
    place = {name: i for i, name in enumerate(classes)}
    labels = np.array([place[f.label] for f in files], np.int64)
    part_of = np.array([f.part for f in files])
    parts = {
        part: np.flatnonzero((part_of == part) & readable)
        for part in sorted({f.part for f in files})
    }
    for part, rows in parts.items():
        lost = sorted(set(range(len(classes))) - set(labels[rows].tolist()))
        if lost:
            raise DataError(
                f"{root}: no image of class {classes[lost[0]]!r} in {part} can be read"
            )
    return Collection(classes, images, labels, parts)


def contents(root: Path) -> list[tuple[str, int, int]]:
    """Give what decides the images without reading them: path, size and time of every file."""
    return [(f.path, f.size_bytes, f.modified_ns) for f in scan(root)]


def scan(root: Path) -> list[ImageFile]:
    """Find all images of a folder, in the order of their paths.

    Raises:
        DataError: as `read_image_folder`, save for unreadable images.
    """
    root = root.expanduser().resolve()
    if not root.is_dir():
        raise DataError(f"image_folder: {root} is not a folder")
    try:
        files = [
            file
            for part, folder in _parts(root).items()
            for label in _class_folders(folder, root)
            for file in _images(label, part, root)
        ]
    except OSError as error:
        raise DataError(f"image_folder: {root} cannot be read: {error}") from error
    _check_same_classes(files, root)
    return sorted(files)


def _parts(root: Path) -> dict[str, Path]:
    found = {p: root / p for p in ("train", "val", "test") if (root / p).is_dir()}
    if "train" not in found or len(found) == 1:
        return {"train": root}
    others = sorted(f.name for f in _folders(root, root) if f.name not in found)
    if others:
        log.warning("%s: only %s are read, not %s", root, ", ".join(found), ", ".join(others))
    return found


def _class_folders(folder: Path, root: Path) -> list[Path]:
    classes = sorted(_folders(folder, root))
    if len(classes) < 2:
        raise DataError(
            f"{folder} has {len(classes)} class folders ({_shown([c.name for c in classes])}); it"
            " needs at least 2, each with the images of one class (or train/ and test/ above them)"
        )
    return classes


def _images(label: Path, part: str, root: Path) -> list[ImageFile]:
    files = []
    for entry in _walk(str(label), root):
        if os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 (10x Path.suffix)
            status = entry.stat()
            files.append(
                ImageFile(entry.path, part, label.name, status.st_size, status.st_mtime_ns)
            )
    if not files:
        raise DataError(f"class folder {label} has no images ({' '.join(sorted(SUFFIXES))})")
    return files


def _walk(folder: str, root: Path) -> Iterator[os.DirEntry[str]]:
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            _check_link(Path(entry.path), root)
        if entry.is_dir():
            yield from _walk(entry.path, root)
        elif entry.is_file():
            yield entry


def _folders(folder: Path, root: Path) -> list[Path]:
    entries = [e for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")]
    for entry in entries:
        if entry.is_symlink():
            _check_link(Path(entry.path), root)
    return [Path(e.path) for e in entries]


def _check_link(link: Path, root: Path) -> None:
    """Refuse links out of the folder, and links to folders: they could put one image in two parts.

    Raises:
        DataError: it is such a link, or leads nowhere.
    """
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"the link {link} leads nowhere") from error
    if not target.is_relative_to(root):
        raise DataError(f"the link {link} leaves {root}; put a copy there instead")
    if target.is_dir():
        raise DataError(f"{link} is a link to a folder; only links to images are followed")


def _check_same_classes(files: list[ImageFile], root: Path) -> None:
    found = {(f.part, f.label) for f in files}
    train = {label for part, label in found if part == "train"}
    for other in {part for part, _ in found}:
        difference = sorted(train ^ {label for part, label in found if part == other})
        if difference:
            raise DataError(f"{root}: train and {other} differ in classes: {_shown(difference)}")


def _decode(
    files: list[ImageFile], channels: int, size: int, scratch: Path
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Give the images (n, c, size, size), on disk, and which of them could be read (n,)."""
    image_bytes = channels * size * size
    with tempfile.TemporaryFile(dir=scratch) as file:
        # Written, not mapped: a full disk is then an OSError and not a SIGBUS.
        file.truncate(len(files) * image_bytes)

        def decode(row: int) -> str | None:
            try:
                pixels = _read(files[row].path, channels, size)
            except Exception as error:  # decoders raise anything on damaged bytes
                return f"{files[row].path} ({error})"
            if os.pwrite(file.fileno(), pixels.tobytes(), row * image_bytes) < image_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch))
            return None

        with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            problems = list(pool.map(decode, range(len(files))))
        images = np.memmap(file, np.uint8, "r", shape=(len(files), channels, size, size))
    _report([p for p in problems if p], len(files))
    return images, np.array([p is None for p in problems])


def _report(problems: list[str], total: int) -> None:
    if not problems:
        return
    text = f"{len(problems)} of {total} images cannot be read: {_shown(problems)}"
    if len(problems) > max(1, MAX_SKIPPED_SHARE * total):
        raise DataError(f"{text}; up to {MAX_SKIPPED_SHARE:.0%} would be left out")
    log.warning("%s; left out", text)


def _read(path: str, channels: int, size: int) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        # A JPEG is decoded at 1/2, 1/4 or 1/8 where that is still twice the size asked for.
        image.draft("RGB" if channels == 3 else "L", (2 * size, 2 * size))
        return square(ImageOps.exif_transpose(image), channels, size)


def square(image: Image.Image, channels: int, size: int) -> NDArray[np.uint8]:
    """Give the centre square of an image, resized (bilinear): (channels, size, size).

    Raises:
        ValueError: the pixels are floating-point numbers, which have no fixed range.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow would clip and not scale
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB" if channels == 3 else "L")
    image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
