"""What searchers with a model share: evidence from rows, and candidates to choose from.

A *network* is a config without its bits: with siblings on, one training measures it under every
pair of bits, so that is what these searchers choose.

Shapes: n configs, b siblings of each, d coordinates.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from search.searchers.contract import Problem, Searcher
from search.searchers.forecasts import learn_forecasts
from search.searchers.random import draws
from search.searchers.region import Region
from search.space.dimensions import Choice, Range
from trainables.config import TrialConfig
from trainables.contract import Status

if TYPE_CHECKING:
    from search.study.rows import ResultRow

Floats = NDArray[np.float64]

LIKELY = 0.5
"""Probability from which a forecast counts as keeping the bounds."""
START_DRAWS = 64
"""Draws of which the first that is likely to keep the bounds is taken."""
FINITE_POOL = 600
"""Configs up to which all of a finite space are candidates, at every suggestion."""
MUTATION_SHARE = 0.4
"""Of the dimensions of a neighbour that differ, and their step on the unit axis below: both from
the prototype that was measured against classic methods."""
MUTATION_STEP = 0.15
ONE_HOT_SCALE = 0.7
"""Two categories then lie 1 apart, as the ends of a range do."""


Bits = tuple[int, int]
"""weight_bits, activation_bits"""
BITS = ("weight_bits", "activation_bits")


@dataclass(frozen=True)
class Pool:
    """Candidates, each with what a training of it measures."""

    configs: Sequence[TrialConfig]
    pairs: Sequence[Sequence[Bits]]
    """Bits of the siblings of each candidate, n times b."""
    units: Floats
    """Coordinates of the siblings, shape (n, b, d)."""

    def __getitem__(self, chosen: NDArray[np.int64]) -> Pool:
        """Give some of the candidates."""
        picked = [int(i) for i in chosen]
        return Pool(
            [self.configs[i] for i in picked], [self.pairs[i] for i in picked], self.units[picked]
        )

    def own(self) -> Pool:
        """Give each candidate with one sibling only: the one under its own bits."""
        places = [list(p).index(bits_of(c)) for c, p in zip(self.configs, self.pairs, strict=True)]
        units = self.units[np.arange(len(places)), places][:, None]
        return Pool(self.configs, [[bits_of(c)] for c in self.configs], units)


def bits_of(config: TrialConfig) -> Bits:
    """Give (weight_bits, activation_bits)."""
    return config.weight_bits, config.activation_bits


def under_bits(config: TrialConfig, pair: Bits) -> TrialConfig:
    """Give the config with other bits."""
    weight, activation = pair
    changed = config.model_copy(update={"weight_bits": weight, "activation_bits": activation})
    return changed.canonical()


class ModelSearcher(Searcher):
    """Draws the first trials at random, then suggests what its model finds best."""

    startup_trials = 8
    """Networks to know before the model is asked."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.space = problem.space
        self.region = Region(problem)
        self.siblings = problem.search.siblings and len(self.space.bits_pairs) > 1
        self._rows: dict[str, ResultRow] = {}
        self._transferred: dict[str, ResultRow] = {}
        self._under_way: dict[str, TrialConfig] = {}
        self._heard: dict[str, tuple[int, float]] = {}
        self._networks: dict[str, str] = {}
        self._units: dict[str, Floats] = {}

    # --- the contract ------------------------------------------------------------------------

    def ask(self) -> TrialConfig | None:
        """Suggest a config, and remember that it is under way."""
        if (config := super().ask()) is not None:
            self._under_way[config.trial_id] = config
        return config

    def adopt(self, config: TrialConfig) -> None:
        """Hear of a trial under way that was not asked for; what it was stopped with is over."""
        super().adopt(config)
        self._rows.pop(config.trial_id, None)
        self._under_way[config.trial_id] = config

    def tell(self, row: ResultRow) -> None:
        """Hear of a row."""
        super().tell(row)
        self._rows[row.trial_id] = row
        self._under_way.pop(row.trial_id, None)
        self._heard.pop(row.trial_id, None)

    def hear(self, config: TrialConfig, epoch: int, accuracy: float) -> None:
        """Hear of an epoch of a trial under way."""
        if config.trial_id in self._under_way:
            self._heard[config.trial_id] = (epoch, accuracy)

    def transfer(self, row: ResultRow) -> None:
        """Hear of a row of an unlike study."""
        self._transferred[row.trial_id] = row

    def propose(self) -> Iterator[TrialConfig]:
        """Give the model's choice; before there is a model, and after its choices, draws."""
        rest = draws(self.space, seed=self.problem.seed, quasi_random=True)
        # Small matrices: several BLAS threads would cost more than they bring.
        threads = ThreadpoolController()
        while True:
            with threads.limit(limits=1, user_api="blas"):
                config = self.suggest() if self._is_ready() else self._start()
            if config is None:
                config = next((c for c in rest if c.trial_id not in self._known), None)
            if config is None:
                return
            yield config

    @abstractmethod
    def suggest(self) -> TrialConfig | None:
        """Give the best config that is not known; None if the model finds none."""

    def _is_ready(self) -> bool:
        tried = {self.network_of(row) for row in self._rows.values() if "accuracy" in row.metrics}
        started = tried | {self.network_key(config) for config in self._under_way.values()}
        return bool(tried) and len(started) >= self.startup_trials

    def _start(self) -> TrialConfig | None:
        """Give a draw whose forecast keeps the bounds; None if any draw does."""
        bounded = (self.region.forecast & self.region.bounded).any()
        if not bounded or not self._rows:
            return None
        return self.first_free(self.candidates(self.rng(), [], START_DRAWS))

    # --- evidence ----------------------------------------------------------------------------

    @property
    def rows(self) -> list[ResultRow]:
        """Rows of this study, in an order that does not depend on that of telling."""
        return [self._rows[trial_id] for trial_id in sorted(self._rows)]

    @property
    def transferred(self) -> list[ResultRow]:
        """Rows of unlike studies whose config was not tried here."""
        return [
            self._transferred[trial_id]
            for trial_id in sorted(self._transferred.keys() - self._rows.keys())
        ]

    @property
    def under_way(self) -> list[TrialConfig]:
        """Configs that were suggested and have no row yet."""
        return [self._under_way[trial_id] for trial_id in sorted(self._under_way)]

    @property
    def heard(self) -> list[tuple[TrialConfig, int, float]]:
        """Config, epoch and accuracy of trials under way that ended an epoch."""
        return [(self._under_way[i], *self._heard[i]) for i in sorted(self._heard)]

    def rng(self) -> np.random.Generator:
        """Give the generator of the next suggestion: rebuilt from rows, it is the same."""
        return np.random.default_rng([self.problem.seed, len(self._known)])

    def is_known(self, config: TrialConfig) -> bool:
        """Tell whether a config was suggested or told before."""
        return config.trial_id in self._known

    # --- networks and their siblings ---------------------------------------------------------

    @cached_property
    def pairs(self) -> list[Bits]:
        """Give every (weight_bits, activation_bits) of the space, lowest first."""
        return sorted(self.space.bits_pairs)

    def siblings_of(self, config: TrialConfig) -> list[TrialConfig]:
        """Give all configs that a training of this one measures, itself included."""
        return [under_bits(config, pair) for pair in self.pairs] if self.siblings else [config]

    def network_key(self, config: TrialConfig) -> str:
        """Name the network that a config trains; without siblings, the config itself."""
        # The lowest bits, because only there every setting of quantization matters.
        return (under_bits(config, self.pairs[0]) if self.siblings else config).trial_id

    def network_of(self, row: ResultRow) -> str:
        """Give the network_key of a row; it is asked for again and again."""
        if row.trial_id not in self._networks:
            self._networks[row.trial_id] = self.network_key(row.config)
        return self._networks[row.trial_id]

    def pool(self, configs: Sequence[TrialConfig]) -> Pool:
        """Give configs with the coordinates of all their siblings."""
        units = self.units(configs)[:, None, :]
        if not self.siblings:
            return Pool(configs, [[bits_of(c)] for c in configs], units)
        units = np.repeat(units, len(self.pairs), axis=1)
        for name, values in zip(BITS, zip(*self.pairs, strict=True), strict=True):
            if (column := self._column(name)) is not None:
                dimension = self.space.dimensions[name]
                units[:, :, column] = [dimension.to_unit(value)[0] for value in values]
        return Pool(configs, [self.pairs] * len(configs), units)

    def first_free(self, configs: Sequence[TrialConfig]) -> TrialConfig | None:
        """Give the first config that is new and likely to keep the bounds, under fitting bits.

        Those are the highest bits whose forecast keeps the bounds: the forecast of the trial's own
        bits decides whether it runs at all. If none is likely to, the likeliest; None if none is
        new.
        """
        pool = self.pool(configs)
        chances = self._forecast_chances(pool)
        for least in (LIKELY, 0.0):
            order = range(len(configs)) if least else np.argsort(-chances.max(axis=1))
            for i in order:
                siblings = zip(self.siblings_of(configs[i]), chances[i], strict=True)
                free = [(c, p) for c, p in siblings if not self.is_known(c)]
                if len(free) == chances.shape[1] and (
                    likely := [c for c, p in free if p >= least]
                ):
                    return likely[-1] if least else max(free, key=lambda pair: pair[1])[0]
        return None

    def _forecast_chances(self, pool: Pool) -> Floats:
        """Give the probability that the forecast of each sibling keeps the bounds, (n, b)."""
        axes = self.region.forecast & self.region.bounded
        shape = pool.units.shape[:2]
        if not axes.any() or not pool.configs:
            return np.ones(shape)
        forecasts = learn_forecasts(self.rows, [self.region.axes[j] for j in np.flatnonzero(axes)])
        mean, sd = np.zeros((*shape, len(axes))), np.ones((*shape, len(axes)))
        mean[:, :, axes], sd[:, :, axes] = forecasts.predict(pool.configs, pool.pairs)
        return self.region.chance(mean, sd, axes)

    # --- coordinates -------------------------------------------------------------------------

    def units(self, configs: Sequence[TrialConfig]) -> Floats:
        """Give coordinates of configs as a model takes them, shape (n, d)."""
        units = [self.space.to_unit(config) for config in configs]
        return np.reshape(units, (len(configs), self.space.coordinates)) * self._scales

    def units_of(self, rows: Sequence[ResultRow]) -> Floats:
        """Give coordinates of the configs of rows, shape (n, d)."""
        for row in rows:
            if row.trial_id not in self._units:
                self._units[row.trial_id] = self.space.to_unit(row.config) * self._scales
        found = [self._units[row.trial_id] for row in rows]
        return np.reshape(found, (len(rows), self.space.coordinates))

    @cached_property
    def _scales(self) -> Floats:
        """Factor of each coordinate, shape (d,): see ONE_HOT_SCALE."""
        factors: list[float] = []
        for dimension in self.space.dimensions.values():
            one_hot = dimension.coordinates > 1
            factors += [ONE_HOT_SCALE if one_hot else 1.0] * dimension.coordinates
        return np.array(factors)

    def _column(self, name: str) -> int | None:
        """Give the place of a dimension with one coordinate; None if it does not vary."""
        start = 0
        for own, dimension in self.space.dimensions.items():
            if own == name:
                return start if dimension.coordinates == 1 else None
            start += dimension.coordinates
        return None

    # --- candidates --------------------------------------------------------------------------

    def candidates(
        self, rng: np.random.Generator, around: Sequence[TrialConfig], count: int
    ) -> list[TrialConfig]:
        """Give configs of new networks to choose from: half of them at random, half like the best.

        Of a small finite space, all that are new.

        Args:
            rng: draws them.
            around: the best so far.
            count: how many to draw; duplicates and those that were tried then go.
        """
        if self._small_space is not None:
            return self._new(self._small_space)
        units = rng.random((count, self.space.coordinates))
        if around:
            half = count // 2
            picks = rng.integers(len(around), size=count - half)
            best = np.array([self.space.to_unit(config) for config in around])
            units[half:] = self._mutated(best[picks], rng)
        if self.siblings:
            # Under the lowest bits the id of a config is the key of its network.
            for name, lowest in zip(BITS, self.pairs[0], strict=True):
                if (column := self._column(name)) is not None:
                    units[:, column] = self.space.dimensions[name].to_unit(lowest)[0]
        drawn = [self.space.from_unit(unit) for unit in units]
        return self._new({config.trial_id: config for config in drawn})

    def _new(self, networks: Mapping[str, TrialConfig]) -> list[TrialConfig]:
        """Give those, by key, of which no training was begun and some sibling is unknown."""
        begun = {
            self.network_of(row) for row in self.rows if row.status is not Status.INFEASIBLE
        } | {self.network_key(config) for config in self.under_way}
        return [
            config
            for key, config in networks.items()
            if key not in begun
            and not (self.is_known(config) and all(map(self.is_known, self.siblings_of(config))))
        ]

    @cached_property
    def _small_space(self) -> dict[str, TrialConfig] | None:
        """A config of each network, by its key; None if there are too many."""
        counts = [
            dimension.count
            for name, dimension in self.space.dimensions.items()
            if not (self.siblings and name in BITS)
        ]
        if None in counts or prod(c or 0 for c in counts) > FINITE_POOL:
            return None
        return {self.network_key(config): config for config in self.space.grid()}

    def _mutated(self, units: Floats, rng: np.random.Generator) -> Floats:
        """Give a neighbour of each unit vector, shape (n, d): some dimensions move."""
        out, start = units.copy(), 0
        for dimension in self.space.dimensions.values():
            end = start + dimension.coordinates
            moves = rng.random(len(out)) < MUTATION_SHARE
            if dimension.coordinates == 1:
                step = self._step(dimension) * rng.standard_normal(len(out))
                out[moves, start] = np.clip(out[moves, start] + step[moves], 0.0, 1.0)
            elif dimension.coordinates:
                drawn = np.eye(dimension.coordinates)[
                    rng.integers(dimension.coordinates, size=len(out))
                ]
                out[moves, start:end] = drawn[moves]
            start = end
        return out

    @staticmethod
    def _step(dimension: Choice | Range) -> float:
        """Give the step of a move: at least one value further, where there are few."""
        return max(MUTATION_STEP, 1.0 / dimension.count if dimension.count else 0.0)


def share_trained(row: ResultRow) -> float:
    """Give the share of its epochs that a trial ran; 1 for a measured one."""
    if row.status is Status.MEASURED:
        return 1.0
    return min(1.0, row.epochs_trained / row.config.epochs)
