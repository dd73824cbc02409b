"""What a name under `space:` stands for: a field of TrialConfig, or an argument of the model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from search.space.dimensions import Scalar, is_number, is_whole
from search.space.space import FACTORY_PREFIX
from search.spec.mistakes import allowed
from trainables.config import MODEL_ARGUMENT_FIELDS, CnnArguments, TrialConfig

MODEL_NAME = re.compile(r"[A-Za-z_]\w*")
"""`cnn`, or a classifier of torchvision."""
FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""`package.module:function`."""

TRIAL_FIELDS = tuple(f for f in TrialConfig.model_fields if f not in ("model_args", "seed"))

INTEGER_FORMS = ("int", "log_int")
FLOAT_FORMS = ("uniform", "log_uniform")

ANY_SCALAR = "a number, text, true or false"
MODEL_ALLOWED = "cnn, a torchvision classifier, or package.module:function"


@dataclass(frozen=True)
class Parameter:
    """Something that may vary, and what it may be."""

    check: Callable[[object], Scalar]
    """Gives the value in its type; raises ValueError saying what is allowed."""
    ranges: tuple[str, ...]
    """Forms of range that fit its type."""
    allowed: str
    """In words."""


def known_names() -> list[str]:
    """Give every dimension that has a name of its own."""
    return [*TRIAL_FIELDS, *sorted(MODEL_ARGUMENT_FIELDS), f"{FACTORY_PREFIX}NAME"]


def find_parameter(name: str) -> Parameter | None:
    """Give what a dimension stands for; None if there is no such thing."""
    if name == "model":
        return Parameter(_model, (), MODEL_ALLOWED)
    if name in TRIAL_FIELDS:
        return _of_field(TrialConfig, name)
    if name in MODEL_ARGUMENT_FIELDS:
        return find_argument(name)
    argument = name.removeprefix(FACTORY_PREFIX)
    return find_argument(None) if argument != name and argument.isidentifier() else None


def find_argument(of_cnn: str | None) -> Parameter:
    """Give what an argument of a model may be: one of cnn by its name, or any other (None)."""
    if of_cnn is None:
        return Parameter(_scalar, INTEGER_FORMS + FLOAT_FORMS, ANY_SCALAR)
    return _of_field(CnnArguments, of_cnn)


def numbers_only(
    check: Callable[[object], Scalar], *, integer: bool
) -> Callable[[object], Scalar]:
    """Give a check for the ends of a range: what `check` lets through, if it is a number."""

    def checked(value: object) -> Scalar:
        scalar = check(value)
        if not (is_whole(scalar) if integer else is_number(scalar)):
            raise ValueError(f"allowed: {'a whole number' if integer else 'a number'}")
        return scalar

    return checked


def _model(value: object) -> Scalar:
    if isinstance(value, str) and (MODEL_NAME.fullmatch(value) or FACTORY.fullmatch(value)):
        return value
    raise ValueError(f"allowed: {MODEL_ALLOWED}")


def _scalar(value: object) -> Scalar:
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"allowed: {ANY_SCALAR}")


def _of_field(model: type[BaseModel], name: str) -> Parameter:
    field = model.model_fields[name]

    def check(value: object) -> Scalar:
        try:
            checked = model.model_validate({name: value}, strict=True)
        except ValidationError as error:
            raise ValueError(_text(error) or f"allowed: {allowed(field)}") from error
        scalar: Scalar = getattr(checked, name)
        return scalar

    kinds: dict[Any, tuple[str, ...]] = {int: INTEGER_FORMS, float: FLOAT_FORMS}
    return Parameter(check, kinds.get(field.annotation, ()), allowed(field))


def _text(error: ValidationError) -> str:
    first = error.errors()[0]
    return str(first["ctx"]["error"]) if first["type"] == "value_error" else ""
