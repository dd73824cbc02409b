"""The parts of a sweep file, each checked for itself.

Every field says its unit, what null means, and why its default.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from schedulers import SCHEDULERS
from search.searchers import SEARCHERS
from search.spec.mistakes import Mistakes, did_you_mean, listed, shown, unknown_key
from search.spec.parameters import FACTORY, MODEL_NAME, find_argument
from trainables.config import CNN_DEFAULTS, TrialConfig
from trainables.contract import METRICS, Direction


class Section(BaseModel):
    """A part of the sweep file: no unknown keys, no silent conversions, never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelSpec(Section):
    """Which network; `cnn` where neither name nor factory is given."""

    name: str | None = None
    """`cnn`, or a torchvision classifier such as `resnet18`. Null: `cnn`, or what `space` says."""
    factory: str | None = None
    """`package.module:function` that gives a torch module. Null: `name` says it."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Fixed arguments of the model's function; none by default."""

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str | None) -> str | None:
        if name is not None and not MODEL_NAME.fullmatch(name):
            raise ValueError("allowed: cnn or a torchvision name; a function goes to `factory`")
        return name

    @field_validator("factory")
    @classmethod
    def _is_factory(cls, factory: str | None) -> str | None:
        if factory is not None and not FACTORY.fullmatch(factory):
            raise ValueError("allowed: package.module:function")
        return factory

    @field_validator("args")
    @classmethod
    def _are_arguments(cls, args: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        of_cnn = info.data.get("name") in (None, "cnn") and not info.data.get("factory")
        mistakes = Mistakes()
        for name, value in args.items():
            if of_cnn and name not in CNN_DEFAULTS:
                mistakes.add((name,), unknown_key(name, CNN_DEFAULTS, "argument of cnn"))
                continue
            try:
                find_argument(name if of_cnn else None).check(value)
            except ValueError as error:
                mistakes.add((name,), f"got {shown(value)}; {error}")
        if mistakes:
            raise mistakes.error()
        return args

    @model_validator(mode="after")
    def _is_one_model(self) -> ModelSpec:
        if self.name and self.factory:
            raise ValueError("`name` and `factory` are both given; allowed: one of them")
        return self

    @property
    def reference(self) -> str:
        """Name or factory, as TrialConfig has it."""
        return self.name or self.factory or "cnn"

    def base_config(self, seed: int) -> TrialConfig:
        """Give the config that a space varies."""
        return TrialConfig(model=self.reference, model_args=self.args, seed=seed)


class SearchSpec(Section):
    """What to try next."""

    method: str = "ehvi"
    """`ehvi`, `gp` and `tpe` learn from what was tried; `random`: uniform over the space; `grid`:
    every combination. Ehvi is the default because it knows size and latency before a training and
    models accuracy alone; it takes any objectives and any space."""
    trials: int = Field(default=20, ge=1, le=1_000_000)
    """Trainings in all, those of earlier runs of the study included; a small space ends before.
    Twenty are minutes for a small network, and show a front."""
    siblings: bool = True
    """Whether every trained network is measured under each pair of bits of the space as well: it
    costs a few per cent of a training."""
    quasi_random: bool = False
    """Whether `random` draws a Sobol sequence: points that leave smaller gaps than independent
    draws. Off by default, as few trials in many dimensions gain nothing from it."""
    reuse_training: bool = True
    """Whether a trial that differs only in its compression from an earlier one goes on from the
    network that one had trained up to `prune_at`. Only where the space can have such pairs."""

    @field_validator("method")
    @classmethod
    def _is_registered(cls, method: str) -> str:
        return _one_of(SEARCHERS, method)


class StopSpec(Section):
    """When to end a trial before its last epoch."""

    method: str = "none"
    """`none`: every trial runs all its epochs. `asha`: from rung to rung only the best in one
    metric go on, which loses models that are good in the others. `pareto_asha`: the best in all
    objectives together, or in the first one. None is the default because it loses nothing."""
    metric: str = "accuracy"
    """What asha compares, in the metric's own direction."""
    grace_epochs: int = Field(default=1, ge=1)
    """Epochs that every trial gets; the first rung."""
    reduction_factor: int = Field(default=3, ge=2)
    """Of n trials at a rung n / reduction_factor go on, reduction_factor times as long; under
    `pareto_asha` more, where ended trials show that the rung says little about the end. The
    default lies between 2 and 4, the values used by Li et al. (arXiv:1810.05934)."""
    keep_front: bool = True
    """Whether `pareto_asha` lets all trials of a rung go on that none dominates there, be they
    more than reduction_factor asks for: most of them are small models that nothing replaces."""
    promote: bool = False
    """Whether `pareto_asha` lets a stopped trial go on from its checkpoint once it is among the
    best 1 / reduction_factor of its rung; until then nobody passes, not even the first. For few
    workers, where too little is known when a trial arrives."""
    brackets: int = Field(default=1, ge=1)
    """Groups of trials for `pareto_asha`; the trials of group b pass the first b rungs unjudged,
    against early rungs that say little. 1: all are judged at every rung."""

    @field_validator("method")
    @classmethod
    def _is_registered(cls, method: str) -> str:
        return _one_of(SCHEDULERS, method)

    @field_validator("metric")
    @classmethod
    def _is_metric(cls, metric: str) -> str:
        return _one_of(METRICS, metric)

    @property
    def direction(self) -> Direction:
        """Whether low or high values of the metric are good."""
        return METRICS[self.metric].direction


class ObjectiveSpec(Section):
    """One metric to optimise. `min` or `max` alone is short for `{direction: ...}`."""

    direction: Literal["min", "max"]
    """Whether low or high values are good."""
    reference: float | None = None
    """Worst value that still counts, in the metric's unit or with one (`2MB`): the end of the
    hypervolume's axis. Null: the constraint's bound on this metric, else the metric's default."""


class ConstraintSpec(Section):
    """What a deployable model must keep on one metric."""

    min: float | None = None
    """Lowest allowed value, in the metric's unit or with one (`90%`). Null: no lower bound."""
    max: float | None = None
    """Highest allowed value, in the metric's unit or with one (`500kB`). Null: no upper bound."""

    @model_validator(mode="after")
    def _is_bound(self) -> ConstraintSpec:
        if self.min is None and self.max is None:
            raise ValueError("bounds nothing; allowed: {min: value}, {max: value} or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}; allowed: min below max")
        return self


class ResourcesSpec(Section):
    """What one trial may use, and how many run at once."""

    cpus_per_trial: int = Field(default=1, ge=1)
    """CPU cores, which are also the threads of training. One by default: several small trials
    side by side use a machine better than one with several threads."""
    gpus_per_trial: float = Field(default=0.0, ge=0)
    """GPUs; a fraction shares one between trials. 0: training runs on the CPU."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Trials at once. Null: as many as the CPU cores of the driver's machine have room for."""

    max_failures: int = Field(default=3, ge=0, le=1000)
    """How often a trial that lost its worker or node goes on from its last checkpoint; preempted
    nodes do not count. A trial's own errors are never repeated."""
    trial_timeout_seconds: float | None = Field(default=3600.0, gt=0)
    """A trial without progress for so long lost its worker: longer than an epoch, and than
    measuring at its end. Null: it may hang for ever."""

    @field_validator("gpus_per_trial")
    @classmethod
    def _is_whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError("allowed: a fraction below 1, or a whole number of GPUs")
        return gpus


def _one_of(registry: Iterable[str], name: str) -> str:
    names = list(registry)
    if name not in names:
        raise ValueError(f"{did_you_mean(name, names)}allowed: {listed(names)}")
    return name
