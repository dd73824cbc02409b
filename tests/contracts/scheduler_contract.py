"""What every scheduler must keep, whatever it stops."""

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from lone_driver import ENDED, EPOCHS, LoneDriver, Verdict, stopping_sweep
from ray.tune.result import DEFAULT_METRIC

from schedulers import SCHEDULERS, make_scheduler, replay
from schedulers.contract import Goals
from search.study.study import Study

STOP, CONTINUE = "STOP", "CONTINUE"
_ids = count()
TESTS = str(Path(__file__).parents[1])
ROUNDS = 40
"""Of three epochs: enough for ended trials that others are compared with."""
GO_ON_IN_ANOTHER_PROCESS = """
import json, sys, traceback
sys.path.append(sys.argv[1])
from lone_driver import LoneDriver
from search.study.study import Study
for location in sys.argv[3:]:
    try:
        verdicts = LoneDriver(Study.open(location)).run(int(sys.argv[2]))
    except Exception:
        verdicts = traceback.format_exc()
    print(json.dumps(verdicts))
"""


@dataclass(frozen=True)
class Options:
    """A `stop:` section."""

    method: str
    metric: str = "accuracy"
    direction: str = "max"
    grace_epochs: int = 1
    reduction_factor: int = 3
    keep_front: bool = True
    promote: bool = False
    brackets: int = 1


@dataclass(frozen=True)
class FakeTrial:
    """What a scheduler looks at of Tune's trials."""

    trial_id: str


class Race:
    """Trials that report to one scheduler, as Tune would let them."""

    def __init__(self, options: Options, max_epochs: int = EPOCHS):
        sign = -1 if options.direction == "max" else 1
        goals = Goals(losses={options.metric: lambda value: sign * value})
        self.scheduler = make_scheduler(options, max_epochs=max_epochs, goals=goals)
        self.metric = options.metric
        # Tune calls it with what TuneConfig has: nothing.
        assert self.scheduler.set_search_properties(None, None)

    def add(self) -> FakeTrial:
        trial = FakeTrial(f"trial{next(_ids)}")
        self.scheduler.on_trial_add(None, trial)
        return trial

    def report(self, trial: FakeTrial, epoch: int, value: float | None) -> str:
        return self.scheduler.on_trial_result(None, trial, self.result(epoch, value))

    def complete(self, trial: FakeTrial, epoch: int, value: float | None) -> None:
        self.scheduler.on_trial_complete(None, trial, self.result(epoch, value))

    def result(self, epoch: int, value: float | None) -> dict[str, float]:
        metrics = {} if value is None else {self.metric: value}
        return {"training_iteration": epoch, **metrics}

    def survivors(self, values, epoch: int) -> list[float]:
        """Let one trial per value report at an epoch, in this order; give who goes on."""
        return [v for v in values if self.report(self.add(), epoch, v) == CONTINUE]


@cache
def second_halves() -> dict[str, tuple[list[Verdict], Any]]:
    """Let every scheduler decide over a sweep, and once more with another driver half-way.

    Returns:
        By method, what was decided in the second half: by the scheduler that was there from the
        beginning, and by one that another process made of rows and checkpoints (or its traceback).
    """
    with tempfile.TemporaryDirectory() as folder:
        studies = {m: Study.create(stopping_sweep(folder, method=m)) for m in SCHEDULERS}
        drivers = {method: LoneDriver(study) for method, study in studies.items()}
        for driver in drivers.values():
            driver.run(ROUNDS)
            driver.leave()
        ran = subprocess.run(
            [sys.executable, "-c", GO_ON_IN_ANOTHER_PROCESS, TESTS, str(ROUNDS)]
            + [study.location for study in studies.values()],
            capture_output=True,
            text=True,
            check=True,
        )
        rebuilt = map(json.loads, ran.stdout.splitlines())
        kept = (driver.run(ROUNDS) for driver in drivers.values())
        return dict(zip(drivers, zip(kept, rebuilt, strict=True), strict=True))


class SchedulerContract:
    """Inherit, and give the fixture `method`."""

    @pytest.fixture
    def options(self, method) -> Options:
        return Options(method)

    def test_nothing_is_stopped_before_the_grace_epochs(self, method):
        race = Race(Options(method, grace_epochs=4))
        values = [0.9, *[0.1] * 20]
        for epoch in (1, 2, 3):
            assert race.survivors(values, epoch) == values

    def test_the_best_so_far_goes_on(self, options):
        race = Race(options)
        rising = [i / 100 for i in range(50)]
        for epoch in (1, 3):
            assert race.survivors(rising, epoch) == rising

    def test_the_best_goes_on_through_all_rungs(self, options):
        race = Race(options)
        best = race.add()
        for epoch in range(1, EPOCHS):
            race.survivors([0.1, 0.5, 0.2, 0.4], epoch)
            assert race.report(best, epoch, 0.9) == CONTINUE

    def test_a_trial_without_the_metric_disturbs_nobody(self, options):
        race = Race(options)
        infeasible, diverged = race.add(), race.add()
        race.complete(infeasible, 1, None)
        race.complete(diverged, 1, math.nan)
        race.scheduler.on_trial_error(None, race.add())
        race.scheduler.on_trial_remove(None, race.add())
        assert race.survivors([0.5], 1) == [0.5]

    def test_tune_is_told_of_no_metric(self, options):
        """It would abort the sweep at the first result that lacks it."""
        assert Race(options).scheduler.metric in (None, DEFAULT_METRIC)

    def test_a_trial_may_be_longer_in_grace_than_it_lasts(self, method):
        race = Race(Options(method, grace_epochs=50), max_epochs=2)
        assert race.survivors([0.9, 0.1], 1) == [0.9, 0.1]

    def test_rows_and_checkpoints_alone_rebuild_it_in_another_process(self, method):
        kept, rebuilt = second_halves()[method]
        assert isinstance(rebuilt, list), rebuilt
        assert rebuilt == kept
        assert {decision for _, _, decision, _ in kept} >= {CONTINUE, ENDED}


class StoppingContract(SchedulerContract):
    """For schedulers that stop; Tune ends a trial that reports itself done without asking them."""

    @pytest.mark.parametrize("factor", [2, 3, 4])
    @pytest.mark.parametrize("direction", ["max", "min"])
    def test_few_go_on_where_the_best_come_first(self, method, factor, direction):
        options = Options(method, direction=direction, reduction_factor=factor)
        race = Race(options, max_epochs=factor**2)
        values = sorted((i / 100 for i in range(27)), reverse=direction == "max")
        for rung in (1, factor):
            survivors = race.survivors(values, rung)
            assert values[0] in survivors
            assert len(survivors) <= math.ceil(27 / factor)

    def test_in_random_order_about_one_in_reduction_factor_goes_on(self, method):
        # 90 values in a fixed shuffled order: 37 is coprime to 90.
        values = [(37 * i) % 90 / 90 for i in range(90)]
        survivors = Race(Options(method, reduction_factor=3)).survivors(values, 1)
        assert 0.2 < len(survivors) / 90 < 0.5

    def test_between_rungs_nothing_is_stopped(self, options):
        values = [0.9, *[0.1] * 20]
        race = Race(options)
        race.survivors([0.9], 1)
        trials = [race.add() for _ in values]
        for trial in trials:
            race.report(trial, 1, 0.9)
        assert [race.report(t, 2, v) for t, v in zip(trials, values, strict=True)] == (
            [CONTINUE] * len(values)
        )

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_no_number_is_stopped_at_once(self, method, value):
        race = Race(Options(method, grace_epochs=4))
        assert race.report(race.add(), 1, value) == STOP
        assert race.report(race.add(), 4, value) == STOP

    def test_what_is_no_number_does_not_decide_over_others(self, options):
        race = Race(options)
        race.survivors([math.nan, math.inf] * 10, 1)
        assert race.survivors([0.2], 1) == [0.2]
        assert race.survivors([0.1], 1) == []

    def test_a_fresh_one_decides_as_the_old_one_did_once_it_heard_the_same(self, options):
        values = [(37 * i) % 90 / 90 for i in range(90)]
        old, new = Race(options), Race(options)
        old.survivors(values[:60], 1)
        for value in values[:60]:
            trial = FakeTrial(f"trial{next(_ids)}")
            replay(new.scheduler, trial.trial_id, {}, [new.result(1, value)])
        assert new.survivors(values[60:], 1) == old.survivors(values[60:], 1)
        assert new.survivors([0.0], 1) == []
        assert Race(options).survivors([0.0], 1) == [0.0]

    def test_it_stopped_some_where_it_was_rebuilt(self, method):
        kept, _ = second_halves()[method]
        stopped = [reason for _, _, decision, reason in kept if decision == STOP]
        assert len(stopped) > 10
        assert all(reason.startswith(f"{method}: ") for reason in stopped)

    def test_at_the_last_epoch_a_trial_ends(self, options):
        race = Race(options)
        assert race.report(race.add(), EPOCHS, 0.9) == STOP
