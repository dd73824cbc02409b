"""A sign of life from a worker that waits its turn, so that the driver does not take it to hang.

A worker can say nothing between two results; Ray's key-value store is where it leaves a note.
"""

from __future__ import annotations

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put


def say_waiting(trial_id: str) -> None:
    """Leave the note that a trial waits for others."""
    _internal_kv_put(_key(trial_id), b"", overwrite=True)


def has_waited(trial_id: str) -> bool:
    """Tell whether a trial has left the note, and take it away."""
    return bool(_internal_kv_del(_key(trial_id)))


def _key(trial_id: str) -> str:
    return f"paretune-waits-{trial_id}"
