"""Event files: one folder per run, in the records that TensorBoard reads.

TensorBoard's own writer of files is not used: it writes from a thread of its own, where a full
disk ends in a traceback, and it cannot write to an object store.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

from search.errors import StorageError
from search.study import storage
from trainables.storage import PATIENCE_SECONDS, is_local, locate

COPY_EVERY_SECONDS = 15.0
"""To an object store, of a log that grows: TensorBoard looks for news every 5 seconds or more."""
FILE_VERSION = "brain.Event:2"

_numbers = itertools.count()


class EventLog:
    """Writes one run. Readers see it after `close`; in a folder, after each `flush`."""

    def __init__(self, location: str) -> None:
        now = time.time()
        name = f"{now:010.0f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._file = _open(storage.join(location, f"events.out.tfevents.{name}"))
        self._records = RecordWriter(self._file)
        self._add(event_pb2.Event(wall_time=now, file_version=FILE_VERSION))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by tag."""
        value = summary_pb2.Summary.Value
        self._write([value(tag=tag, simple_value=number) for tag, number in values.items()], step)

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Write a text, which TensorBoard shows as Markdown."""
        shown = summary_pb2.Summary.Value(
            tag=tag,
            metadata=text_metadata.create_summary_metadata(tag, ""),
            tensor=tensor_util.make_tensor_proto([text.encode()]),
        )
        self._write([shown], step)

    def image(self, tag: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """Write a PNG of (width, height) pixels."""
        width, height = size
        picture = summary_pb2.Summary.Image(
            width=width, height=height, colorspace=3, encoded_image_string=png
        )
        self._write([summary_pb2.Summary.Value(tag=tag, image=picture)], step)

    def hparams(self, tag: str, **content: Any) -> None:
        """Write one record of the HParams plugin: an experiment, a session's start or end."""
        data = plugin_data_pb2.HParamsPluginData(**content)
        record = summary_pb2.Summary.Value(
            tag=tag,
            metadata=metadata.create_summary_metadata(data),
            tensor=metadata.NULL_TENSOR,
        )
        self._write([record], 0)

    def flush(self) -> None:
        """Let readers see what was written; in an object store, unless that was done just now."""
        self._file.flush()

    def close(self) -> None:
        """Write what is left and close the file.

        Raises:
            StorageError: an object store refused for longer than PATIENCE_SECONDS.
        """
        self._file.close()

    def _write(self, values: list[summary_pb2.Summary.Value], step: int) -> None:
        summary = summary_pb2.Summary(value=values)
        self._add(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))

    def _add(self, event: event_pb2.Event) -> None:
        self._records.write(event.SerializeToString())


def _open(location: str) -> BinaryIO | _Object:
    fs, path = locate(location)
    if not is_local(fs):
        return _Object(location)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path).open("wb")


class _Object:
    """A file that grows in memory; an object store, which cannot append, gets it whole."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._content = bytearray()
        self._copied_at = float("-inf")

    def write(self, more: bytes) -> None:
        self._content += more

    def flush(self) -> None:
        """Copy, unless that was done just now; a store that refuses gets it the next time."""
        if time.monotonic() - self._copied_at >= COPY_EVERY_SECONDS:
            with suppress(StorageError):
                storage.write_whole(self.location, bytes(self._content))
            self._copied_at = time.monotonic()

    def close(self) -> None:
        content = bytes(self._content)
        storage.write_whole(self.location, content, patience_seconds=PATIENCE_SECONDS)
