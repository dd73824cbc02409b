"""YAML as people mean it, with the line of every value.

Different from plain PyYAML: `1e-3` is a number and a date is text, a key given twice is an error,
and there are neither merge keys nor tags. What `dump_yaml` writes, `load_yaml` reads back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from search.spec.mistakes import KeyPath

MAX_VALUES = 100_000
"""Values in a document, those of repeated aliases counted each time: a few lines of nested
aliases can stand for billions."""

_EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]+)[eE][-+]?[0-9]+")
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in _KINDS)


@dataclass
class YamlDocument:
    """Values, and where they are."""

    value: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    """Line by path, from 1: of a key where there is one."""

    def line(self, path: KeyPath) -> int:
        """Give the line of a path, or of the closest thing above that is in the file."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)


class YamlError(ValueError):
    """Text is not the YAML that a sweep file may be."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"line {line}: {text}")
        self.line = line
        self.text = text


def load_yaml(text: str) -> YamlDocument:
    """Read one document.

    Raises:
        YamlError: it is not YAML, or has more than plain values, lists and mappings.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        document = YamlDocument()
        if node is not None:
            document.value = _Reader(loader, document.lines).read(node, (), ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, _syntax(error)) from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise YamlError(1, " ".join(str(error).split())) from error
    except RecursionError as error:
        raise YamlError(1, "is nested too deeply") from error
    return document


def dump_yaml(value: Any) -> str:
    """Write plain values, lists and mappings, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag.rpartition(":")[2] != "timestamp"]
        for first, pairs in _class.yaml_implicit_resolvers.items()
    }
    # After YAML's own patterns: only what they leave as text.
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


class _Reader:
    """Turns nodes into values."""

    def __init__(self, loader: _Loader, lines: dict[KeyPath, int]) -> None:
        self.loader = loader
        self.lines = lines
        self.count = 0

    def read(self, node: yaml.Node, path: KeyPath, above: tuple[yaml.Node, ...]) -> Any:
        """Give the value of a node; `above` are the nodes that it is inside of."""
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.count += 1
        if node in above:
            raise YamlError(line, "an alias contains itself")
        if self.count > MAX_VALUES:
            raise YamlError(line, f"has more than {MAX_VALUES} values; aliases count each time")
        if node.tag not in _TAGS:
            raise YamlError(line, f"the tag {node.tag} is not known; allowed: plain values")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, (*above, node))
        if isinstance(node, yaml.SequenceNode):
            inside = (*above, node)
            return [self.read(item, (*path, i), inside) for i, item in enumerate(node.value)]
        return self._scalar(node, line)

    def _mapping(
        self, node: yaml.MappingNode, path: KeyPath, inside: tuple[yaml.Node, ...]
    ) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlError(line, "a key is a list or a mapping; allowed: text")
            if key_node.value == "<<":
                raise YamlError(line, "merge keys (<<) are not known; write the keys out")
            key = key_node.value
            if key in found:
                before = self.lines[*path, key]
                raise YamlError(line, f"the key '{key}' is given twice, first in line {before}")
            self.lines[*path, key] = line
            found[key] = self.read(value_node, (*path, key), inside)
        return found

    def _scalar(self, node: yaml.Node, line: int) -> Any:
        try:
            return self.loader.construct_object(node)
        except ValueError as error:
            raise YamlError(line, f"'{node.value[:40]}' is not a number: {error}") from error


def _syntax(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    hint = "; indent with spaces, not with tabs" if "'\\t'" in str(error.problem) else ""
    return f"is not YAML: {', '.join(parts)}{hint}"
