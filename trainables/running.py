"""What a trial under way leaves in the study, so that any worker can go on with it.

A trial that is started again finds its file by its trial id: after a lost worker or node in the
same sweep, and after a dead driver in the next one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from trainables.checkpoint import Head, load_checkpoint, save_checkpoint
from trainables.storage import refusal

CHECKPOINT_SHARE = 0.05
"""Of the time of a trial that may be spent on writing checkpoints. Networks that train for
milliseconds per epoch are saved every few epochs, larger ones after each."""

log = logging.getLogger("paretune")


def checkpoint_name(trial_id: str) -> str:
    """Give the file name of a trial under way."""
    return f"{trial_id}.ckpt"


class RunningFile:
    """The file of one trial under way."""

    def __init__(self, folder: str | None, trial_id: str, *, always: bool = False) -> None:
        self.location = folder and f"{folder}/{checkpoint_name(trial_id)}"
        """None: nothing is kept."""
        self.always = always
        """Whether every epoch is kept, whatever that costs."""
        self._cost_seconds = 0.0
        self._saved_at = float("-inf")

    def load(self) -> tuple[Head, dict[str, Any]] | None:
        """Read what the trial left; None if it begins, or if that cannot be used."""
        if not self.location:
            return None
        try:
            return load_checkpoint(self.location)
        except (OSError, ValueError) as error:
            log.warning("a trial begins again: %s", error)
            return None

    def save(self, head: Head, state: Callable[[], dict[str, Any]]) -> None:
        """Write where the trial is, unless that would cost too much of its time.

        A storage that refuses does not end the trial: there will be a next epoch.
        """
        started = time.monotonic()
        soon = started - self._saved_at < self._cost_seconds / CHECKPOINT_SHARE
        if not self.location or (soon and not self.always):
            return
        try:
            save_checkpoint(self.location, head, state())
        except OSError as error:
            log.warning("no checkpoint at %s: %s", self.location, refusal(error))
        self._saved_at = time.monotonic()
        self._cost_seconds = self._saved_at - started
