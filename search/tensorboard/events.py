"""Event files: one folder per run, written through TensorBoard's own writer.

An object store cannot append to a file: there, the writer gets a folder of this machine, and the
file is copied whole, at intervals and at the end.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util

from search.errors import StorageError
from search.study import storage
from trainables.storage import PATIENCE_SECONDS, is_local, locate

COPY_EVERY_SECONDS = 15.0
"""To an object store, of a log that grows: TensorBoard looks for news every 5 seconds or more."""


class EventLog:
    """Writes one run. Readers see it after `close`; in a folder, after each `flush`."""

    def __init__(self, location: str) -> None:
        self._copied = None if is_local(locate(location)[0]) else _Copied(location)
        self._writer = EventFileWriter(self._copied.folder if self._copied else location)

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
        self._writer.flush()
        if self._copied:
            self._copied.renew()

    def close(self) -> None:
        """Write what is left and close the file.

        Raises:
            StorageError: an object store refused for longer than PATIENCE_SECONDS.
        """
        self._writer.close()
        if self._copied:
            self._copied.close()

    def _write(self, values: list[summary_pb2.Summary.Value], step: int) -> None:
        event = event_pb2.Event(
            wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=values)
        )
        self._writer.add_event(event)


class _Copied:
    """A folder of this machine whose files are copied to an object store."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._temporary = tempfile.TemporaryDirectory(prefix="paretune-log-")
        self.folder = self._temporary.name
        self._copied_at = float("-inf")

    def renew(self) -> None:
        """Copy, unless that was done just now; a store that refuses gets it the next time."""
        if time.monotonic() - self._copied_at >= COPY_EVERY_SECONDS:
            with suppress(StorageError):
                self._copy()
            self._copied_at = time.monotonic()

    def close(self) -> None:
        """Copy and remove the folder."""
        try:
            self._copy(patience_seconds=PATIENCE_SECONDS)
        finally:
            self._temporary.cleanup()

    def _copy(self, patience_seconds: float = 0.0) -> None:
        for file in Path(self.folder).iterdir():
            target = storage.join(self.location, file.name)
            storage.write_whole(target, file.read_bytes(), patience_seconds=patience_seconds)
