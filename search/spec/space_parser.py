"""From what stands under `space:` in a sweep file to a Space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from search.space.dimensions import Choice, Dimension, Range, is_whole
from search.space.space import FACTORY_PREFIX, Space
from search.spec.mistakes import KeyPath, Mistakes, listed, mistake, shown, unknown_key
from search.spec.parameters import (
    FLOAT_FORMS,
    INTEGER_FORMS,
    Parameter,
    find_parameter,
    known_names,
    numbers_only,
)
from trainables.config import MODEL_ARGUMENT_FIELDS, PRUNING_FIELDS, TrialConfig

RANGE_FORMS = FLOAT_FORMS + INTEGER_FORMS

DECIDING = (
    "model", "optimizer", "pruning_method", "pruning_ratio", "weight_bits", "activation_bits"
)  # fmt: skip
"""Dimensions whose values decide whether others, or the whole space, make sense."""
_PRUNING_DETAILS = PRUNING_FIELDS - {"pruning_method"}


def parse_space(raw: object, base: TrialConfig | None) -> Space:
    """Give the space around a base config; None if that has mistakes of its own.

    Raises:
        ValidationError: with every mistake, and its path below `space:`.
    """
    mistakes = Mistakes()
    if not isinstance(raw, Mapping):
        raise mistake(
            (), f"got {shown(raw)}; allowed: a mapping of dimensions to what they may be"
        )
    dimensions = _dimensions(raw, mistakes)
    if any(name in raw and name not in dimensions for name in DECIDING):
        raise mistakes.error()
    try:
        space = Space(dimensions, base or TrialConfig())
    except ValueError as error:  # of bits; it names both
        mistakes.add(("weight_bits" if "weight_bits" in raw else "activation_bits",), str(error))
        raise mistakes.error() from error
    if base is not None:
        _check_effects(space, mistakes)
    if mistakes:
        raise mistakes.error()
    return space


def _dimensions(raw: Mapping[Any, Any], mistakes: Mistakes) -> dict[str, Dimension]:
    """Give the dimensions that are right, in the order of the file, and note what is not."""
    found: dict[str, Dimension] = {}
    for name, form in raw.items():
        parameter = find_parameter(str(name))
        if parameter is None:
            mistakes.add((name,), unknown_key(name, known_names(), "dimension"))
            continue
        try:
            found[str(name)] = _parse(form, parameter, (name,))
        except ValidationError as error:
            mistakes.absorb((), error)
    return found


# --- what has an effect ----------------------------------------------------------------------


def _check_effects(space: Space, mistakes: Mistakes) -> None:
    """Note dimensions that no trial of the space would ever look at."""
    model = listed(space.models)
    pruning, ratios = space.values("pruning_method"), space.values("pruning_ratio")
    for name, dimension in space.dimensions.items():
        varies = dimension.count != 1
        if name in MODEL_ARGUMENT_FIELDS and "cnn" not in space.models:
            hint = f"; a factory takes {FACTORY_PREFIX}{name}" if ":" in model else ""
            mistakes.add((name,), f"is an argument of cnn, and the model is {model}{hint}")
        elif name.startswith(FACTORY_PREFIX) and ":" not in model:
            mistakes.add((name,), f"is an argument of a factory, and the model is {model}")
        elif name == "momentum" and varies and "sgd" not in space.values("optimizer"):
            mistakes.add((name,), "has no effect: only sgd has a momentum")
        elif name in _PRUNING_DETAILS and varies and pruning == ("none",):
            text = "has no effect while pruning_method is none; allowed: filter, neuron or weight"
            mistakes.add((name,), text)
        elif name == "qat_at" and varies and space.values("quantization") == ("ptq",):
            mistakes.add((name,), "has no effect while quantization is ptq; allowed: qat")
        elif name == "pruning_method" and pruning != ("none",) and ratios == (0.0,):
            mistakes.add((name,), "prunes nothing at a pruning_ratio of 0; let that vary too")
        if name.removeprefix(FACTORY_PREFIX) in space.base.model_args:
            mistakes.add((name,), "is given in `model.args` too; allowed: one of the two")


# --- forms -----------------------------------------------------------------------------------
# Each gives a dimension, or raises a ValidationError with all that is wrong.


def _parse(form: object, parameter: Parameter, path: KeyPath) -> Dimension:
    if isinstance(form, dict):
        return _mapping(form, parameter, path)
    if isinstance(form, list):
        return _choice(form, parameter, path)
    return Choice(tuple(_checked([form], parameter, [path])))


def _mapping(form: dict[Any, Any], parameter: Parameter, path: KeyPath) -> Dimension:
    kinds = [key for key in form if key != "step"]
    kind = kinds[0] if len(kinds) == 1 else None
    if kind not in ("choice", *RANGE_FORMS):
        raise mistake(path, f"got {shown(form)}; allowed: {_forms(parameter)}")
    if "step" in form and kind != "int":
        raise mistake((*path, "step"), f"goes with int only, not with {kind}")
    if kind == "choice":
        return _choice(form[kind], parameter, (*path, kind))
    if kind not in parameter.ranges:
        raise mistake((*path, kind), f"does not fit; allowed: {_forms(parameter)}")
    step = form.get("step", 1)
    if not is_whole(step) or step < 1:
        raise mistake((*path, "step"), f"got {shown(step)}; allowed: a whole number, at least 1")
    return _range(kind, form[kind], step, parameter, (*path, kind))


def _choice(values: object, parameter: Parameter, path: KeyPath) -> Choice:
    if not isinstance(values, list) or not values:
        raise mistake(path, f"got {shown(values)}; allowed: a list with at least one value")
    checked = _checked(values, parameter, [(*path, i) for i in range(len(values))])
    for i, value in enumerate(checked):
        if value in checked[:i]:
            raise mistake((*path, i), f"{shown(value)} is given twice; allowed: each value once")
    choice = Choice(tuple(checked))
    return Choice(tuple(sorted(checked))) if choice.ordered else choice


def _range(kind: str, ends: object, step: int, parameter: Parameter, path: KeyPath) -> Range:
    if not isinstance(ends, list) or len(ends) != 2:
        raise mistake(path, f"got {shown(ends)}; allowed: [low, high]")
    integer, log = kind in INTEGER_FORMS, kind.startswith("log_")
    within = replace(parameter, check=numbers_only(parameter.check, integer=integer))
    low, high = map(float, _checked(ends, within, [(*path, 0), (*path, 1)]))
    if low >= high:
        raise mistake(path, f"got {shown(ends)}; allowed: low below high")
    if log and low <= 0:
        raise mistake(
            (*path, 0), f"got {shown(ends[0])}; allowed: above 0, the axis is logarithmic"
        )
    if integer and (rest := (high - low) % step):
        below = f"{high - rest:g} or " if high - rest > low else ""
        near = f"{below}{high - rest + step:g}"
        raise mistake(path, f"steps of {step} from {low:g} never reach {high:g}; allowed: {near}")
    return Range(low, high, log=log, integer=integer, step=step)


def _checked(values: list[Any], parameter: Parameter, paths: list[KeyPath]) -> list[Any]:
    """Give values in the parameter's type."""
    mistakes, checked = Mistakes(), []
    for value, path in zip(values, paths, strict=True):
        try:
            checked.append(parameter.check(value))
        except ValueError as error:
            mistakes.add(path, f"got {shown(value)}; {error}")
    if mistakes:
        raise mistakes.error()
    return checked


def _forms(parameter: Parameter) -> str:
    ranges = [f"{{{kind}: [low, high]}}" for kind in parameter.ranges]
    forms = listed(["a value", "a list of values", *ranges])
    return f"{forms}; values: {parameter.allowed}"
