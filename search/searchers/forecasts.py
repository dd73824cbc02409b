"""Size and latency of a config before it is tried: looked up, or predicted from those seen.

They follow from the structure alone (widths, kernel, pruning, bits), so rows that failed their
bounds, were stopped or diverged teach them as well as measured ones. All values here are losses,
logarithmic for both metrics, in which structures act nearly additively.

Shapes: n rows, f features, q queries, b pairs of bits, m metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search.objectives import Objective
from search.searchers.gaussian import GaussianProcess, fit
from trainables.config import (
    CNN_DEFAULTS,
    STRUCTURE_FIELDS,
    TrialConfig,
    cnn_widths,
    kept_channels,
)

if TYPE_CHECKING:
    from search.study.rows import ResultRow

Floats = NDArray[np.float64]

Bits = tuple[int, int]
"""weight_bits, activation_bits"""
_Key = tuple[Any, ...]
_NETWORK_FIELDS = sorted(STRUCTURE_FIELDS - {"model_args", "weight_bits", "activation_bits"})

TREND_PENALTY = 1e-3
"""Of the ridge under the process, on features of about unit size: enough to be solvable."""


MOST_CONFIGS = 400
"""That models learn from; all are looked up."""
FIT_ROWS, MAX_ROWS = 60, 150
"""Less than for accuracy: there is no noise to see through."""


@dataclass(frozen=True)
class Forecasts:
    """What is known of the forecast metrics of any config."""

    axes: Sequence[Objective]
    seen: Mapping[_Key, Mapping[Bits, Floats]]
    """Losses (m,) by network and bits."""
    features: Features
    models: Sequence[_Trend]
    """One per axis; none before a structure was seen."""

    def predict(
        self, configs: Sequence[TrialConfig], pairs: Sequence[Sequence[Bits]], /
    ) -> tuple[Floats, Floats]:
        """Predict configs under pairs of bits.

        Args:
            configs: q of them.
            pairs: (weight_bits, activation_bits), b for each config.

        Returns:
            Losses and their standard deviations, each of shape (q, b, m); 0 where exact.
        """
        shape = (len(configs), len(pairs[0]) if pairs else 0, len(self.axes))
        mean, sd = np.full(shape, 0.5), np.ones(shape)
        if self.models and configs:
            x = self.features.of(configs, pairs).reshape(shape[0] * shape[1], -1)
            for j, model in enumerate(self.models):
                flat_mean, flat_sd = model.predict(x)
                mean[:, :, j], sd[:, :, j] = (
                    flat_mean.reshape(shape[:2]),
                    flat_sd.reshape(shape[:2]),
                )
        for i, config in enumerate(configs):
            known = self.seen.get(_network_key(config), {})
            for k, pair in enumerate(pairs[i] if known else ()):
                if (exact := known.get(pair)) is not None:
                    mean[i, k], sd[i, k] = exact, 0.0
        return mean, sd


def learn_forecasts(rows: Iterable[ResultRow], axes: Sequence[Objective]) -> Forecasts:
    """Learn from rows that have every metric of the axes; their order should say nothing."""
    configs: list[TrialConfig] = []
    losses: list[Floats] = []
    seen: dict[_Key, dict[Bits, Floats]] = {}
    for row in rows:
        values = [row.metrics.get(axis.metric.name, math.nan) for axis in axes]
        known = seen.setdefault(_network_key(row.config), {})
        if axes and all(map(math.isfinite, values)) and _bits(row.config) not in known:
            loss = np.array([a.loss(v) for a, v in zip(axes, values, strict=True)])
            known[_bits(row.config)] = loss
            if len(configs) < MOST_CONFIGS:
                configs.append(row.config)
                losses.append(loss)
    features = Features(configs)
    models = []
    if configs:
        x = features.of(configs, [[_bits(c)] for c in configs])[:, 0]
        models = [_Trend.fit(x, np.array(losses)[:, j]) for j in range(len(axes))]
    return Forecasts(axes, seen, features, models)


def _network_key(config: TrialConfig) -> _Key:
    """Name what decides size and latency, together with the bits."""
    return (tuple(config.model_args.items()), *(getattr(config, name) for name in _NETWORK_FIELDS))


def _bits(config: TrialConfig) -> Bits:
    return config.weight_bits, config.activation_bits


@dataclass(frozen=True)
class _Trend:
    """A linear trend with a Gaussian process on what it leaves."""

    coefficients: Floats
    centre: float
    rest: GaussianProcess

    @classmethod
    def fit(cls, x: Floats, y: Floats) -> _Trend:
        """Fit to features (n, f) and targets (n,)."""
        centre = float(y.mean())
        gram = x.T @ x + TREND_PENALTY * len(x) * np.eye(x.shape[1])
        coefficients = np.asarray(np.linalg.solve(gram, x.T @ (y - centre)), dtype=np.float64)
        rest = fit(x, y - centre - x @ coefficients, fit_rows=FIT_ROWS, max_rows=MAX_ROWS)
        return cls(coefficients, centre, rest)

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Give mean and standard deviation at features (q, f), each (q,)."""
        mean, sd = self.rest.predict(x)
        return mean + x @ self.coefficients + self.centre, sd


# --- features --------------------------------------------------------------------------------


class Features:
    """Structures as numbers: logarithms of numbers, one-hot for the rest, scaled to [0, 1]."""

    def __init__(self, configs: Sequence[TrialConfig]) -> None:
        described = [_describe(config) for config in configs]
        self.names = sorted({name for found in described for name in found})
        self.pairs = sorted({_bits(config) for config in configs})
        raw = self._matrix(described)
        self.low = raw.min(axis=0) if len(raw) else np.zeros(len(self.names))
        self.span = np.ptp(raw, axis=0) if len(raw) else np.ones(len(self.names))
        self.span[self.span == 0] = 1.0

    def of(self, configs: Sequence[TrialConfig], pairs: Sequence[Sequence[Bits]], /) -> Floats:
        """Give features (n, b, f) of configs under pairs of bits, b for each."""
        networks = (self._matrix([_describe(c) for c in configs]) - self.low) / self.span
        one_hot = np.array([[[float(p == q) for q in self.pairs] for p in ps] for ps in pairs])
        repeated = np.repeat(networks[:, None], one_hot.shape[1], axis=1)
        return np.concatenate([repeated, one_hot], axis=2)

    def _matrix(self, described: Sequence[Mapping[str, float]]) -> Floats:
        rows = [[found.get(name, 0.0) for name in self.names] for found in described]
        return np.reshape(rows, (len(rows), len(self.names))).astype(np.float64)


def _describe(config: TrialConfig) -> dict[str, float]:
    found = {"kept": math.log(1.0 - config.pruning_ratio)}
    for name in _NETWORK_FIELDS:
        if name != "pruning_ratio":
            found |= _argument(name, getattr(config, name))
    for name, value in config.model_args.items():
        found |= _argument(name, value)
    if config.model == "cnn":
        found |= _cnn_features(config)
    return found


def _argument(name: str, value: Any) -> dict[str, float]:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return {name: math.log1p(value)}
    return {f"{name}={value}": 1.0}


def _cnn_features(config: TrialConfig) -> dict[str, float]:
    """Give logarithms of weights and multiplications: a linear trend then fits nearly exactly."""
    args = CNN_DEFAULTS | config.model_args
    pruned = config.pruning_ratio if config.pruning_method == "filter" else 0.0
    widths = [kept_channels(width, pruned) for width in cnn_widths(args)]
    area = int(args["kernel_size"]) ** 2
    weights = multiplications = 0.0
    for stage, width in enumerate(widths):
        before = widths[stage - 1] if stage else 1
        layer = area * width * (before + width)
        weights += layer
        multiplications += layer / 4**stage
    weights += widths[-1] * kept_channels(int(args["fc_width"]), pruned)
    return {"weights": math.log(weights), "multiplications": math.log(multiplications)}
