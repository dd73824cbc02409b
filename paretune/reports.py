"""The commands that show a study: report, compare, tensorboard."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from paretune.results import AsJson, ProfilesFile, StudyFolder, open_front, print_json, profiles_of

if TYPE_CHECKING:
    from search.study.study import Study


def report(
    study: StudyFolder,
    *,
    then: Annotated[
        str | None, typer.Option(metavar="STUDY", help="An earlier study to compare with.")
    ] = None,
    profiles: ProfilesFile = None,
    to: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where to write; the study by default.")
    ] = None,
) -> None:
    """Write the report of a study: one HTML file that needs no network."""
    from search.report.writer import write_report

    earlier = _open(then) if then else None
    location = write_report(_open(study), then=earlier, profiles=profiles_of(profiles), to=to)
    typer.echo(location)


def compare(
    then: Annotated[str, typer.Argument(metavar="THEN", help="The folder of the earlier study.")],
    now: Annotated[str, typer.Argument(metavar="NOW", help="The folder of the later study.")],
    *,
    profiles: ProfilesFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what changed from one study to another: models, hypervolume, picks."""
    from search.front.compare import compare as compare_fronts
    from search.front.compare import comparison_text

    (_, before), (_, after) = (open_front(location) for location in (then, now))
    comparison = compare_fronts(before, after, profiles=profiles_of(profiles))
    if as_json:
        print_json(comparison.to_dict())
    else:
        typer.echo(comparison_text(comparison))


def tensorboard(
    study: StudyFolder,
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 6006,
    host: Annotated[
        str, typer.Option(help="Address to serve on; others than this machine may not see it.")
    ] = "127.0.0.1",
) -> None:
    """Serve the curves, trials and front of a study, also of one that runs; Ctrl-C ends it."""
    from search.study import storage
    from search.tensorboard.log import logs_location, write_logs

    opened = _open(study)
    location = logs_location(opened.location)
    if not storage.exists(location):
        write_logs(opened)
    # TensorBoard takes this process over: signals, exit code and output are its own.
    arguments = ["--logdir", location, "--host", host, "--port", str(port)]
    command = [sys.executable, "-m", "search.tensorboard", *arguments]
    os.execv(command[0], command)  # noqa: S606 - no shell, and the study exists


def _open(location: str) -> Study:
    from search.study.study import Study

    return Study.open(location)
