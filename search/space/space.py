"""What may vary: dimensions around a base config, as canonical trial configs.

A point of the space is one value per dimension. Several points can mean the same trial (see
`TrialConfig.canonical`); outside of this module only canonical configs are seen.
Shapes: d coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.space.dimensions import Choice, Dimension, Range, Scalar
from trainables.config import BITS_ON, COMPRESSION_FIELDS, MODEL_ARGUMENT_FIELDS, TrialConfig

FACTORY_PREFIX = "model."
"""Dimensions `model.NAME` are arguments of a `package.module:function`."""

COUNT_LIMIT = 2000
"""Points up to which `Space.size` merges those that mean the same: canonicalising them takes
about 0.1 s, and `check` has to answer in less than a second."""

_BITS = ("weight_bits", "activation_bits")

Point = Mapping[str, Scalar]
"""One value per dimension."""


@dataclass(frozen=True)
class Space:
    """Dimensions by name, and the config that gives everything else."""

    dimensions: Mapping[str, Dimension]
    base: TrialConfig = field(default_factory=TrialConfig)
    device: str | None = None
    """Where models are deployed, which decides the pairs of bits that are run. None: not known."""

    def __post_init__(self) -> None:
        if not self.bits_pairs:
            raise ValueError(
                f"got {bits_names(self.excluded_bits)}, which the runtime does not really "
                f"execute; allowed: {bits_names(self._executed)}"
            )

    # --- configs ---------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator) -> TrialConfig:
        """Draw a canonical config: every dimension uniform on its axis, allowed bits only."""
        while (config := self.drawn(rng.random(self.coordinates))) is None:
            pass
        return config

    def drawn(self, unit: NDArray[np.float64]) -> TrialConfig | None:
        """Give the canonical config at coordinates (d,); None if its bits are not run.

        Leaving those out keeps draws uniform over the pairs of bits that are run.
        """
        point = self._decode(unit)
        return self.config(point) if self._bits(point) in self._executed else None

    def config(self, point: Point) -> TrialConfig:
        """Give the canonical config of a point; arguments that its model does not take go."""
        model = str(point.get("model", self.base.model))
        changes: dict[str, Any] = {}
        arguments = dict(self.base.model_args)
        for name, value in point.items():
            if (argument := _argument(name)) is None:
                changes[name] = value
            elif _takes(model, name):
                arguments[argument] = value
        changes["model_args"] = dict(sorted(arguments.items()))
        return self.base.model_copy(update=changes).canonical()

    def contains(self, config: TrialConfig) -> bool:
        """Tell whether some point of the space means the same as the config."""
        point = self._point(config)
        return self._bits(point) in self._executed and self.config(point) == config.canonical()

    @property
    def bits_pairs(self) -> list[tuple[int, int]]:
        """Every (weight_bits, activation_bits) that the space has and the runtime executes."""
        return [pair for pair in self._all_bits if pair in self._executed]

    @property
    def excluded_bits(self) -> list[tuple[int, int]]:
        """Pairs of bits that the dimensions name and the runtime would not really execute."""
        return [pair for pair in self._all_bits if pair not in self._executed]

    @cached_property
    def _executed(self) -> set[tuple[int, int]]:
        devices = BITS_ON if self.device is None else (self.device,)
        return {pair for device in devices for pair in BITS_ON[device]}

    def shares_training(self, *, siblings: bool) -> bool:
        """Tell whether trials may train alike and differ in their compression alone.

        With `siblings` bits are tried on every network anyway, and make no further trials.
        """
        varying = {name for name, d in self.dimensions.items() if d.count != 1}
        compression = COMPRESSION_FIELDS - (set(_BITS) if siblings else set())
        training = varying - COMPRESSION_FIELDS
        return bool(varying & compression) and not training & set(self.continuous)

    @property
    def models(self) -> list[str]:
        """Every model that the space has."""
        return [str(value) for value in self.values("model")]

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest trial."""
        dimension = self.dimensions.get("epochs")
        if isinstance(dimension, Range):
            return int(dimension.high)
        return max(int(value) for value in self.values("epochs"))

    def values(self, name: str) -> tuple[Scalar, ...]:
        """Give the values of a field of the config that is fixed or a choice; of a range, none."""
        dimension = self.dimensions.get(name)
        if dimension is None:
            return (getattr(self.base, name),)
        return dimension.values if isinstance(dimension, Choice) else ()

    # --- counting --------------------------------------------------------------------------

    @property
    def is_finite(self) -> bool:
        """Whether no dimension is continuous."""
        return not self.continuous

    @property
    def continuous(self) -> list[str]:
        """Names of the continuous dimensions."""
        return [name for name, d in self.dimensions.items() if d.count is None]

    def size(self) -> int | None:
        """Count the distinct configs; None if the space is continuous.

        Above COUNT_LIMIT points it is the number of points, of which several may mean the same.
        """
        if not self.is_finite:
            return None
        points = math.prod(d.count or 0 for n, d in self.dimensions.items() if n not in _BITS)
        points *= len(self.bits_pairs)
        return sum(1 for _ in self.grid()) if points <= COUNT_LIMIT else points

    def grid(self) -> Iterator[TrialConfig]:
        """Give every config of a finite space once, the last dimension changing fastest."""
        axes = [[d.at(i) for i in range(d.count or 0)] for d in self.dimensions.values()]
        points = (dict(zip(self.dimensions, values, strict=True)) for values in product(*axes))
        yield from self.configs(points)

    def configs(self, points: Iterator[Point]) -> Iterator[TrialConfig]:
        """Give the config of each point, without repeats and without bits that are not run."""
        seen = set()
        for point in points:
            if self._bits(point) in self._executed:
                config = self.config(point)
                if (name := config.trial_id) not in seen:
                    seen.add(name)
                    yield config

    # --- the unit cube ---------------------------------------------------------------------

    @cached_property
    def coordinates(self) -> int:
        """Length of a unit vector."""
        return sum(d.coordinates for d in self.dimensions.values())

    def to_unit(self, config: TrialConfig) -> NDArray[np.float64]:
        """Give coordinates (d,) in [0, 1] of a config, the nearest ones if it is outside."""
        point = self._point(config)
        parts = (d.to_unit(point[name]) for name, d in self.dimensions.items())
        return np.array([place for part in parts for place in part], dtype=np.float64)

    def from_unit(self, unit: NDArray[np.float64]) -> TrialConfig:
        """Give the canonical config at coordinates (d,); bits become the nearest allowed ones."""
        point = self._decode(unit)
        if self._bits(point) not in self._executed:
            point = min(self._with_allowed_bits(point), key=lambda p: self._distance(p, unit))
        return self.config(point)

    def active_point(self, config: TrialConfig) -> dict[str, Scalar]:
        """Give the value of each dimension that matters to a config.

        A ratio does not where nothing is pruned. A number does not matter if both ends of its
        dimension mean the same config; choices that are no numbers (methods) always count,
        because they decide which others matter.
        """
        point = self._point(config)
        meant = self.config(point)
        return {
            name: point[name]
            for name, d in self.dimensions.items()
            if not _is_numeric(d)
            or any(self.config({**point, name: end}) != meant for end in _ends(d))
        }

    # --- points ----------------------------------------------------------------------------

    def _decode(self, unit: NDArray[np.float64]) -> dict[str, Scalar]:
        point, start = {}, 0
        for name, dimension in self.dimensions.items():
            end = start + dimension.coordinates
            point[name] = dimension.from_unit(unit[start:end])
            start = end
        return point

    def _point(self, config: TrialConfig) -> dict[str, Scalar]:
        """Give the point that means a config, if there is one; else one nearby.

        Canonicalising moves values off their dimension (a ratio to the middle of those with the
        same channels, what cannot matter to its default); the nearest value leads back, because
        the values that mean the same lie next to each other.
        """
        config = config.canonical()
        point = {}
        for name, dimension in self.dimensions.items():
            argument = _argument(name)
            value = getattr(config, name) if argument is None else config.model_args.get(argument)
            point[name] = dimension.nearest(value)
        return point

    def _distance(self, point: Point, unit: NDArray[np.float64]) -> float:
        parts = (d.to_unit(point[name]) for name, d in self.dimensions.items())
        return math.dist([place for part in parts for place in part], unit)

    def _with_allowed_bits(self, point: Point) -> list[dict[str, Scalar]]:
        varying = [name for name in _BITS if name in self.dimensions]
        return [
            {**point, **{n: v for n, v in zip(_BITS, pair, strict=True) if n in varying}}
            for pair in self.bits_pairs
        ]

    def _bits(self, point: Point) -> tuple[int, int]:
        weight, activation = (point.get(name, getattr(self.base, name)) for name in _BITS)
        return int(weight), int(activation)

    @property
    def _all_bits(self) -> list[tuple[int, int]]:
        weights, activations = (map(int, self.values(name)) for name in _BITS)
        return list(product(weights, activations))


def _is_numeric(dimension: Dimension) -> bool:
    return isinstance(dimension, Range) or dimension.ordered


def _ends(dimension: Dimension) -> tuple[Scalar, Scalar]:
    if isinstance(dimension, Choice):
        return dimension.values[0], dimension.values[-1]
    return dimension.nearest(dimension.low), dimension.nearest(dimension.high)


def bits_names(pairs: Iterable[tuple[int, int]]) -> str:
    """Give `W8A32, W8A8`."""
    return ", ".join(f"W{weight}A{activation}" for weight, activation in pairs)


def _argument(dimension: str) -> str | None:
    """Give the name of the model's argument that a dimension sets; None if it sets none."""
    if dimension in MODEL_ARGUMENT_FIELDS:
        return dimension
    return dimension.removeprefix(FACTORY_PREFIX) if FACTORY_PREFIX in dimension else None


def _takes(model: str, dimension: str) -> bool:
    """Tell whether a model takes the argument that a dimension sets."""
    return model == "cnn" if dimension in MODEL_ARGUMENT_FIELDS else ":" in model
