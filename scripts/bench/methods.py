"""What is compared: the project's searchers and schedulers, and those of other libraries.

A peer sees the space as its users would write it (ordered choices as whole numbers, the pairs of
bits as one choice) and all objectives as minimised losses. A suggestion that means a config it had
before costs it nothing: it is answered at once.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from schedulers import make_scheduler
from schedulers.contract import Goals
from search.objectives import losses
from search.searchers import make_searcher
from search.space.dimensions import Choice, Scalar
from search.space.space import Point
from search.spec.sections import StopSpec
from search.spec.spec import SweepSpec
from search.stopping import goals
from search.study.rows import ResultRow
from trainables.config import TrialConfig
from trainables.contract import Status

BITS = ("weight_bits", "activation_bits")
REPEATS = 100
"""Known configs in a row after which a peer is given a random one."""


class Own:
    """A searcher of this project."""

    def __init__(self, spec: SweepSpec, name: str, seed: int, *, siblings: bool):
        search = spec.search.model_copy(update={"method": name, "siblings": siblings})
        self.siblings = siblings
        self.searcher = make_searcher(spec.model_copy(update={"search": search, "seed": seed}))

    def ask(self) -> TrialConfig | None:
        """Give the next config of the searcher."""
        return self.searcher.ask()

    def hear(self, config: TrialConfig, epoch: int, accuracy: float) -> None:
        """Pass on an epoch."""
        if hasattr(self.searcher, "hear"):
            self.searcher.hear(config, epoch, accuracy)

    def adopt(self, config: TrialConfig) -> None:
        """Pass on that a stopped trial goes on."""
        self.searcher.adopt(config)

    def tell(self, rows: Sequence[ResultRow]) -> None:
        """Pass on the rows."""
        for row in rows:
            self.searcher.tell(row)


class Peer(ABC):
    """Base of other libraries' searchers: turns their points into configs, rows into losses."""

    siblings = False

    def __init__(self, spec: SweepSpec, seed: int):
        self.spec = spec
        self.rng = np.random.default_rng(seed)
        self.handles: dict[str, Any] = {}
        self.answers: dict[str, ResultRow] = {}
        self.varying = {
            name: dimension
            for name, dimension in spec.space.dimensions.items()
            if dimension.count != 1 and name not in BITS
        }

    def ask(self) -> TrialConfig | None:
        """Give the next config that was not tried before."""
        for _ in range(REPEATS):
            handle, point = self.suggest()
            config = self.spec.space.config(point)
            if config.trial_id in self.answers:
                self.answer(handle, self.answers[config.trial_id])
            elif config.trial_id in self.handles:  # still running
                self.drop(handle)
            else:
                self.handles[config.trial_id] = handle
                return config
        for _ in range(10 * REPEATS):
            config = self.spec.space.sample(self.rng)
            if config.trial_id not in self.answers.keys() | self.handles.keys():
                self.handles[config.trial_id] = None
                return config
        return None

    def hear(self, config: TrialConfig, epoch: int, accuracy: float) -> None:  # noqa: B027
        """Peers take no partial results here."""

    def adopt(self, config: TrialConfig) -> None:  # noqa: B027
        """Peers are not run with a scheduler that lets trials go on."""

    def tell(self, rows: Sequence[ResultRow]) -> None:
        """Answer the suggestion that the rows came from."""
        row = rows[0]
        self.answers[row.trial_id] = row
        handle = self.handles.pop(row.trial_id)
        if handle is not None:
            self.answer(handle, row)

    def losses(self, row: ResultRow) -> list[float]:
        """Give minimised losses of a row, the last ones known if it was stopped."""
        return [float(x) for x in losses([row.metrics], self.spec.objective_list)[0]]

    def point(self, values: Mapping[str, Scalar], pair: int) -> Point:
        """Give the point with a value for all that varies, and a pair of bits by its place."""
        fixed = {n: d.at(0) for n, d in self.spec.space.dimensions.items() if d.count == 1}
        bits = zip(BITS, self.spec.space.bits_pairs[pair], strict=True)
        return {**fixed, **values, **dict(bits)}

    @abstractmethod
    def suggest(self) -> tuple[Any, Point]:
        """Give a handle and a point."""

    @abstractmethod
    def answer(self, handle: Any, row: ResultRow) -> None:
        """Give the library the outcome of a suggestion."""

    def drop(self, handle: Any) -> None:  # noqa: B027
        """Tell the library that there will be no outcome."""


class Random(Peer):
    """Uniform draws over the space, every pair of bits a dimension like the others."""

    def suggest(self) -> tuple[Any, Point]:
        """Draw each dimension."""
        values = {n: d.from_unit(self.rng.random(d.coordinates)) for n, d in self.varying.items()}
        return 0, self.point(values, int(self.rng.integers(len(self.spec.space.bits_pairs))))

    def answer(self, handle: Any, row: ResultRow) -> None:
        """Learn nothing."""


class Optuna(Peer):
    """A sampler of Optuna, asked and told, without pruners."""

    def __init__(self, spec: SweepSpec, seed: int, *, sampler: str):
        import optuna

        super().__init__(spec, seed)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.failed = optuna.trial.TrialState.FAIL
        self.study = optuna.create_study(
            sampler=getattr(optuna.samplers, sampler)(**_sampler_options(sampler, seed)),
            directions=["minimize"] * len(spec.objective_list),
        )

    def suggest(self) -> tuple[Any, Point]:
        """Ask for a trial, ordered choices as whole numbers."""
        trial = self.study.ask()
        values: dict[str, Scalar] = {}
        for name, d in self.varying.items():
            if d.count is None:
                values[name] = trial.suggest_float(name, d.low, d.high, log=d.log)
            elif isinstance(d, Choice) and not d.ordered:
                values[name] = trial.suggest_categorical(name, list(d.values))
            else:
                values[name] = d.at(trial.suggest_int(name, 0, d.count - 1))
        pairs = len(self.spec.space.bits_pairs)
        place = trial.suggest_categorical("bits", list(range(pairs))) if pairs > 1 else 0
        return trial, self.point(values, place)

    def answer(self, handle: Any, row: ResultRow) -> None:
        """Tell the losses of a measured row; others failed."""
        if row.status is Status.MEASURED:
            self.study.tell(handle, self.losses(row))
        else:
            self.drop(handle)

    def drop(self, handle: Any) -> None:
        """Tell that the trial failed."""
        self.study.tell(handle, state=self.failed)


def _sampler_options(sampler: str, seed: int) -> dict[str, Any]:
    """Give the documented options for parallel use, and a population fit for the budget."""
    if sampler == "NSGAIISampler":
        # The default of 50 would be the whole budget in one generation.
        return {"seed": seed, "population_size": 12}
    if sampler == "TPESampler":
        return {"seed": seed, "multivariate": True, "constant_liar": True}
    return {"seed": seed, "deterministic_objective": True}


class RayHyperopt(Peer):
    """Ray Tune's own HyperOptSearch, on accuracy: it takes one metric."""

    def __init__(self, spec: SweepSpec, seed: int):
        from hyperopt import hp
        from ray.tune.search.hyperopt import HyperOptSearch

        super().__init__(spec, seed)
        space = {name: hp.randint(name, d.count or 1) for name, d in self.varying.items()}
        space["bits"] = hp.randint("bits", len(spec.space.bits_pairs))
        self.search = HyperOptSearch(
            space, metric="accuracy", mode="max", n_initial_points=8, random_state_seed=seed
        )
        self.count = 0

    def suggest(self) -> tuple[Any, Point]:
        """Ask Tune's searcher."""
        self.count += 1
        handle = f"trial{self.count}"
        found = self.search.suggest(handle)
        values = {name: d.at(int(found[name])) for name, d in self.varying.items()}
        return handle, self.point(values, int(found["bits"]))

    def answer(self, handle: Any, row: ResultRow) -> None:
        """Tell the last accuracy, of stopped trials too, as Tune does."""
        accuracy = row.metrics.get("accuracy")
        result = None if accuracy is None else {"accuracy": accuracy}
        self.search.on_trial_complete(handle, result, error=result is None)

    def drop(self, handle: Any) -> None:
        """Tell that the trial failed."""
        self.search.on_trial_complete(handle, None, error=True)


class Moasha:
    """The scheduler of Syne Tune under the calls of Ray Tune's."""

    def __init__(self, spec: SweepSpec, max_epochs: int, seed: int):
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        self.losses = goals(spec).losses
        self.scheduler = MOASHA(
            {}, metrics=list(self.losses), max_t=max_epochs, reduction_factor=3, random_seed=seed
        )

    def on_trial_add(self, _: Any, trial: Any) -> None:
        """Pass on a new trial."""
        self.scheduler.on_trial_add(trial)

    def on_trial_result(self, _: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Pass on an epoch."""
        return str(self.scheduler.on_trial_result(trial, self._minimised(result)))

    def on_trial_complete(self, _: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """Pass on the last epoch, if it has a result."""
        if "accuracy" in result:
            self.scheduler.on_trial_complete(trial, self._minimised(result))

    def _minimised(self, result: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: loss(result[name]) for name, loss in self.losses.items()}
        return {"training_iteration": result["training_iteration"], **found}


def scheduler(spec: SweepSpec, name: str, seed: int, **options: Any) -> Any:
    """Make a scheduler of this project, or `moasha`."""
    if name == "moasha":
        return Moasha(spec, spec.space.max_epochs, seed)
    found = goals(spec)
    return make_scheduler(
        StopSpec(method=name, **options),
        max_epochs=spec.space.max_epochs,
        goals=Goals(found.losses, found.bounds),
    )


PEERS: dict[str, Callable[[SweepSpec, int], Peer]] = {
    "random": Random,
    "nsga2": lambda spec, seed: Optuna(spec, seed, sampler="NSGAIISampler"),
    "motpe": lambda spec, seed: Optuna(spec, seed, sampler="TPESampler"),
    "mogp": lambda spec, seed: Optuna(spec, seed, sampler="GPSampler"),
    "hyperopt": RayHyperopt,
}
