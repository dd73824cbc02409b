"""How much each layer may lose: accuracy against ratio, layer by layer, then one drop for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np

RATIOS = (0.25, 0.5, 0.75, 0.9)
"""Where the curve of each layer is measured."""
BISECTIONS = 24

Curves = dict[str, list[float]]
"""By layer: accuracy lost at each of RATIOS; no higher ratio loses less."""


def measure_curves(
    layers: list[str],
    without: Callable[[str, float], AbstractContextManager[object]],
    accuracy: Callable[[], float],
) -> Curves:
    """Measure what each layer alone costs.

    Args:
        layers: Names.
        without: Silences a share of one layer, for as long as the context lasts.
        accuracy: Of the network as it is.
    """
    whole = accuracy()
    curves: Curves = {}
    for layer in layers:
        losses = []
        for ratio in RATIOS:
            with without(layer, ratio):
                losses.append(whole - accuracy())
        curves[layer] = np.maximum.accumulate(np.maximum(losses, 0.0)).tolist()
    return curves


def allocate(
    curves: Curves, size: Callable[[Mapping[str, float]], int], target: int
) -> dict[str, float]:
    """Give the ratio of each layer at which all lose equally much and `size` meets the target.

    Bisects on the accuracy that every layer alone may lose; the size is at most the target, or the
    least that the highest ratio can give.
    """
    low, high = 0.0, max((losses[-1] for losses in curves.values()), default=0.0) + 1e-6
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if size(ratios_at(curves, middle)) <= target:
            high = middle
        else:
            low = middle
    return ratios_at(curves, high)


def ratios_at(curves: Curves, drop: float) -> dict[str, float]:
    """Give for each layer the highest ratio that loses at most `drop`.

    >>> ratios_at({"a": [0.0, 0.1, 0.2, 0.4], "b": [0.2, 0.4, 0.4, 0.4]}, 0.1)
    {'a': 0.5, 'b': 0.125}
    """
    found = {}
    for layer, losses in curves.items():
        # A vanishing slope keeps the inverse of a flat curve defined, and ratios rising with drop.
        rising = np.array([0.0, *losses]) + 1e-9 * np.arange(len(losses) + 1)
        places = np.array([0.0, *RATIOS])
        found[layer] = round(float(np.interp(drop, rising, places)), 6)
    return found
