"""Writes the reference of the sweep file from its models: `scripts/reference [FILE]`."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from k8s.spec import ClusterSpec, HeadSpec, StorageSpec, TolerationSpec, WorkersSpec
from search.spec.mistakes import allowed, shown
from search.spec.sections import (
    ConstraintSpec,
    ModelSpec,
    ObjectiveSpec,
    ResourcesSpec,
    SearchSpec,
    StopSpec,
)
from search.spec.spec import SweepSpec
from trainables.config import CnnArguments, DataConfig, DeployConfig, TrialConfig
from trainables.contract import METRICS

DEFAULT = Path(__file__).parent.parent / "docs" / "sweep-file.md"

HEAD = """\
# The sweep file

Made by `scripts/reference` from the docstrings of the code: change them, not this page.

One YAML file is one study. Unknown keys are mistakes; `paretune check FILE` names every mistake
with its line, and prints the file with all defaults written out. Numbers may carry a unit where
they have one: `500kB`, `2MiB`, `5ms`, `90%`.
"""

SPACE = """\
Dimensions by name. What is not named keeps its default.

| form | means |
|---|---|
| `3`, `crop` | fixed |
| `[32, 64, 128]` | one of these; numbers are ordered, words are not |
| `{uniform: [0.0, 0.8]}` | any number between, ends included |
| `{log_uniform: [1.0e-3, 1.0e-1]}` | the same, uniform in the logarithm |
| `{int: [2, 4]}`, `{int: [8, 64], step: 8}` | whole numbers, ends included |
| `{log_int: [8, 64]}` | the same, uniform in the logarithm |

Two points that mean the same (any pruning ratio where nothing is pruned, ratios that end in the
same channel counts) are one configuration and run once. Pairs of bits that the runtime does not
really execute are left out, and `check` says so. An argument of a `package.module:function` is a
dimension `model.NAME`.
"""


def reference() -> str:
    """Give the page."""
    return "\n".join(
        [
            HEAD,
            _section("Top level", SweepSpec),
            _section("`data`", DataConfig),
            _section("`model`", ModelSpec),
            f"## `space`\n\n{SPACE}",
            "### Dimensions of every model\n\n"
            + _table(TrialConfig, leave=("model_args", "seed")),
            "### Dimensions of `cnn`\n\n" + _table(CnnArguments),
            _section("`search`", SearchSpec),
            _section("`stop`", StopSpec),
            _metrics(),
            _section("`objectives.METRIC`", ObjectiveSpec),
            _section("`constraints.METRIC`", ConstraintSpec),
            _section("`deploy`", DeployConfig),
            _section("`resources`", ResourcesSpec),
            _section("`cluster`", ClusterSpec),
            _section("`cluster.head`", HeadSpec),
            _section("`cluster.workers[]`", WorkersSpec),
            _section("`cluster.workers[].tolerations[]`", TolerationSpec),
            _section("`cluster.storage`", StorageSpec),
        ]
    )


def _section(title: str, model: type[BaseModel]) -> str:
    about = _one_line(inspect.getdoc(model) or "")
    return f"## {title}\n\n{about}\n\n{_table(model)}"


def _table(model: type[BaseModel], leave: tuple[str, ...] = ()) -> str:
    texts = field_docstrings(model)
    rows = ["| key | allowed | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name not in leave:
            what = _cell(allowed(field))
            rows.append(
                f"| `{name}` | {what} | {_default(field)} | {_cell(texts.get(name, ''))} |"
            )
    return "\n".join(rows) + "\n"


def _metrics() -> str:
    rows = [
        "## Metrics\n",
        "What objectives and constraints may name. Forecast ones are known before training: a"
        " constraint on them ends a trial before its first step.\n",
        "| metric | unit | better | forecast | hypervolume axis |",
        "|---|---|---|---|---|",
    ]
    for m in METRICS.values():
        axis = f"{m.ideal:g} to {m.reference:g}{', logarithmic' if m.log else ''}"
        better = "low" if m.direction == "min" else "high"
        forecast = "yes" if m.forecast else ""
        rows.append(f"| `{m.name}` | {m.unit or '-'} | {better} | {forecast} | {axis} |")
    return "\n".join(rows) + "\n"


def field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Give the text under each field of a class and of those it derives from."""
    texts: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if not issubclass(kind, BaseModel) or kind is BaseModel:
            continue
        body = ast.parse(inspect.getsource(kind)).body[0]
        if not isinstance(body, ast.ClassDef):
            continue
        for statement, after in zip(body.body, body.body[1:], strict=False):
            named = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
            text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if named and text:
                texts[statement.target.id] = str(after.value.value)
    return texts


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or (
        isinstance(value, dict | list) and any(isinstance(v, BaseModel) for v in value)
    ):
        return "see below"
    if isinstance(value, dict) and value:
        return _cell(", ".join(f"`{key}`" for key in value))
    return "null" if value is None else _cell(f"`{shown(value)}`")


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    target.parent.mkdir(exist_ok=True)
    target.write_text(reference(), encoding="utf-8")
