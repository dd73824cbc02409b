"""The `paretune` command. Results go to stdout, everything said about them to stderr."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from paretune import k8s_cli
from paretune.files_cli import benchmark, export
from paretune.interrupts import Interrupts
from paretune.nightly_cli import nightly
from paretune.reports import compare, report, tensorboard
from paretune.results import export_data, front, select
from paretune.sweeps import (
    INTERRUPTED,
    records_of,
    say_interrupted,
    show,
    view_of,
    warm_start,
)
from search.errors import SearchError, StudyError, SweepError
from search.study import storage
from trainables.errors import DataError, ModelError, TrialError

if TYPE_CHECKING:
    from k8s.sweep import ClusterSweep
    from search.spec.spec import SweepSpec

app = typer.Typer(
    name="paretune",
    help="Search for small, fast and accurate CNNs: one sweep file in, a measured Pareto front "
    "of deployable models out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SweepFile = Annotated[Path, typer.Argument(metavar="FILE", help="The sweep file (YAML).")]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit: the entry point of the console script.

    Exit codes: 0 done; 1 no feasible model, or the sweep failed; 2 bad input or usage; 3 the
    storage or the cluster refused; 130 interrupted.
    """
    try:
        app(arguments, prog_name="paretune")
    except (SearchError, TrialError) as error:
        if os.environ.get("PARETUNE_DEBUG") == "1":
            raise
        print(f"paretune: {error}", file=sys.stderr)  # noqa: T201 - nothing to lay out
        sys.exit(_exit_code(error))
    sys.exit(0)


def _exit_code(error: SearchError | TrialError) -> int:
    if isinstance(error, SearchError):
        return error.exit_code
    return 2 if isinstance(error, DataError | ModelError) else 1


def _show_version(asked: bool) -> None:
    if asked:
        from paretune import __version__

        typer.echo(f"paretune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


# --- sweeps --------------------------------------------------------------------------------------


@app.command()
def check(file: SweepFile) -> None:
    """Read a sweep file and say what it would run. Nothing is trained."""
    from search.spec.preflight import preflight

    spec = _sweep(file)
    notes = preflight(spec, elsewhere=spec.cluster is not None) + _cluster_notes(spec)
    typer.echo(spec.to_yaml().rstrip())
    # Comments, so that the output as a whole is a sweep file again.
    typer.echo(f"\n# {_size_text(spec)}")
    for note in notes:
        typer.echo(f"# {note}")
    typer.echo(f"# would run: {_plan_text(spec)}")
    typer.echo(f"# study: {storage.absolute(spec.study_location)}")


@app.command()
def run(
    file: SweepFile,
    *,
    plain: Annotated[
        bool, typer.Option("--plain", help="One line per trial instead of the live view.")
    ] = False,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all, in place of the sweep file's.")
    ] = None,
    parents: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="STUDY", help="A study to learn from; again for more."),
    ] = None,
    from_anyway: Annotated[
        bool,
        typer.Option("--from-anyway", help="Take studies that do not match as hints."),
    ] = False,
) -> None:
    """Run a sweep, or go on with its study; Ctrl-C keeps every finished trial."""
    again = shlex.join(
        ["paretune", "run", str(file)]
        + (["--plain"] if plain else [])
        + (["--trials", str(trials)] if trials else [])
        + [part for parent in parents or () for part in ("--from", parent)]
        + (["--from-anyway"] if from_anyway else [])
    )
    _run(_sweep(file, trials), again, plain=plain, parents=parents or (), anyway=from_anyway)


@app.command()
def resume(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Folder of the study.")],
    *,
    plain: Annotated[
        bool, typer.Option("--plain", help="One line per trial instead of the live view.")
    ] = False,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all, in place of the stored number.")
    ] = None,
) -> None:
    """Go on with a study by the sweep file that is stored in it."""
    from search.study.study import Study

    again = shlex.join(
        ["paretune", "resume", study]
        + (["--plain"] if plain else [])
        + (["--trials", str(trials)] if trials else [])
    )
    location = Study.open(study).location
    spec = _sweep(storage.join(location, "sweep.yaml"), trials)
    folder, _, name = location.rpartition("/")
    if name != spec.name:
        raise StudyError(
            f"{location} holds the study {spec.name!r}: a folder has the name of its study. "
            f"Rename it to {spec.name}"
        )
    _run(spec.model_copy(update={"storage": folder}), again, plain=plain)


def _run(
    spec: SweepSpec,
    again: str,
    *,
    plain: bool,
    parents: Sequence[str] = (),
    anyway: bool = False,
) -> None:
    from paretune.tables import make_console
    from search.spec.preflight import preflight

    console = make_console()
    for note in preflight(spec):
        typer.echo(f"paretune: {note}", err=True)
    try:
        with Interrupts() as interrupts:
            from search.sweep import run_sweep

            start = warm_start(spec, parents, anyway=anyway)
            view = view_of(spec, console, plain=plain)
            observers = [view, interrupts, *records_of(spec, again)]
            outcome = run_sweep(spec, observers=observers, start=start)
    except KeyboardInterrupt:
        say_interrupted(again)
        raise typer.Exit(INTERRUPTED) from None
    show(outcome, console)
    if outcome.interrupted:
        say_interrupted(again)
        raise typer.Exit(INTERRUPTED)
    if not outcome.front.rows:
        raise SweepError("the sweep ended without a feasible model")


def _sweep(file: Path | str, trials: int | None = None) -> ClusterSweep:
    from k8s.sweep import load_cluster_sweep

    spec = load_cluster_sweep(file)
    if trials is not None:
        search = spec.search.model_copy(update={"trials": trials})
        spec = spec.model_copy(update={"search": search})
    return spec


def _cluster_notes(spec: ClusterSweep) -> list[str]:
    from k8s.sweep import check_cluster, trial_slots

    if spec.cluster is None:
        return []
    check_cluster(spec, spec.cluster)
    return [f"on the cluster: up to {trial_slots(spec, spec.cluster)} trials at a time"]


def _size_text(spec: SweepSpec) -> str:
    from search.space.space import COUNT_LIMIT

    size = spec.space.size()
    if size is None:
        return f"configurations without end; continuous: {', '.join(spec.space.continuous)}"
    most = "at most " if size > COUNT_LIMIT else ""  # some may mean the same
    return f"{most}{size:,} configurations"


def _plan_text(spec: SweepSpec) -> str:
    trials = "all of its" if spec.search.trials is None else str(spec.search.trials)
    return (
        f"{spec.search.method} search, {trials} trials, stopping by {spec.stop.method}, "
        f"{spec.max_concurrent} at a time"
    )


# --- every night, and on a cluster: see nightly_cli.py and k8s_cli.py ----------------------------

app.command()(nightly)
app.add_typer(k8s_cli.app, name="k8s")

# --- results: see results.py and reports.py ------------------------------------------------------

for _command in (front, select, report, compare, tensorboard, export_data):
    app.command()(_command)

# --- model files: see files_cli.py ---------------------------------------------------------------

app.command()(benchmark)
app.command()(export)
