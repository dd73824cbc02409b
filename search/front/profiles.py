"""Device profiles of one's own, from a YAML file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from search.errors import SpecError
from search.front.picks import PROFILES, Profile
from search.spec.mistakes import did_you_mean, listed
from search.spec.quantities import parse_quantity

BUDGETS = {"max_size_bytes": "B", "max_latency_ms": "ms", "min_accuracy": ""}
"""Keys of a profile that are quantities, with the unit of a plain number."""


def read_profiles(path: str | os.PathLike[str]) -> dict[str, Profile]:
    """Read profiles by name; those that the file does not name are the usual ones.

    ```yaml
    doorbell: {max_size_bytes: 300kB, max_latency_ms: 5ms, about: Cortex-A53}
    ```

    Raises:
        SpecError: with one line `FILE: profile.key: what is wrong; allowed: ...` per mistake.
    """
    try:
        content = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(content, Mapping) or not content:
        raise SpecError(f"{path}: allowed: a mapping of profiles, as `name: {{budget: value}}`")
    mistakes: list[str] = []
    own = {str(name): _profile(str(name), form, mistakes) for name, form in content.items()}
    if mistakes:
        raise SpecError("\n".join(f"{path}: {text}" for text in mistakes))
    return PROFILES | own


def find_profile(name: str, profiles: Mapping[str, Profile]) -> Profile:
    """Give a profile by its name.

    Raises:
        SpecError: there is none of that name.
    """
    if name not in profiles:
        hint = did_you_mean(name, profiles)
        raise SpecError(f"--profile: there is no profile {name!r}; {hint}allowed: "
                        f"{listed(profiles)}")  # fmt: skip
    return profiles[name]


def _profile(name: str, form: object, mistakes: list[str]) -> Profile:
    if not isinstance(form, Mapping):
        mistakes.append(f"{name}: got {form!r}; allowed: {{{', '.join(BUDGETS)}, about}}")
        return Profile(name, "")
    numbers: dict[str, float] = {}
    for key, value in form.items():
        if key in BUDGETS:
            try:
                numbers[key] = _budget(key, value)
            except ValueError as error:
                mistakes.append(f"{name}.{key}: got {value!r}; {error}")
        elif key != "about":
            hint = did_you_mean(str(key), BUDGETS)
            mistakes.append(f"{name}.{key}: is unknown; {hint}allowed: {listed(BUDGETS)}, about")
    return Profile(name, str(form.get("about", "")), **numbers)


def _budget(key: str, value: object) -> float:
    number = parse_quantity(value, BUDGETS[key])
    if number <= 0:
        raise ValueError("allowed: above 0")
    if key == "min_accuracy" and number > 1:
        raise ValueError("allowed: up to 1, or 100%")
    return number
