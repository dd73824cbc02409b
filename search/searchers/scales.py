"""On which scale a process explains losses best: as they are, or logarithmic.

Errors of networks differ by factors: what doubles a width halves them. On a logarithmic scale
these are straight lines, and one bad network does not drown the differences between good ones.
Other losses are no such thing. So a process is fitted on either scale, and the one on which the
losses were the likelier is kept: nothing has to be known of the metric.

Shapes: n rows, d coordinates, q query points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from search.searchers.gaussian import FIT_ROWS, GaussianProcess, fit, informative_rows, prior_mode

Floats = NDArray[np.float64]

LEAST_OFFSET = 1e-3
"""Of a logarithm; it is the best loss, if that is more: a loss may at best be halved then."""


@dataclass(frozen=True)
class Scale:
    """Losses as they are, or their logarithm above an offset."""

    offset: float | None = None

    def values(self, losses: Floats, /) -> Floats:
        """Give losses on this scale; their order stays."""
        if self.offset is None:
            return losses
        return np.log(np.maximum(losses, 0.0) + self.offset)

    def losses(self, values: Floats, /) -> Floats:
        """Give what has these values on this scale."""
        return values if self.offset is None else np.exp(values) - self.offset

    def slope(self, losses: Floats, /) -> Floats:
        """Give by how much a value grows per loss."""
        if self.offset is None:
            return np.ones_like(losses)
        return 1.0 / (np.maximum(losses, 0.0) + self.offset)


@dataclass(frozen=True)
class ScaledProcess:
    """A process with the scale that its targets are on."""

    process: GaussianProcess
    scale: Scale

    def given(self, rows: Floats, values: Floats, /) -> ScaledProcess:
        """Condition on more rows (k, d) with values (k,) on the scale."""
        return replace(self, process=self.process.given(rows, values))


def fit_on_best_scale(rows: Floats, losses: Floats, noise: Floats, /) -> ScaledProcess:
    """Fit a process on the scale that makes the losses likeliest.

    Args:
        rows: coordinates of shape (n, d), n >= 1.
        losses: shape (n,).
        noise: standard deviation of each loss beyond the learned noise, shape (n,).
    """
    relative = noise / (losses.std() or 1.0)
    subset = informative_rows(rows / prior_mode(rows.shape[1]), relative**2 + 1e-2, FIT_ROWS)
    offset = max(float(losses.min()), LEAST_OFFSET)
    fitted = []
    for scale in (Scale(), Scale(offset)):
        slope = scale.slope(losses)
        process = fit(rows, scale.values(losses), noise=noise * slope, subset=subset)
        evidence = process.evidence + float(np.log(slope[subset]).sum())
        fitted.append((evidence, ScaledProcess(process, scale)))
    return max(fitted, key=lambda found: found[0])[1]
