"""When to stop a trial: one line per scheduler. Ray is imported when one is made, not before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from schedulers.contract import Goals, StopOptions

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler


def _none(stop: StopOptions, max_epochs: int, goals: Goals) -> TrialScheduler:
    from schedulers.none import make

    return make(stop, max_epochs)


def _asha(stop: StopOptions, max_epochs: int, goals: Goals) -> TrialScheduler:
    from schedulers.asha import make

    return make(stop, max_epochs)


def _pareto_asha(stop: StopOptions, max_epochs: int, goals: Goals) -> TrialScheduler:
    from schedulers.pareto_asha import make

    return make(stop, max_epochs, goals)


SCHEDULERS: dict[str, Callable[[StopOptions, int, Goals], TrialScheduler]] = {
    "none": _none,
    "asha": _asha,
    "pareto_asha": _pareto_asha,
}


def make_scheduler(
    stop: StopOptions, *, max_epochs: int, goals: Goals | None = None
) -> TrialScheduler:
    """Make the scheduler that a sweep names.

    Args:
        stop: the options; `method` is a key of SCHEDULERS.
        max_epochs: epochs of the longest trial.
        goals: the objectives and constraints, for schedulers that weigh several.
    """
    return SCHEDULERS[stop.method](stop, max_epochs, goals or Goals())


def replay(
    scheduler: TrialScheduler,
    trial_id: str,
    config: Mapping[str, Any],
    epochs: Sequence[Mapping[str, Any]],
    *,
    ended: bool = False,
) -> None:
    """Let a scheduler hear again what a trial of an earlier run reported.

    Args:
        scheduler: a fresh one.
        trial_id: unlike that of any other trial.
        config: of the trial, as Tune had it.
        epochs: results in their order, each with `training_iteration`.
        ended: whether the last one is of the trial's own last epoch.
    """
    trial = SimpleNamespace(trial_id=trial_id, config=config)
    scheduler.on_trial_add(None, trial)
    for result in epochs[: len(epochs) - ended]:
        scheduler.on_trial_result(None, trial, dict(result))
    if ended:
        scheduler.on_trial_complete(None, trial, dict(epochs[-1]))
    else:  # of a trial that ended by itself, Tune says no more
        scheduler.on_trial_remove(None, trial)


def promotable(
    scheduler: TrialScheduler, among: Collection[str], *, ending: bool = False
) -> str | None:
    """Name a trial among stopped ones that a scheduler would let go on by now, if any.

    Args:
        scheduler: has stopped them.
        among: their names.
        ending: whether no new trials will come.
    """
    choose = getattr(scheduler, "promotable", None)
    name: str | None = choose(among, ending=ending) if choose and among else None
    return name


def stop_reason(scheduler: TrialScheduler, name: str) -> str:
    """Say why a scheduler stopped a trial; nothing if it does not say."""
    reasons: dict[str, str] = getattr(scheduler, "reasons", {})
    return reasons.get(name, "")
