"""From the accuracy of a trial part way to the accuracy it would end with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.contract import Status

if TYPE_CHECKING:
    from search.study.rows import ResultRow

Floats = NDArray[np.float64]

ENOUGH_CURVES = 4
"""Finished curves before anything is extrapolated from them."""
SLOPE_PENALTY = 2.0
"""Curves' worth of belief that what a trial lacks now it lacks at the end (slope 1): trials that
went to their last epoch are the good ones, and a line through them alone would mislead."""
LEAST_SD = 0.01
"""Of an extrapolated accuracy: the spread of two runs that differ in their seed alone."""


@dataclass(frozen=True)
class LearningCurves:
    """Curves of finished trials, over the share of their epochs."""

    curves: tuple[Floats, ...]
    """Accuracies by epoch; the last is the final one."""

    @classmethod
    def of(cls, rows: Iterable[ResultRow]) -> LearningCurves:
        """Take the curves of measured rows; siblings have none of their own."""
        curves = (
            np.array([point["accuracy"] for point in row.curve])
            for row in rows
            if row.status is Status.MEASURED and len(row.curve) > 1
        )
        return cls(tuple(curves))

    def final(self, share: float, accuracy: float, /) -> tuple[float, float] | None:
        """Extrapolate: give the final accuracy and its standard deviation; None if unknown.

        A line from accuracy at this share of the epochs to final accuracy, drawn to slope 1.
        """
        if len(self.curves) < ENOUGH_CURVES:
            return None
        now = np.array([_at(curve, share) for curve in self.curves])
        end = np.array([curve[-1] for curve in self.curves])
        dx, dy = now - now.mean(), end - end.mean()
        spread = float(dx @ dx)
        prior = SLOPE_PENALTY * (spread / len(now) + LEAST_SD**2)
        slope = (float(dx @ dy) + prior) / (spread + prior)
        rest = dy - slope * dx
        sd = float(np.sqrt(rest @ rest / (len(now) - 2) + LEAST_SD**2))
        mean = end.mean() + slope * (accuracy - now.mean())
        # Far outside of what was seen the line is worth less.
        far = (accuracy - now.mean()) ** 2 / (spread + prior)
        return float(np.clip(mean, 0.0, 1.0)), sd * float(np.sqrt(1.0 + far))


def _at(curve: Floats, share: float) -> float:
    """Give the accuracy at a share of the epochs, between two of them if need be."""
    epochs = np.arange(1, len(curve) + 1) / len(curve)
    return float(np.interp(share, epochs, curve))
