"""Files of a study, in any location that fsspec knows: a folder, `s3://bucket/prefix`, ...

The one place where storage is touched. Every refusal (permission, full disk, no network, missing
driver) becomes a StorageError that says what was tried and where.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from search.errors import StorageError

_BEING_WRITTEN = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Temporary names of `write_whole`: a reader must not take them for files of the study."""


def absolute(location: str) -> str:
    """Give the location that means the same from every working directory."""
    return (
        location.rstrip("/") if "://" in location else str(Path(location).expanduser().absolute())
    )


def join(location: str, *names: str) -> str:
    """Give the location of something inside a location."""
    return "/".join([location.rstrip("/"), *names])


def write_whole(path: str, content: bytes) -> None:
    """Write a file so that a reader, also after a crash, sees all of it or nothing.

    In a folder: a temporary name beside it, synced, then renamed. In an object store: one put,
    which is atomic there. Missing folders are made.

    Raises:
        StorageError: the storage refused.
    """
    with _refusals("write", path):
        fs, inner = url_to_fs(path)
        if _is_local(fs):
            _replace(Path(inner), content)
        else:
            fs.makedirs(inner.rpartition("/")[0], exist_ok=True)
            fs.pipe_file(inner, content)


def read(path: str) -> bytes:
    """Read a file.

    Raises:
        StorageError: there is no such file, or the storage refused.
    """
    with _refusals("read", path):
        fs, inner = url_to_fs(path)
        return bytes(fs.cat_file(inner))


def read_several(folder: str, names: Sequence[str]) -> dict[str, bytes | None]:
    """Read files of one folder at once (object stores: side by side); None for unreadable ones."""
    with _refusals("read", folder):
        fs, inner = url_to_fs(folder)
        paths = {join(inner, name): name for name in names}
        found = fs.cat(list(paths), on_error="return") if paths else {}
    by_name = {path.rpartition("/")[2]: content for path, content in found.items()}
    return {
        name: bytes(by_name[name]) if isinstance(by_name.get(name), bytes) else None
        for name in names
    }


def list_names(folder: str) -> list[str]:
    """Give the sorted names in a folder, without those that are still being written.

    A folder that does not exist is empty: object stores cannot tell the two apart.

    Raises:
        StorageError: the storage refused.
    """
    with _refusals("list", folder):
        fs, inner = url_to_fs(folder)
        # Object stores remember listings; other writers may have added files since.
        fs.invalidate_cache(inner)
        try:
            paths = fs.ls(inner, detail=False)
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
        fs, inner = url_to_fs(path)
        with suppress(FileNotFoundError):
            fs.rm_file(inner)


def remove_folder(folder: str) -> None:
    """Remove a folder and all that is in it; one that is not there is fine.

    Raises:
        StorageError: the storage refused.
    """
    with _refusals("remove the folder", folder):
        fs, inner = url_to_fs(folder)
        with suppress(FileNotFoundError):
            fs.rm(inner, recursive=True)


def exists(path: str) -> bool:
    """Tell whether there is a file or folder.

    Raises:
        StorageError: the storage refused.
    """
    with _refusals("look at", path):
        fs, inner = url_to_fs(path)
        fs.invalidate_cache(inner.rpartition("/")[0])
        return bool(fs.exists(inner))


def make_folder(folder: str) -> None:
    """Make a folder and its parents; object stores need none and do nothing.

    Raises:
        StorageError: the storage refused.
    """
    with _refusals("make the folder", folder):
        fs, inner = url_to_fs(folder)
        fs.makedirs(inner, exist_ok=True)


# --- inside --------------------------------------------------------------------------------------


def _is_local(fs: Any) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # Without it a power cut can undo the rename. Some file systems cannot; then there is no more
    # to be done.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _refusals(action: str, path: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    # Every store's driver has exceptions of its own, and not all of them are OSErrors.
    except Exception as error:
        raise StorageError(f"cannot {action} {path}: {_reason(error)}") from error


_REASONS = {
    errno.ENOENT: "there is no such file or folder",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long",
}


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in _REASONS:
        return _REASONS[error.errno]
    if isinstance(error, PermissionError):
        return f"permission denied ({error})"
    if isinstance(error, FileNotFoundError):
        return "there is no such file or folder"
    if isinstance(error, ImportError):
        return f"this kind of storage needs a package that is not installed ({error})"
    return str(error) or type(error).__name__
