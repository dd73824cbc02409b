"""Mistakes in a sweep file in plain words, collected so that a person sees all of them at once."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

KeyPath = tuple[int | str, ...]
"""Keys and list positions from the top of the sweep file."""

MISTAKE = "mistake"
"""Type of the errors below; their text is a whole sentence."""

_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
}


class Mistakes:
    """Collects mistakes with their paths."""

    def __init__(self) -> None:
        self._found: list[InitErrorDetails] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: KeyPath, text: str) -> None:
        """Note a mistake. The path counts from the part that is being validated."""
        error = PydanticCustomError(MISTAKE, "{text}", {"text": text})
        self._found.append(InitErrorDetails(type=error, loc=path, input=None))

    def absorb(self, path: KeyPath, error: ValidationError) -> None:
        """Note what a part under `path` was found to have."""
        for found in error.errors():
            at, context = (*path, *found["loc"]), found.get("ctx", {})
            if found["type"] == MISTAKE:
                self.add(at, context["text"])
            else:
                self._found.append(
                    InitErrorDetails(type=found["type"], loc=at, input=found["input"], ctx=context)
                )

    def error(self) -> ValidationError:
        """Give all of them as one error, which a pydantic validator may raise."""
        return ValidationError.from_exception_data("sweep file", self._found)


def mistake(path: KeyPath, text: str) -> ValidationError:
    """Give one mistake as an error, which a pydantic validator may raise."""
    mistakes = Mistakes()
    mistakes.add(path, text)
    return mistakes.error()


def explain(error: ErrorDetails, field: FieldInfo | None) -> str:
    """Say what was got and what is allowed. `field` is where the error is, if it is known."""
    got, context = error["input"], error.get("ctx", {})
    if error["type"] == MISTAKE:
        return str(context["text"])
    if error["type"] == "missing":
        return f"is missing; allowed: {allowed(field) if field else 'a value'}"
    if error["type"] == "value_error":
        text = str(context["error"])
        return text if isinstance(got, dict | list) else f"got {shown(got)}; {text}"
    if field is None:
        return f"got {shown(got)}; {error['msg']}"
    quotes = (
        "; put it in quotes"
        if error["type"] == "string_type" and isinstance(got, int | float)
        else ""
    )
    return f"got {shown(got)}; allowed: {allowed(field)}{quotes}"


def unknown_key(key: object, known: Iterable[str], kind: str = "key") -> str:
    """Say which key was meant, and which are allowed."""
    names = list(known)
    return f"unknown {kind}; {did_you_mean(key, names)}allowed: {', '.join(names)}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Give `did you mean 'x'? ` for the closest known name, or nothing."""
    close = get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'? " if close else ""


def shown(value: object) -> str:
    """Give a value of a sweep file on one short line, much as it was written."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{k}: {shown(v)}" for k, v in value.items()) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(map(shown, value)) + "]"
    else:
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def allowed(field: FieldInfo) -> str:
    """Say what a field takes: its type, choices and bounds."""
    kind, optional = _without_none(field.annotation)
    if get_origin(kind) is Literal:
        text = listed(get_args(kind))
    elif get_origin(kind) is list:
        text = "a list"
    else:
        text = _KINDS.get(kind, "a mapping of keys to values") + _bounds(field)
    return f"{text}, or null" if optional else text


def listed(values: Iterable[object]) -> str:
    """Give `a, b or c`."""
    names = [str(value) for value in values]
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else "".join(names)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if type(None) in get_args(annotation) and len(parts) == 1:
        return parts[0], True
    return annotation, False


def _bounds(field: FieldInfo) -> str:
    """Give ` from 1 to 8`, `, at least 1`, or whatever the bounds are."""
    low, high = "", ""
    for bound in field.metadata:
        match bound:
            case Gt():
                low = f"above {bound.gt}"
            case Ge():
                low = f"at least {bound.ge}"
            case Lt():
                high = f"below {bound.lt}"
            case Le():
                high = f"at most {bound.le}"
    both = " and ".join(part for part in (low, high) if part)
    return f", {both}" if both else ""
