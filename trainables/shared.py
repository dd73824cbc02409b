"""Networks that trials of one study share: trained up to pruning, then compressed in many ways."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any

from trainables.checkpoint import Head, load_checkpoint, save_checkpoint
from trainables.config import TrialConfig

log = logging.getLogger("paretune")


class SharedNetwork:
    """The place of one network, named after all that it was trained with."""

    def __init__(self, folder: str | None, config: TrialConfig, data_fingerprint: str):
        parts = [config.canonical().training_part(), config.shared_epochs, data_fingerprint]
        text = json.dumps(parts, sort_keys=True)
        self.name = hashlib.sha256(text.encode()).hexdigest()[:16]
        """Equal for all trials that train alike up to pruning."""
        shared = folder is not None and config.shared_epochs > 0
        self.location = f"{folder}/{self.name}.pt" if shared else None

    def load(self) -> tuple[Head, dict[str, Any]] | None:
        """Give what `save` left; None if there is nothing to use: the trial trains by itself."""
        if self.location is None:
            return None
        try:
            return load_checkpoint(self.location)
        except (OSError, ValueError) as error:
            log.warning("a shared network is left out: %s", error)
            return None

    def save(self, head: Head, state: Callable[[], dict[str, Any]]) -> None:
        """Leave the network to others; a storage that refuses costs them time, nobody's trial."""
        if self.location is None:
            return
        try:
            save_checkpoint(self.location, head, state())
        except OSError as error:
            log.warning("a network could not be shared: %s", error)
