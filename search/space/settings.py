"""A config as people read it: values by the names that the sweep file uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from search.space.space import FACTORY_PREFIX
from trainables.config import TrialConfig


def settings(config: TrialConfig) -> dict[str, Any]:
    """Give every dimension's value by its name in the sweep file.

    Arguments of the `cnn` have names of their own, those of other models are `model.NAME`.
    """
    prefix = "" if config.model == "cnn" else FACTORY_PREFIX
    arguments = {f"{prefix}{name}": value for name, value in config.model_args.items()}
    return config.model_dump(exclude={"model_args"}) | arguments


def varying(configs: Iterable[TrialConfig]) -> list[str]:
    """Give the names of the dimensions in which the configs differ."""
    seen: dict[str, set[Any]] = {}
    for config in configs:
        for name, value in settings(config).items():
            seen.setdefault(name, set()).add(value)
    return [name for name, values in seen.items() if len(values) > 1]


def bits_name(config: TrialConfig) -> str:
    """Give the short name of a config's bits.

    >>> bits_name(TrialConfig(weight_bits=8))
    'W8A32'
    """
    return f"W{config.weight_bits}A{config.activation_bits}"
