"""Files of a study, in any location that fsspec knows: a folder, `s3://bucket/prefix`, ...

The one place where storage is touched. Every refusal (permission, full disk, no network, missing
driver) becomes a StorageError that says what was tried and where.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from search.errors import StorageError
from trainables import storage as files
from trainables.storage import locate

_BEING_WRITTEN = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Temporary names of `write_whole`: a reader must not take them for files of the study."""
READS_AT_ONCE = 16
"""From an object store: one read takes tens of milliseconds, nearly all of it waiting."""


def absolute(location: str) -> str:
    """Give the location that means the same from every working directory."""
    return (
        location.rstrip("/") if "://" in location else str(Path(location).expanduser().absolute())
    )


def join(location: str, *names: str) -> str:
    """Give the location of something inside a location."""
    return "/".join([location.rstrip("/"), *names])


def write_whole(path: str, content: bytes, *, patience_seconds: float = 0.0) -> None:
    """Write a file so that a reader, also after a crash, sees all of it or nothing.

    In a folder: a temporary name beside it, synced, then renamed. In an object store: one put,
    which is atomic there. Missing folders are made.

    Args:
        path: where to.
        content: all of it.
        patience_seconds: how long to try again while the storage refuses for a passing reason.

    Raises:
        StorageError: the storage refused.
    """
    with _refusals("write", path):
        files.patiently(lambda: files.write_whole(path, content), seconds=patience_seconds)


def read(path: str) -> bytes:
    """Read a file.

    Raises:
        StorageError: there is no such file, or the storage refused.
    """
    with _refusals("read", path):
        return files.read(path)


def read_several(folder: str, names: Sequence[str]) -> dict[str, bytes | None]:
    """Read files of one folder, several at a time; None for unreadable ones."""
    with _refusals("read", folder):
        fs, inner = locate(folder)

    def content(name: str) -> bytes | None:
        try:
            return bytes(fs.cat_file(join(inner, name)))
        except Exception:  # every store's driver has its own for a file it cannot give
            return None

    if files.is_local(fs):  # threads only get in each other's way
        return {name: content(name) for name in names}
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return dict(zip(names, pool.map(content, names), strict=True))


def list_names(folder: str, *, patience_seconds: float = 0.0) -> list[str]:
    """Give the sorted names in a folder, without those that are still being written.

    A folder that does not exist is empty: object stores cannot tell the two apart.

    Raises:
        StorageError: the storage refused.
    """
    with _refusals("list", folder):
        fs, inner = locate(folder)
        # Object stores remember listings; other writers may have added files since.
        fs.invalidate_cache(inner)
        try:
            paths = files.patiently(lambda: fs.ls(inner, detail=False), seconds=patience_seconds)
        except FileNotFoundError:
            return []
    names = (path.rstrip("/").rpartition("/")[2] for path in paths)
    return sorted(name for name in names if name and not _BEING_WRITTEN.fullmatch(name))


def remove(path: str) -> None:
    """Remove a file; one that is not there is fine.

    Raises:
        StorageError: the storage refused.
    """
    with _refusals("remove", path):
        files.remove(path)


def remove_folder(folder: str) -> None:
    """Remove a folder and all that is in it; one that is not there is fine.

    Raises:
        StorageError: the storage refused.
    """
    with _refusals("remove the folder", folder):
        fs, inner = locate(folder)
        with suppress(FileNotFoundError):
            fs.rm(inner, recursive=True)


def exists(path: str) -> bool:
    """Tell whether there is a file or folder.

    Raises:
        StorageError: the storage refused.
    """
    with _refusals("look at", path):
        fs, inner = locate(path)
        fs.invalidate_cache(inner.rpartition("/")[0])
        return bool(fs.exists(inner))


def make_folder(folder: str) -> None:
    """Make a folder and its parents; object stores need none and do nothing.

    Raises:
        StorageError: the storage refused.
    """
    with _refusals("make the folder", folder):
        fs, inner = locate(folder)
        fs.makedirs(inner, exist_ok=True)


# --- inside --------------------------------------------------------------------------------------


@contextmanager
def _refusals(action: str, path: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    # Every store's driver has exceptions of its own, and not all of them are OSErrors.
    except Exception as error:
        raise StorageError(f"cannot {action} {path}: {files.refusal(error)}") from error
