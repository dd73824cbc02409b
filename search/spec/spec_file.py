"""Reading a sweep file: every mistake at once, with its line and in plain words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from search.errors import SpecError
from search.spec.mistakes import KeyPath, explain, unknown_key
from search.spec.spec import SweepSpec
from search.spec.yaml_text import YamlDocument, YamlError, load_yaml
from trainables.storage import locate

Kind = TypeVar("Kind", bound=SweepSpec)

MAX_FILE_BYTES = 1_000_000
"""A sweep file has a few hundred bytes; a larger file is something else."""


def load_sweep(path: str | os.PathLike[str]) -> SweepSpec:
    """Read and check a sweep file, from a path or any location that fsspec knows.

    Raises:
        SpecError: with one line `FILE:LINE: key: what is wrong; allowed: ...` per mistake.
    """
    return load_sweep_as(SweepSpec, path)


def load_sweep_as(kind: type[Kind], path: str | os.PathLike[str]) -> Kind:
    """Read and check a sweep file of a kind that knows more sections.

    Raises:
        SpecError: with one line `FILE:LINE: key: what is wrong; allowed: ...` per mistake.
    """
    name = os.fspath(path)
    content = _read(name)
    try:
        document = load_yaml(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SpecError(f"{name}:{line}: is not text in UTF-8") from error
    except YamlError as error:
        raise SpecError(f"{name}:{error.line}: {error.text}") from error
    if not isinstance(document.value, dict):
        got = "is empty" if document.value is None else "is not a mapping of keys to values"
        raise SpecError(f"{name}:1: {got}; allowed: {', '.join(kind.model_fields)}")
    try:
        spec = kind.model_validate(document.value, strict=True)
    except ValidationError as error:
        raise SpecError(_report(kind, name, document, error)) from error
    return _with_absolute_paths(spec, name)


def _read(name: str) -> bytes:
    """Give the file's content, at most one byte more than is allowed."""
    try:
        if "://" in name:
            fs, inner = locate(name)
            with fs.open(inner, "rb") as file:
                content = bytes(file.read(MAX_FILE_BYTES + 1))
        else:
            with Path(name).expanduser().open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise SpecError(f"{name}: there is no such file") from error
    except IsADirectoryError as error:
        raise SpecError(f"{name}: is a folder; allowed: a sweep file (YAML)") from error
    except (OSError, ImportError, ValueError) as error:
        raise SpecError(f"{name}: cannot be read: {error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise SpecError(f"{name}: is larger than {MAX_FILE_BYTES} bytes, so not a sweep file")
    return content


def _with_absolute_paths(spec: Kind, name: str) -> Kind:
    """Let data and model factories be found from whatever folder a trial runs in.

    A data path counts from the working directory, as on any command line; a factory stands
    beside the sweep file.
    """
    changes: dict[str, Any] = {}
    if spec.data.path:
        path = str(Path(spec.data.path).expanduser().absolute())
        changes["data"] = spec.data.model_copy(update={"path": path})
    if "://" not in name and any(":" in model for model in spec.space.models):
        folder = Path(name).expanduser().absolute().parent
        paths = spec.import_paths or ["."]
        changes["import_paths"] = [str(folder / Path(path).expanduser()) for path in paths]
    return spec.model_copy(update=changes)


# --- mistakes --------------------------------------------------------------------------------


def _report(
    kind: type[SweepSpec], name: str, document: YamlDocument, error: ValidationError
) -> str:
    found = []
    for mistake in error.errors():
        path = mistake["loc"]
        line = document.line(path)
        if mistake["type"] == "extra_forbidden":
            text = unknown_key(path[-1], getattr(_annotation(kind, path[:-1]), "model_fields", ()))
        else:
            text = explain(mistake, _field(kind, path))
        found.append((line, f"{name}:{line}: {_dotted(path)}: {text}"))
    return "\n".join(text for _, text in sorted(found))


def _dotted(path: KeyPath) -> str:
    """Give `space.batch_size[1]`."""
    parts = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in path]
    return "".join(parts).removeprefix(".")


def _field(root: type[SweepSpec], path: KeyPath) -> FieldInfo | None:
    """Give what stands at a path of a sweep file, if that is known."""
    above: dict[str, FieldInfo] = getattr(_annotation(root, path[:-1]), "model_fields", {})
    if path and path[-1] in above:
        return above[str(path[-1])]
    kind = _annotation(root, path)
    return None if kind is None else FieldInfo.from_annotation(kind)


def _annotation(root: type[SweepSpec], path: KeyPath) -> Any:
    """Give the type of what stands at a path; None if there is no such key."""
    kind: Any = root
    for key in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(key))
            kind = field.annotation if field else None
        else:  # a value of a mapping, an item of a list
            kind = get_args(kind)[-1] if get_args(kind) else None
        parts = [part for part in get_args(kind) if part is not type(None)]
        if len(parts) == 1 < len(get_args(kind)):  # a section that may be left out
            kind = parts[0]
    return kind
