"""A sweep over recorded trials: asynchronous workers in virtual time, counted in epochs."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any, Protocol

from bench.table import Metrics, Network, bits_of
from schedulers import promotable
from search.spec.spec import SweepSpec
from search.study.rows import ResultRow
from trainables.config import TrialConfig
from trainables.contract import Status


class Method(Protocol):
    """What to try next: a searcher of the project, or a peer."""

    siblings: bool
    """Whether each trained network is measured under all bits."""

    def ask(self) -> TrialConfig | None:
        """Give the next config; None if there is nothing left."""

    def hear(self, config: TrialConfig, epoch: int, accuracy: float) -> None:
        """Hear of an epoch of a trial under way."""

    def adopt(self, config: TrialConfig) -> None:
        """Hear that a stopped trial goes on."""

    def tell(self, rows: Sequence[ResultRow]) -> None:
        """Hear of an ended trial: its own row first, then those of its siblings."""


class Trials(Protocol):
    """Trials that can be looked up: a recorded table, or an analytic problem."""

    @property
    def spec(self) -> SweepSpec:
        """What is looked for, and where."""

    def network(self, config: TrialConfig) -> Network:
        """Look up what training a config gives."""


@dataclass
class Run:
    """What a simulated sweep found, and when."""

    found: list[tuple[int, Metrics]] = field(default_factory=list)
    """(epochs spent by all workers, metrics of a measured file)."""
    epochs: int = 0
    started: int = 0
    finished: int = 0


@dataclass
class _Trial:
    config: TrialConfig
    network: Network
    handle: Any
    """What the scheduler knows it by."""
    epoch: int = 0


def simulate(
    table: Trials,
    method: Method,
    scheduler: Any,
    *,
    budget_epochs: int,
    workers: int = 4,
    promote: bool = False,
) -> Run:
    """Run a sweep until the budget is spent or there is nothing left to try.

    Args:
        table: the recorded trials.
        method: what to try next.
        scheduler: when to stop a trial, with the calls of Ray Tune's schedulers.
        budget_epochs: training epochs of all workers together.
        workers: trials at once.
        promote: whether the scheduler may let stopped trials go on.
    """
    run, numbers = Run(), count(1)
    # (virtual seconds, tie-breaker, trial): the moment at which a trial ends its next epoch
    events: list[tuple[float, int, _Trial]] = []

    stopped: dict[str, _Trial] = {}

    def start(now: float) -> None:
        if name := promotable(scheduler, stopped):
            trial = stopped.pop(name)
            method.adopt(trial.config)
        else:
            config = method.ask()
            if config is None:
                return
            run.started += 1
            handle = SimpleNamespace(trial_id=config.trial_id, config=config.model_dump())
            trial = _Trial(config, table.network(config), handle)
        scheduler.on_trial_add(None, trial.handle)
        heapq.heappush(events, (now + trial.network.epoch_seconds, next(numbers), trial))

    for _ in range(workers):
        start(0.0)
    while events and run.epochs < budget_epochs:
        now, _, trial = heapq.heappop(events)
        run.epochs += 1
        rows = _end_epoch(trial, table, method, scheduler)
        if rows is None:
            heapq.heappush(events, (now + trial.network.epoch_seconds, next(numbers), trial))
            continue
        method.tell(rows)
        if promote and rows[0].status is Status.STOPPED:
            stopped[trial.config.trial_id] = trial
        measured = [row for row in rows if row.status is Status.MEASURED]
        run.found += [(run.epochs, row.metrics) for row in measured]
        run.finished += bool(measured)
        start(now)
    return run


def _end_epoch(
    trial: _Trial, table: Trials, method: Method, scheduler: Any
) -> list[ResultRow] | None:
    """Let a trial end an epoch; give its rows if that was its last one."""
    network, config = trial.network, trial.config
    trial.epoch += 1
    result: dict[str, Any] = {"training_iteration": trial.epoch}
    if trial.epoch > len(network.curve):  # the epoch in which the loss became infinite
        scheduler.on_trial_complete(None, trial.handle, result)
        return [_row(trial, config, Status.DIVERGED)]
    accuracy = network.curve[trial.epoch - 1]
    result |= {"accuracy": accuracy, **network.forecasts[bits_of(config)]}
    if trial.epoch == config.epochs:
        scheduler.on_trial_complete(None, trial.handle, result)
        return _measured(trial, table, method)
    method.hear(config, trial.epoch, accuracy)
    if scheduler.on_trial_result(None, trial.handle, result) != "CONTINUE":
        return [_row(trial, config, Status.STOPPED)]
    return None


def _measured(trial: _Trial, table: Trials, method: Method) -> list[ResultRow]:
    others = [pair for pair in table.spec.space.bits_pairs if pair != bits_of(trial.config)]
    pairs = [bits_of(trial.config), *(others if method.siblings else [])]
    rows = []
    for weight, activation in pairs:
        bits = {"weight_bits": weight, "activation_bits": activation}
        config = trial.config.model_copy(update=bits)
        measured = (weight, activation) in trial.network.files
        rows.append(_row(trial, config, Status.MEASURED if measured else Status.FAILED))
    return rows


def _row(trial: _Trial, config: TrialConfig, status: Status) -> ResultRow:
    """Give the row that a real sweep would have written."""
    own = config == trial.config
    known = trial.network.curve[: trial.epoch] if own else ()
    metrics = dict(trial.network.forecasts[bits_of(config)])
    if known:
        metrics["accuracy"] = known[-1]
    if status is Status.MEASURED:
        metrics = dict(trial.network.files[bits_of(config)])
    return ResultRow(
        trial_id=config.trial_id,
        number=0,
        status=status,
        config=config,
        origin="trained" if own else "sibling",
        parent=None if own else trial.config.trial_id,
        metrics=metrics,
        epochs_trained=trial.epoch,
        curve=[{"epoch": e, "accuracy": a} for e, a in enumerate(known, 1)],
    )
