"""Training states as files: a head in JSON that anyone can read, then tensors.

```
8 bytes: length of the head | head, JSON in UTF-8 | torch.save of the state
```

One file, written whole, so that head and state always belong together. Nothing in it is
unpickled but tensors and plain containers (`weights_only`). torch is imported where it is needed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from trainables import storage

LENGTH_BYTES = 8
MAX_HEAD_BYTES = 64 * 2**20
"""A head has a few hundred bytes per epoch; more is a torn or foreign file."""

Head = dict[str, Any]


def save_checkpoint(location: str, head: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint whole, in place of an earlier one.

    Args:
        location: any that fsspec knows.
        head: what can be read without torch; plain JSON.
        state: tensors and numbers in dicts and lists, such as `Training.state_dict()`.

    Raises:
        OSError: the storage refused.
    """
    import torch

    text = json.dumps(dict(head)).encode()
    buffer = io.BytesIO()
    buffer.write(len(text).to_bytes(LENGTH_BYTES, "big"))
    buffer.write(text)
    torch.save(dict(state), buffer)
    storage.write_whole(location, buffer.getvalue())


def load_checkpoint(location: str) -> tuple[Head, dict[str, Any]] | None:
    """Read a checkpoint onto the CPU; None if there is none.

    Raises:
        OSError: the storage refused.
        ValueError: the file is torn, or no checkpoint.
    """
    import torch

    try:
        content = storage.read(location)
    except FileNotFoundError:
        return None
    length = _length(content)
    head = _head(content[LENGTH_BYTES : LENGTH_BYTES + length], location)
    try:
        tail = io.BytesIO(content[LENGTH_BYTES + length :])
        state = torch.load(tail, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no error of its own for a torn file
        raise ValueError(f"{location} has a head but no usable state: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{location} is not a checkpoint: its state is {type(state).__name__}")
    return head, state


def read_head(location: str) -> Head | None:
    """Read what a checkpoint says of itself, without its tensors; None if there is none.

    Raises:
        OSError: the storage refused.
        ValueError: the file is torn, or no checkpoint.
    """
    fs, path = storage.locate(location)
    try:
        with fs.open(path, "rb") as file:
            length = _length(file.read(LENGTH_BYTES))
            return _head(file.read(length), location)
    except FileNotFoundError:
        return None


def _length(content: bytes) -> int:
    # A torn file has too short a head, which is then no JSON.
    return min(int.from_bytes(content[:LENGTH_BYTES], "big"), MAX_HEAD_BYTES)


def _head(text: bytes, location: str) -> Head:
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{location} is torn, or no checkpoint") from error
    if not isinstance(head, dict):
        raise ValueError(f"{location} is not a checkpoint: its head is {type(head).__name__}")
    return head
