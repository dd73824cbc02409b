"""The commands that read a study: front, select, export-data."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from search.errors import SpecError
from search.study import storage

if TYPE_CHECKING:
    from search.front.front import ParetoFront
    from search.study.study import Study

StudyFolder = Annotated[
    str, typer.Argument(metavar="STUDY", help="The study folder that a run printed.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]


def front(
    study: StudyFolder,
    *,
    as_json: AsJson = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Show the Pareto front of a study."""
    from paretune.tables import counts_text, csv_text, front_table, make_console

    if as_json and as_csv:
        raise SpecError("--json and --csv were both given; choose one")
    opened, found = _front(study)
    if as_json:
        _print_json(found.records(opened))
    elif as_csv:
        typer.echo(csv_text(found.records(opened)), nl=False)
    else:
        console = make_console()
        console.print(front_table(found))
        console.print(counts_text(found), soft_wrap=True)


def select(
    study: StudyFolder,
    *,
    max_size_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest file, such as 500kB.")
    ] = None,
    max_latency_ms: Annotated[
        str | None, typer.Option(metavar="TIME", help="Longest inference call, such as 5ms.")
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest accuracy, from 0 to 1.")
    ] = None,
    knee: Annotated[
        bool, typer.Option("--knee", help="The best compromise instead of the most accurate.")
    ] = False,
    copy_to: Annotated[
        str | None, typer.Option(metavar="FILE", help="Copy the model there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the one model to deploy from a study's front."""
    from paretune.tables import pick_text
    from search.front.front import record
    from search.front.picks import pick

    opened, found = _front(study)
    row = pick(
        found,
        max_size_bytes=_quantity(max_size_bytes, "B", "--max-size-bytes"),
        max_latency_ms=_quantity(max_latency_ms, "ms", "--max-latency-ms"),
        min_accuracy=min_accuracy,
        knee=knee,
    )
    if copy_to is not None:
        storage.write_whole(copy_to, storage.read(opened.artifact_path(row)))
    picked = record(row, opened)
    if as_json:
        _print_json(picked)
    else:
        typer.echo(pick_text(row, copy_to or str(picked["artifact"])))


def export_data(
    study: StudyFolder,
    file: Annotated[str, typer.Argument(metavar="FILE.npz", help="Where to write them.")],
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Which images.")] = "test",
) -> None:
    """Write images and labels as the models of a study take them.

    `images` is float32, scaled as in training; `labels` is int64.
    """
    import numpy as np

    from search.study.study import Study
    from trainables.data import load_data

    data = load_data(Study.open(study).spec().data)
    part = getattr(data, split)
    out = io.BytesIO()
    np.savez(
        out,
        images=data.normalised(part.images).astype(np.float32),
        labels=part.labels.astype(np.int64),
    )
    storage.write_whole(file, out.getvalue())
    typer.echo(f"{len(part.labels)} {split} images written to {file}", err=True)


def _quantity(text: str | None, unit: str, option: str) -> float | None:
    from search.quantities import parse_quantity

    if text is None:
        return None
    try:
        number = parse_quantity(text, unit)
    except ValueError as error:
        raise SpecError(f"{option}: got {text!r}; {error}") from error
    if number <= 0:
        raise SpecError(f"{option}: got {text!r}; allowed: above 0")
    return number


def _front(location: str) -> tuple[Study, ParetoFront]:
    from search.front.front import ParetoFront
    from search.study.study import Study

    study = Study.open(location)
    spec = study.spec()
    rows = study.rows()
    if study.skipped_files:
        names = ", ".join(study.skipped_files)
        typer.echo(f"paretune: left out of rows/, torn or foreign: {names}", err=True)
    return study, ParetoFront.of(rows, spec.objective_list, spec.constraint_list)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))
