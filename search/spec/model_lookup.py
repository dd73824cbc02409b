"""What models there are, read from source text: importing a model's module would import torch."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

FROM_DATA = ("in_channels", "image_size", "classes")
"""Arguments that a factory gets from the data, if it takes them: see `models.build_model`."""

_REGISTERED = re.compile(r"^@register_model\(\).*?^def (\w+)\(", re.MULTILINE | re.DOTALL)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Signature:
    """Which arguments a factory takes by name."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    takes_any: bool


def torchvision_names() -> list[str]:
    """Give the names of torchvision's classifiers; none if torchvision is not installed."""
    return _registered(tuple(sys.path))


@cache
def _registered(path: tuple[str, ...]) -> list[str]:
    found = _find("torchvision.models", list(path))
    folders = (found and found.submodule_search_locations) or []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.py"))]
    return sorted(name for file in files for name in _REGISTERED.findall(_text(file)))


def factory_problem(
    factory: str, arguments: Iterable[str], import_paths: Sequence[str]
) -> str | None:
    """Say why `package.module:function` cannot be called with arguments; None if it can.

    What cannot be told from the source alone (a name that is itself imported, a decorated
    function) counts as callable.
    """
    module_name, _, function_name = factory.partition(":")
    folders = [str(Path(p).expanduser().absolute()) for p in (*import_paths, ".")]
    found = _find(module_name, [*folders, *sys.path])
    if found is None:
        return f"there is no module {module_name} in {' or '.join(dict.fromkeys(folders))}"
    if not found.has_location or not str(found.origin).endswith(".py"):
        return None
    source = Path(str(found.origin))
    try:
        tree = ast.parse(_text(source))
    except (SyntaxError, ValueError) as error:
        return f"{source} is not Python: {error}"
    defined = _defined(tree)
    if function_name not in defined and "*" not in defined:
        functions = [name for name, node in defined.items() if isinstance(node, Function)]
        return f"{source} has no {function_name}; it has {', '.join(functions) or 'no function'}"
    signature = _signature(defined.get(function_name))
    return _misfit(signature, set(arguments)) if signature else None


def _misfit(signature: Signature, given: set[str]) -> str | None:
    if clash := sorted(given & set(FROM_DATA)):
        return f"{', '.join(clash)} follows from the data and cannot be given"
    unknown = sorted(given - set(signature.names))
    if unknown and not signature.takes_any:
        return f"does not take {', '.join(unknown)}; it takes {', '.join(signature.names)}"
    if missing := [n for n in signature.required if n not in given and n not in FROM_DATA]:
        return f"needs {', '.join(missing)}; give it as model.{missing[0]}"
    return None


def _find(name: str, path: Sequence[str]) -> ModuleSpec | None:
    """Find a module without importing the packages around it, as importlib's find_spec would."""
    found, inside = None, ""
    for part in name.split("."):
        inside = f"{inside}.{part}" if inside else part
        found = PathFinder.find_spec(inside, path)
        if found is None:
            return None
        path = list(found.submodule_search_locations or [])
    return found


def _defined(tree: ast.Module) -> dict[str, ast.stmt]:
    """Give what a module's top level defines, by name; `*` where it imports everything."""
    names: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name: node for alias in node.names}
        else:  # an assignment, or definitions inside `if` and `try`
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    names[inner.id] = node
                elif isinstance(inner, Function | ast.ClassDef):
                    names[inner.name] = node
    return names


def _signature(node: ast.stmt | None) -> Signature | None:
    """Give the signature of a plain function or class; None if it cannot be told."""
    if isinstance(node, ast.ClassDef) and not node.decorator_list:
        inits = [n for n in node.body if isinstance(n, Function) and n.name == "__init__"]
        return _of_arguments(inits[0].args, bound=1) if inits else None
    if isinstance(node, Function) and not node.decorator_list:
        return _of_arguments(node.args, bound=0)
    return None


def _of_arguments(arguments: ast.arguments, *, bound: int) -> Signature:
    positional = (arguments.posonlyargs + arguments.args)[bound:]
    required = positional[: len(positional) - len(arguments.defaults)]
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return Signature(
        names=tuple(a.arg for a in [*positional, *arguments.kwonlyargs]),
        required=tuple(a.arg for a in [*required, *(a for a, value in pairs if value is None)]),
        takes_any=arguments.kwarg is not None,
    )


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")
