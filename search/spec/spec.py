"""The sweep file as a person wrote it, checked."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from pydantic import (
    Field,
    InstanceOf,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from search.objectives import Constraint, Objective, objective
from search.space.space import Space
from search.spec.mistakes import Mistakes, did_you_mean, mistake, shown
from search.spec.quantities import format_quantity, parse_quantity
from search.spec.sections import (
    ConstraintSpec,
    ModelSpec,
    ObjectiveSpec,
    ResourcesSpec,
    SearchSpec,
    Section,
    StopSpec,
)
from search.spec.space_parser import parse_space
from search.spec.yaml_text import dump_yaml
from trainables.config import DataConfig, DeployConfig, TrialConfig
from trainables.contract import METRICS, Metric

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_DEFAULT_OBJECTIVES = ("accuracy", "size_bytes", "latency_ms")


class SweepSpec(Section):
    """One study, as a person wrote it."""

    name: str
    """Of the study's folder: lower-case letters, digits, '-', '_', '.', at most 63 of them."""
    seed: int = Field(default=0, ge=0)
    """Of the searcher, and of every trial."""
    storage: str = "./studies"
    """Folder of all studies: a path, or any location that fsspec knows (`s3://bucket/prefix`)."""
    data: DataConfig
    """Which images."""
    model: ModelSpec = Field(default_factory=ModelSpec)
    """Which network. The default, `cnn`, trains on a CPU."""
    space: InstanceOf[Space]
    """What may vary, and what is fixed: dimensions by name."""
    search: SearchSpec = Field(default_factory=SearchSpec)
    """What to try next."""
    stop: StopSpec = Field(default_factory=StopSpec)
    """When to end a trial early."""
    objectives: dict[str, ObjectiveSpec] = Field(
        default_factory=lambda: {
            name: ObjectiveSpec(direction=METRICS[name].direction) for name in _DEFAULT_OBJECTIVES
        }
    )
    """What to optimise, by metric."""
    constraints: dict[str, ConstraintSpec] = Field(default_factory=dict)
    """What a deployable model must keep, by metric; nothing by default."""
    deploy: DeployConfig = Field(default_factory=DeployConfig)
    """Where latency is measured."""
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    """What one trial may use."""
    cluster: Any = None
    """Where it runs on Kubernetes: checked and read by `paretune k8s`. Null: only on machines."""
    import_paths: list[str] = Field(default_factory=list)
    """Folders where a model factory is looked for, before Python's own path; relative ones count
    from the sweep file. Empty: the folder of the sweep file."""

    # --- what the rest of the program asks ---------------------------------------------------

    @property
    def objective_list(self) -> list[Objective]:
        """Give what to optimise, with every reference resolved."""
        return [_objective(name, o, self.constraints) for name, o in self.objectives.items()]

    @property
    def constraint_list(self) -> list[Constraint]:
        """Give what a deployable model must keep."""
        return [
            Constraint(
                METRICS[name],
                low=-math.inf if bound.min is None else bound.min,
                high=math.inf if bound.max is None else bound.max,
            )
            for name, bound in self.constraints.items()
        ]

    @property
    def study_location(self) -> str:
        """Give where the study is: its name inside the storage."""
        return f"{self.storage.rstrip('/')}/{self.name}"

    @property
    def nights_location(self) -> str:
        """Give where the studies of its nights are."""
        return f"{self.study_location}-nights"

    @property
    def base_config(self) -> TrialConfig:
        """Give the config that has everything which does not vary."""
        return self.space.base

    @property
    def max_concurrent(self) -> int:
        """Give how many trials run at once."""
        fitting = (os.cpu_count() or 1) // self.resources.cpus_per_trial
        return self.resources.max_concurrent or max(1, fitting)

    def to_yaml(self) -> str:
        """Give a sweep file, every default written out, that reads back to an equal spec."""
        return dump_yaml(self.model_dump())

    # --- checks ------------------------------------------------------------------------------

    @field_validator("name")
    @classmethod
    def _is_folder_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                "allowed: lower-case letters, digits, '-', '_' and '.', "
                "at most 63, with a letter or digit first and last"
            )
        return name

    @field_validator("storage")
    @classmethod
    def _is_location(cls, storage: str) -> str:
        if not storage.strip() or storage.endswith("://"):
            raise ValueError("allowed: a folder, or a location such as s3://bucket/prefix")
        return storage

    @field_validator("space", mode="before")
    @classmethod
    def _is_space(cls, raw: object, info: ValidationInfo) -> object:
        if isinstance(raw, Space):
            return raw
        model: ModelSpec | None = info.data.get("model")
        base = model.base_config(info.data.get("seed", 0)) if model else None
        space = parse_space(raw, base)
        if "model" in space.dimensions and model != ModelSpec():
            raise mistake(("model",), "there is a section `model:` too; allowed: one of the two")
        return space

    @field_validator("objectives", mode="before")
    @classmethod
    def _are_objectives(cls, raw: object) -> object:
        if isinstance(raw, Mapping):
            raw = {k: {"direction": v} if isinstance(v, str) else v for k, v in raw.items()}
        checked = _by_metric(raw, ObjectiveSpec, ("reference",), "min, max or {direction: ...}")
        if checked == {}:
            raise ValueError("is empty; allowed: at least one metric with min or max")
        return checked

    @field_validator("objectives")
    @classmethod
    def _are_behind_the_ideal(cls, specs: dict[str, ObjectiveSpec]) -> dict[str, ObjectiveSpec]:
        mistakes = Mistakes()
        for name, spec in specs.items():
            best = _ideal(METRICS[name], spec)
            if spec.reference is not None and not _is_worse(spec.reference, best, spec):
                side = "above" if spec.direction == "min" else "below"
                text = f"got {shown(spec.reference)}; allowed: {side} {best:g}, the ideal value"
                mistakes.add((name, "reference"), text)
        if mistakes:
            raise mistakes.error()
        return specs

    @field_validator("constraints", mode="before")
    @classmethod
    def _are_constraints(cls, raw: object) -> object:
        return _by_metric(
            raw, ConstraintSpec, ("min", "max"), "{min: value}, {max: value} or both"
        )

    @model_validator(mode="after")
    def _bits_run_on_the_device(self) -> Self:
        try:
            space = replace(self.space, device=self.deploy.device)
        except ValueError as error:
            name = "weight_bits" if "weight_bits" in self.space.dimensions else "activation_bits"
            raise mistake(("space", name), f"{error} on {self.deploy.device}") from error
        object.__setattr__(self, "space", space)
        return self

    # --- back to YAML ------------------------------------------------------------------------

    @field_serializer("space")
    def _space_to_yaml(self, space: Space) -> dict[str, object]:
        return {name: dimension.to_yaml() for name, dimension in space.dimensions.items()}

    @field_serializer("objectives")
    def _objectives_to_yaml(self, specs: dict[str, ObjectiveSpec]) -> dict[str, object]:
        return {k: v.direction if v.reference is None else _plain(k, v) for k, v in specs.items()}

    @field_serializer("constraints")
    def _constraints_to_yaml(self, specs: dict[str, ConstraintSpec]) -> dict[str, object]:
        return {name: _plain(name, spec) for name, spec in specs.items()}


# --- metrics by name -------------------------------------------------------------------------


def _by_metric(
    raw: object, section: type[Section], quantities: tuple[str, ...], allowed: str
) -> object:
    """Check a mapping of metrics to sections whose `quantities` may carry units."""
    if not isinstance(raw, Mapping):
        return raw  # pydantic says what is allowed
    mistakes = Mistakes()
    checked = {}
    for name, form in raw.items():
        if name not in METRICS:
            hint = did_you_mean(name, METRICS)
            mistakes.add((name,), f"no trial measures this; {hint}allowed: {', '.join(METRICS)}")
            continue
        if not isinstance(form, Mapping | section):
            mistakes.add((name,), f"got {shown(form)}; allowed: {allowed}")
            continue
        try:
            numbers = _in_metric_unit(form, METRICS[name], quantities)
            checked[name] = section.model_validate(numbers, strict=True)
        except ValidationError as error:
            mistakes.absorb((name,), error)
    if mistakes:
        raise mistakes.error()
    return checked


def _in_metric_unit(form: object, metric: Metric, quantities: tuple[str, ...]) -> object:
    if not isinstance(form, Mapping):
        return form
    mistakes = Mistakes()
    numbers = dict(form)
    for key in quantities:
        if form.get(key) is not None:
            try:
                numbers[key] = _within(metric, parse_quantity(form[key], metric.unit))
            except ValueError as error:
                mistakes.add((key,), f"got {shown(form[key])}; {error}")
    if mistakes:
        raise mistakes.error()
    return numbers


def _within(metric: Metric, value: float) -> float:
    if metric.name == "accuracy" and not 0 <= value <= 1:
        raise ValueError("allowed: from 0 to 1, or from 0% to 100%")
    if value < 0:
        raise ValueError("allowed: 0 or more")
    return value


def _plain(name: str, spec: ObjectiveSpec | ConstraintSpec) -> dict[str, Any]:
    """Give a section without its nulls, with units at its numbers."""
    unit = METRICS[name].unit
    return {
        key: format_quantity(value, unit) if isinstance(value, float) else value
        for key, value in spec.model_dump(exclude_none=True).items()
    }


def _objective(
    name: str, spec: ObjectiveSpec, constraints: Mapping[str, ConstraintSpec]
) -> Objective:
    reference = spec.reference
    if reference is None and name in constraints:
        bound = constraints[name].max if spec.direction == "min" else constraints[name].min
        # A bound at the ideal leaves no axis; the metric's default does.
        if bound is not None and _is_worse(bound, _ideal(METRICS[name], spec), spec):
            reference = bound
    return objective(name, spec.direction, reference)


def _ideal(metric: Metric, spec: ObjectiveSpec) -> float:
    """Give the value where the loss is 0, see `Objective.loss`."""
    return metric.ideal if spec.direction == metric.direction else metric.reference


def _is_worse(value: float, best: float, spec: ObjectiveSpec) -> bool:
    return value > best if spec.direction == "min" else value < best
