"""Signals that end a sweep in order."""

from __future__ import annotations

import signal
from typing import Self

from search.observer import SweepObserver
from trainables.config import TrialConfig


class Interrupts(SweepObserver):
    """Within it, SIGINT and SIGTERM raise KeyboardInterrupt.

    Also where SIGINT was ignored at the start, as shells do for what runs in the background.
    """

    def __enter__(self) -> Self:
        self._before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        self._install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def trial_started(self, trial_id: str, config: TrialConfig) -> None:
        """Take the signals back: Ray puts a handler of its own for SIGTERM when it starts."""
        self._install()

    def _install(self) -> None:
        for number in self._before:
            signal.signal(number, signal.default_int_handler)
