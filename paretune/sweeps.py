"""What the commands that run a sweep share: watching it, and what is said at its end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from search.observer import BestEffort, SweepObserver

if TYPE_CHECKING:
    from rich.console import Console

    from paretune.live import LiveView, PlainLines
    from search.spec.spec import SweepSpec
    from search.sweep import SweepOutcome
    from search.warm_start import WarmStart

INTERRUPTED = 130
"""Exit code of a command that a signal ended: 128 + SIGINT."""


def view_of(spec: SweepSpec, console: Console, *, plain: bool) -> LiveView | PlainLines:
    """Give the watcher that suits the console."""
    from paretune.live import LiveView, PlainLines

    live = console.is_terminal and not console.is_dumb_terminal and not plain
    view = LiveView if live else PlainLines
    names = [name for name, dimension in spec.space.dimensions.items() if dimension.coordinates]
    return view(console, names=names, constraints=spec.constraint_list)


def warm_start(spec: SweepSpec, parents: Sequence[str], *, anyway: bool) -> WarmStart | None:
    """Read the studies to start from, and say so; None: those that the study noted, if any."""
    if not parents:
        return None
    from search.warm_start import read_parents

    start = read_parents(spec, parents, anyway=anyway)
    typer.echo(
        f"paretune: starts from {len(start.told)} rows"
        + (f" and {len(start.hints)} hints" if start.hints else "")
        + f" of {len(parents)} {'study' if len(parents) == 1 else 'studies'}",
        err=True,
    )
    return start


def records_of(spec: SweepSpec, command: str) -> list[SweepObserver]:
    """Give the watchers that write into the study: TensorBoard's logs and the report."""
    from search.report.writer import ReportWriter
    from search.tensorboard.log import TensorBoardLog

    return [BestEffort(TensorBoardLog(spec)), BestEffort(ReportWriter(spec, command))]


def show(outcome: SweepOutcome, console: Console) -> None:
    """Print the front that a sweep left behind, and what can be done with it."""
    from paretune.tables import counts_text, front_table

    if outcome.front.rows:
        console.print(front_table(outcome.front))
    console.print(counts_text(outcome.front), soft_wrap=True)
    study = shlex.quote(outcome.study.location)
    console.print(f"study: {study}", soft_wrap=True)
    if outcome.front.rows:
        sizes = sorted(int(row.metrics["size_bytes"]) for row in outcome.front.rows)
        budget = f"--max-size-bytes {sizes[len(sizes) // 2]}"
        for choice in ("--knee", budget):
            console.print(
                f"  paretune select {study} {choice} --copy-to model.onnx", soft_wrap=True
            )
        console.print(f"  paretune front {study} --json", soft_wrap=True)
        console.print(f"report: {study}/report.html", soft_wrap=True)


def say_interrupted(again: str) -> None:
    """Say that nothing is lost, and which command goes on."""
    typer.echo(f"interrupted: all finished trials are kept; to go on: {again}", err=True)
