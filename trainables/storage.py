"""Files in any location that fsspec knows: a folder, `s3://bucket/prefix`, ... No torch here.

What drivers and workers share of it: whole writes, patience with a storage that refuses for a
while, and plain words for a refusal. Errors are those of the store's driver.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.core import url_to_fs

# s3fs cannot be installed beside the Kubernetes client (their bounds on python-dateutil exclude
# each other), and Ray brings pyarrow, which speaks S3 too.
fsspec.register_implementation("s3", "trainables.s3.S3Files", clobber=True)

PATIENCE_SECONDS = 120.0
"""How long a write that matters is repeated while the storage refuses."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0

Answer = TypeVar("Answer")


def locate(path: str) -> tuple[Any, str]:
    """Give the file system of a location, and the path inside it."""
    fs, inner = url_to_fs(path)
    return fs, str(inner)


def write_whole(path: str, content: bytes) -> None:
    """Write a file so that a reader, also after a crash, sees all of it or nothing.

    In a folder: a temporary name beside it, synced, then renamed. In an object store: one put,
    which is atomic there. Missing folders are made.
    """
    fs, inner = locate(path)
    if is_local(fs):
        _replace(Path(inner), content)
    else:
        fs.pipe_file(inner, content)


def read(path: str) -> bytes:
    """Read a file."""
    fs, inner = locate(path)
    return bytes(fs.cat_file(inner))


def remove(path: str) -> None:
    """Remove a file; one that is not there is fine."""
    fs, inner = locate(path)
    with suppress(FileNotFoundError):
        fs.rm_file(inner)


def patiently(action: Callable[[], Answer], *, seconds: float = PATIENCE_SECONDS) -> Answer:
    """Repeat an action with growing pauses while the storage refuses for a passing reason."""
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return action()
        except OSError as error:
            if not is_passing(error) or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def is_local(fs: Any) -> bool:
    """Tell whether a file system is folders of this machine, mounted volumes included."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def is_passing(error: Exception) -> bool:
    """Tell whether trying again may help: not with a full disk or a missing permission."""
    lasting = error.errno in _REASONS if isinstance(error, OSError) else True
    return not lasting and not any(word in str(error) for word in _LASTING_ANSWERS)


def refusal(error: Exception) -> str:
    """Say in plain words why a storage refused."""
    if isinstance(error, OSError) and error.errno in _REASONS:
        return _REASONS[error.errno]
    if isinstance(error, PermissionError) or "ACCESS_DENIED" in str(error):
        return f"permission denied ({error})"
    if isinstance(error, FileNotFoundError):
        return "there is no such file or folder"
    if isinstance(error, ImportError):
        return f"this kind of storage needs a package that is not installed ({error})"
    return str(error) or type(error).__name__


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
_LASTING_ANSWERS = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "NO_SUCH_BUCKET",
)
"""Answers of S3, in the words of pyarrow, that no second try changes."""


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
