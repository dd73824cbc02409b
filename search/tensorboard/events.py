"""Event files: one folder per run, written through TensorBoard's own writer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util


class EventLog:
    """Writes one run. What was written is visible to readers after `flush` or `close`."""

    def __init__(self, location: str) -> None:
        # TensorBoard reads and writes local paths and what fsspec knows, which is all we have.
        self._writer = EventFileWriter(location)

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
        """Let readers see what was written."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()

    def _write(self, values: list[summary_pb2.Summary.Value], step: int) -> None:
        event = event_pb2.Event(
            wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=values)
        )
        self._writer.add_event(event)
