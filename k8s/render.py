"""Manifests as text: what `render` prints is what `submit` sends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from k8s.pods import Manifest


def to_yaml(manifests: Iterable[Manifest]) -> str:
    """Give a stream of YAML documents; a file inside a ConfigMap stays readable."""
    return yaml.dump_all(
        manifests, Dumper=_Dumper, sort_keys=False, allow_unicode=True, explicit_start=True
    )


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
