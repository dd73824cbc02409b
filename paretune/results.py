"""The commands that read a study: front, select, export-data."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from search.errors import SpecError
from search.study import storage

if TYPE_CHECKING:
    from search.front.front import ParetoFront
    from search.front.picks import Profile
    from search.study.rows import ResultRow
    from search.study.study import Study

StudyFolder = Annotated[
    str, typer.Argument(metavar="STUDY", help="The study folder that a run printed.")
]
ProfilesFile = Annotated[
    Path | None,
    typer.Option("--profiles", metavar="FILE", help="Device profiles of your own (YAML)."),
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
    opened, found = open_front(study)
    if as_json:
        print_json(found.records(opened))
    elif as_csv:
        typer.echo(csv_text(found.records(opened)), nl=False)
    else:
        console = make_console()
        console.print(front_table(found))
        console.print(counts_text(found), soft_wrap=True)


def select(
    study: StudyFolder,
    *,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="Budgets of a device: phone, edge, server.")
    ] = None,
    profiles: ProfilesFile = None,
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
        str | None,
        typer.Option(metavar="FILE", help="Copy the model there, with all that is known of it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the one model to deploy from a study's front.

    Budgets that are given beside a profile replace those of the profile.
    """
    from paretune.tables import pick_text
    from search.front.front import record
    from search.front.picks import Profile
    from search.front.profiles import find_profile
    from search.front.steps import step_aside, step_less, step_more

    opened, found = open_front(study)
    known = profiles_of(profiles)
    base = find_profile(profile, known) if profile else Profile("budgets", "")
    asked = {
        "max_size_bytes": _quantity(max_size_bytes, "B", "--max-size-bytes"),
        "max_latency_ms": _quantity(max_latency_ms, "ms", "--max-latency-ms"),
        "min_accuracy": min_accuracy,
    }
    chosen = base.with_budgets(asked)
    row = chosen.pick(found, knee=knee)
    steps = {
        "one_step_more": step_more(found, row),
        "one_step_less": step_less(found, row),
        "one_step_aside": step_aside(found, row),
    }
    if copy_to is not None:
        storage.write_whole(copy_to, _with_facts(opened, row))
    picked = record(row, opened)
    if as_json:
        print_json(picked | {name: step and step.to_dict() for name, step in steps.items()})
        return
    what = "best compromise" if knee else "most accurate"
    typer.echo(pick_text(row, copy_to or str(picked["artifact"])))
    typer.echo(f"chosen    {what} of the {len(found.rows)} on the front, {chosen.budgets_text}")
    typer.echo(f"one more  {steps['one_step_more'] or 'nothing on the front is more accurate'}")
    typer.echo(f"one less  {steps['one_step_less'] or 'nothing on the front is smaller'}")
    typer.echo(f"faster    {steps['one_step_aside'] or 'nothing as accurate is faster'}")
    if copy_to is not None:
        typer.echo(_snippet(opened.location, copy_to))


def _with_facts(study: Study, row: ResultRow) -> bytes:
    """Give the row's model file with what is known of it inside; its graph is not touched."""
    from trainables.stamp import stamped

    facts = {
        "study": study.location,
        "trial": row.trial_id,
        "config": row.config.model_dump(),
        "metrics": row.metrics | {"test_accuracy": row.test_accuracy},
        "latency": row.latency,
        "environment": row.environment,
    }
    content = storage.read(study.artifact_path(row))
    return stamped(content, {"paretune": json.dumps(facts, default=str)})


def _snippet(study: str, model: str) -> str:
    """Give what runs a model without us, on images that `export-data` wrote."""
    return f"""
# paretune export-data {shlex.quote(study)} test.npz      writes images to try it on
import numpy, onnxruntime
session = onnxruntime.InferenceSession({model!r})
data = numpy.load("test.npz")
answers = session.run(None, {{session.get_inputs()[0].name: data["images"]}})[0].argmax(axis=1)
print("accuracy", (answers == data["labels"]).mean())"""


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


def profiles_of(file: Path | None) -> Mapping[str, Profile]:
    """Give the device profiles: the usual ones, and those of a file."""
    from search.front.picks import PROFILES
    from search.front.profiles import read_profiles

    return PROFILES if file is None else read_profiles(file)


def _quantity(text: str | None, unit: str, option: str) -> float | None:
    from search.spec.quantities import parse_quantity

    if text is None:
        return None
    try:
        number = parse_quantity(text, unit)
    except ValueError as error:
        raise SpecError(f"{option}: got {text!r}; {error}") from error
    if number <= 0:
        raise SpecError(f"{option}: got {text!r}; allowed: above 0")
    return number


def open_front(location: str) -> tuple[Study, ParetoFront]:
    """Open a study and select its front; say which files of it were left out."""
    from search.front.front import ParetoFront
    from search.study.study import Study

    study = Study.open(location)
    spec = study.spec()
    rows = study.rows()
    if study.skipped_files:
        names = ", ".join(study.skipped_files)
        typer.echo(f"paretune: left out of rows/, torn or foreign: {names}", err=True)
    return study, ParetoFront.of(rows, spec.objective_list, spec.constraint_list)


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    typer.echo(json.dumps(value, indent=1))
