"""What every scheduler must keep, whatever it stops."""

import math
from dataclasses import dataclass
from itertools import count

import pytest
from ray.tune.result import DEFAULT_METRIC

from schedulers import make_scheduler, replay
from schedulers.contract import Goals

STOP, CONTINUE = "STOP", "CONTINUE"
EPOCHS = 9
_ids = count()


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

    def test_at_the_last_epoch_a_trial_ends(self, options):
        race = Race(options)
        assert race.report(race.add(), EPOCHS, 0.9) == STOP
