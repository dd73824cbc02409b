"""The command that runs a sweep every night: `paretune nightly`."""

from __future__ import annotations

import os
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from search.errors import SpecError, SweepError

if TYPE_CHECKING:
    from k8s.sweep import ClusterSweep
    from search.nightly import Night


class PickGotWorse(SweepError):  # noqa: N818 - reads as what happened
    """The model that a device profile takes is less accurate than the night before."""


def nightly(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sweep file (YAML).")],
    *,
    night: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", envvar="PARETUNE_NIGHT", help="Names the study; today by default."
        ),
    ] = None,
    keep: Annotated[
        int, typer.Option(min=1, envvar="PARETUNE_KEEP", help="Nights whose studies are kept.")
    ] = 14,
    time_zone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of today; the machine's by default.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="One line per trial instead of the live view.")
    ] = False,
    worse_is_ok: Annotated[
        bool, typer.Option("--worse-is-ok", help="Exit 0 although a pick got worse.")
    ] = False,
    on_cluster: Annotated[
        bool, typer.Option("--on-cluster", help="Start the night as a job there, and wait.")
    ] = False,
) -> None:
    """Run a sweep as a new study that starts from earlier nights, and say what changed.

    Run again on the same date, it goes on with that night. Exit code 1: the pick of a device
    profile got worse, or there is no feasible model.
    """
    from k8s.sweep import load_cluster_sweep

    spec = load_cluster_sweep(file)
    day = _day(night, time_zone)
    if on_cluster:
        changes = _on_cluster(spec, day, keep)
    else:
        changes = _here(spec, file, day, keep, plain=plain)
    if changes is None:
        typer.echo("no earlier night to compare with", err=True)
    elif changes["worse"] and not worse_is_ok:
        names = [name for name, pick in changes["picks"].items() if pick["verdict"] == "worse"]
        raise PickGotWorse(f"the pick for {', '.join(names)} got worse since the night before")


def _here(
    spec: ClusterSweep, file: Path, day: date, keep: int, *, plain: bool
) -> dict[str, Any] | None:
    from paretune.interrupts import Interrupts
    from paretune.sweeps import INTERRUPTED, records_of, say_interrupted, show, view_of
    from paretune.tables import make_console
    from search.front.compare import comparison_text
    from search.nightly import run_night

    console = make_console()
    again = f"paretune nightly {file} --night {day.isoformat()}"
    try:
        with Interrupts() as interrupts:
            view = view_of(spec, console, plain=plain)
            observers = [view, interrupts, *records_of(spec, again)]
            night: Night = run_night(spec, day, keep=keep, observers=observers)
    except KeyboardInterrupt:
        say_interrupted(again)
        raise typer.Exit(INTERRUPTED) from None
    show(night.outcome, console)
    if night.outcome.interrupted:
        say_interrupted(again)
        raise typer.Exit(INTERRUPTED)
    if not night.outcome.front.rows:
        raise SweepError("the night ended without a feasible model")
    if night.comparison is None:
        return None
    typer.echo(f"{night.told} rows of earlier nights were learnt from; since the night before:")
    typer.echo(comparison_text(night.comparison))
    return night.comparison.to_dict()


def _on_cluster(spec: ClusterSweep, day: date, keep: int) -> dict[str, Any] | None:
    from k8s.client import Cluster
    from k8s.submit import submit_night, wait
    from k8s.sweep import cluster_section
    from search.nightly import read_comparison

    section = cluster_section(spec)
    namespace = os.environ.get("PARETUNE_NAMESPACE") or section.namespace
    cluster = Cluster.connect(namespace=namespace)
    name = submit_night(cluster, spec, day, keep=keep, owner=_owner())
    wait(cluster, name, lambda text: typer.echo(text, err=True))
    changes = read_comparison(spec, day)
    if changes:
        typer.echo(changes["text"])
    return changes


def _owner() -> dict[str, Any] | None:
    """Give the Job that this pod belongs to, as the CronJob's pod template names it."""
    name, uid = (os.environ.get(f"PARETUNE_JOB_{part}") for part in ("NAME", "UID"))
    if not name or not uid:
        return None
    return {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}


def _day(night: str | None, time_zone: str | None) -> date:
    try:
        zone = ZoneInfo(time_zone) if time_zone else None
    except (KeyError, ValueError) as error:
        raise SpecError(
            f"--time-zone: got {time_zone!r}; allowed: a name such as Europe/Paris"
        ) from error
    if night is None:
        return datetime.now(zone).date()
    try:
        return date.fromisoformat(night)
    except ValueError as error:
        raise SpecError(f"--night: got {night!r}; allowed: a date such as 2026-11-24") from error
