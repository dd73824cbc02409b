"""What one dimension of the space can be: a choice of values, or a range.

A dimension is mapped to coordinates in [0, 1]. Uniform coordinates give uniform values (on the
logarithmic axis where it is logarithmic): every discrete value owns an equal share of its
coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

Scalar = int | float | str | bool
Unit = Sequence[float] | NDArray[np.float64]
"""Coordinates in [0, 1] of one dimension."""


@dataclass(frozen=True)
class Choice:
    """One of a few values. Numbers are in rising order; one value alone is fixed."""

    values: tuple[Scalar, ...]

    @property
    def count(self) -> int:
        """How many values there are."""
        return len(self.values)

    @cached_property
    def ordered(self) -> bool:
        """Whether the values are numbers, so that neighbours are alike."""
        return all(map(is_number, self.values))

    @cached_property
    def coordinates(self) -> int:
        """None if fixed, one if ordered, else one per value."""
        if self.count == 1:
            return 0
        return 1 if self.ordered else self.count

    def at(self, index: int) -> Scalar:
        """Give the value at a place in the order."""
        return self.values[index]

    def nearest(self, value: object) -> Scalar:
        """Give the value itself where it is one of the choices, else the closest one."""
        if value in self.values:
            return next(own for own in self.values if own == value)
        if self.ordered and is_number(value):
            return min(self.values, key=lambda v: abs(v - value))  # type: ignore[operator]
        return self.values[0]

    def to_unit(self, value: Scalar) -> list[float]:
        """Give the middle of the value's share, or 1 in its own coordinate and 0 in the rest."""
        if self.coordinates == 1:
            return [(self.values.index(value) + 0.5) / self.count]
        return [float(v == value) for v in self.values[: self.coordinates]]

    def from_unit(self, unit: Unit) -> Scalar:
        """Give the value whose share it is in, or whose own coordinate is highest."""
        if self.coordinates == 0:
            return self.values[0]
        if self.coordinates == 1:
            return self.values[_share(unit[0], self.count)]
        return self.values[max(range(self.count), key=lambda i: unit[i])]

    def to_yaml(self) -> object:
        """Give what stands in a sweep file."""
        return self.values[0] if self.count == 1 else list(self.values)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    integer: bool = False
    step: int = 1
    """Between neighbours; only where `integer` and not `log`."""

    coordinates = 1

    @property
    def count(self) -> int | None:
        """How many values there are; None for a continuous range."""
        return int(self.high - self.low) // self.step + 1 if self.integer else None

    def at(self, index: int) -> Scalar:
        """Give the value at a place in the order; only where `integer`."""
        return int(self.low) + index * self.step

    def nearest(self, value: object) -> Scalar:
        """Give the value itself where it is in the range, else the closest one."""
        number = min(max(value, self.low), self.high) if is_number(value) else self.low
        if not self.integer:
            return float(number)
        return self.at(round((number - self.low) / self.step))

    def to_unit(self, value: Scalar) -> list[float]:
        """Give the place between the ends; of whole numbers, the place in the value's share."""
        low, high = self._edges()
        number = float(value)
        if self.log:
            low, high, number = math.log(low), math.log(high), math.log(number)
        return [(number - low) / (high - low)]

    def from_unit(self, unit: Unit) -> Scalar:
        """Give the value at a place between the ends."""
        place = min(max(float(unit[0]), 0.0), 1.0)
        low, high = self._edges()
        if self.log:
            number = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
        else:
            number = low + place * (high - low)
        # Rounding brings back exactly the value that `to_unit` was given.
        return self.nearest(number if self.integer else self._short(number))

    def to_yaml(self) -> object:
        """Give what stands in a sweep file."""
        kind = {
            (False, False): "uniform",
            (True, False): "log_uniform",
            (False, True): "int",
            (True, True): "log_int",
        }[self.log, self.integer]
        step = {"step": self.step} if self.step != 1 else {}
        ends = [self.at(0), self.at(self.count - 1)] if self.count else [self.low, self.high]
        return {kind: ends, **step}

    def _edges(self) -> tuple[float, float]:
        """Give the ends of the axis: half a step further out where values are whole numbers."""
        half = self.step / 2 if self.integer else 0.0
        return self.low - half, self.high + half

    def _short(self, number: float) -> float:
        """Round to a millionth of the axis: finer differences mean nothing and read badly."""
        if self.log:
            return float(f"{number:.6g}")
        return round(number, 6 - math.floor(math.log10(self.high - self.low)))


Dimension = Choice | Range


def _share(place: float, count: int) -> int:
    return min(max(int(place * count), 0), count - 1)


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Tell whether a value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)
