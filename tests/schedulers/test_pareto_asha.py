"""The Tune scheduler around the rungs: objectives, constraints, brackets, reasons."""

import math
from itertools import count
from types import SimpleNamespace

import pytest

from contracts.scheduler_contract import CONTINUE, STOP, Options
from schedulers import make_scheduler, promotable, replay, stop_reason
from schedulers.contract import Bound, Goals

LOSSES = {"accuracy": lambda value: 1 - value, "size_bytes": math.log}


class Trials:
    """Trials of one pareto_asha over accuracy and size."""

    def __init__(self, *, bounds=(), max_epochs=27, **options):
        self.goals = Goals(LOSSES, tuple(bounds), lambda trial: trial.config["name"])
        self.scheduler = make_scheduler(
            Options("pareto_asha", **options), max_epochs=max_epochs, goals=self.goals
        )
        self.ids = count()

    def report(self, name: str, epoch: int, **metrics) -> str:
        trial = SimpleNamespace(trial_id=f"tune{next(self.ids)}", config={"name": name})
        result = {"training_iteration": epoch, **metrics}
        return self.scheduler.on_trial_result(None, trial, result)

    def reason(self, name: str) -> str:
        return stop_reason(self.scheduler, name)


def test_a_small_model_goes_on_that_asha_would_stop():
    trials = Trials()
    for i in range(8):
        trials.report(f"large{i}", 1, accuracy=0.9 - i / 100, size_bytes=1000.0)
    assert trials.report("small", 1, accuracy=0.2, size_bytes=10.0) == CONTINUE
    assert trials.report("bad", 1, accuracy=0.2, size_bytes=1001.0) == STOP


def test_the_most_accurate_goes_on_though_the_front_is_full():
    trials = Trials(reduction_factor=4)
    for i in range(12):
        trials.report(f"t{i}", 1, accuracy=i / 20, size_bytes=10.0 + i)
    assert trials.report("accurate", 1, accuracy=0.99, size_bytes=1e6) == CONTINUE


def test_the_reason_names_trials_as_the_sweep_does():
    trials = Trials()
    trials.report("4f2a", 3, accuracy=0.9, size_bytes=10.0)
    assert trials.report("worse", 3, accuracy=0.8, size_bytes=11.0) == STOP
    assert trials.reason("worse") == "rung 3: rank 2 of 2, dominated by 4f2a"
    assert trials.reason("4f2a") == ""


def test_a_loss_that_is_no_number_is_named():
    trials = Trials()
    assert trials.report("bad", 2, accuracy=math.nan, size_bytes=10.0) == STOP
    assert trials.reason("bad") == "epoch 2: accuracy is nan"


def test_an_objective_that_trials_do_not_report_does_not_count():
    trials = Trials()
    assert trials.report("a", 1, accuracy=0.9) == CONTINUE
    assert trials.report("b", 1, accuracy=0.8) == STOP
    assert trials.report("c", 1) == CONTINUE


def test_a_bound_on_what_is_known_before_training_counts_at_every_rung():
    trials = Trials(bounds=[Bound("size_bytes", high=100.0, fixed=True)])
    for i in range(3):
        trials.report(f"t{i}", 1, accuracy=0.5 + i / 10, size_bytes=50.0)
    assert trials.report("large", 1, accuracy=0.99, size_bytes=200.0) == STOP
    assert trials.reason("large") == "rung 1: rank 4 of 4, breaks a constraint"


def test_a_bound_on_accuracy_counts_from_the_last_rung_on():
    trials = Trials(bounds=[Bound("accuracy", low=0.8)])
    for epoch in (1, 3, 9):
        for i in range(3):
            trials.report(f"t{i}", epoch, accuracy=0.85 + i / 100, size_bytes=50.0)
    answers = [trials.report("small", e, accuracy=0.5, size_bytes=5.0) for e in (1, 3, 9)]
    assert answers == [CONTINUE, CONTINUE, STOP]
    assert "breaks a constraint" in trials.reason("small")


def test_the_end_of_a_shorter_trial_is_compared_with():
    trials = Trials()
    ended = SimpleNamespace(trial_id="x", config={"name": "short"})
    result = {"training_iteration": 3, "accuracy": 0.9, "size_bytes": 10.0}
    trials.scheduler.on_trial_complete(None, ended, result)
    assert trials.report("worse", 3, accuracy=0.8, size_bytes=11.0) == STOP


@pytest.mark.parametrize("brackets", [1, 3])
def test_brackets_spare_some_trials_the_first_rungs(brackets):
    trials = Trials(brackets=brackets)
    for epoch in (1, 3, 9):
        trials.report("best", epoch, accuracy=0.9, size_bytes=10.0)
    stopped_at = {}
    for i in range(60):
        for epoch in (1, 3, 9):
            if trials.report(f"t{i}", epoch, accuracy=0.5, size_bytes=20.0 + i) == STOP:
                stopped_at[i] = epoch
                break
    assert len(stopped_at) == 60
    assert set(stopped_at.values()) == {1: {1}, 3: {1, 3, 9}}[brackets]


# --- promotion -------------------------------------------------------------------------------


def reported(**options):
    """Three trials at the first rung, the best of which came first, and two at the second."""
    trials = Trials(promote=True, **options)
    for name, accuracy in (("good", 0.9), ("bad", 0.5), ("worse", 0.4)):
        assert trials.report(name, 1, accuracy=accuracy, size_bytes=10.0) == STOP
    return trials


def test_the_first_trial_stops_and_goes_on_when_it_proves_good():
    trials = reported()
    assert promotable(trials.scheduler, ["bad", "worse"]) is None
    assert promotable(trials.scheduler, ["good", "bad", "worse"]) == "good"
    assert promotable(trials.scheduler, ["bad", "worse"]) is None


def test_a_promoted_trial_is_not_stopped_again_at_its_rung():
    """Where its checkpoint is older than the rung, it comes by once more."""
    trials = reported()
    assert promotable(trials.scheduler, ["good"]) == "good"
    for name, accuracy in (("x", 0.95), ("y", 0.96), ("z", 0.97)):
        trials.report(name, 1, accuracy=accuracy, size_bytes=5.0)
    assert trials.report("good", 1, accuracy=0.9, size_bytes=10.0) == CONTINUE
    assert trials.report("good", 3, accuracy=0.91, size_bytes=10.0) == STOP


def test_the_furthest_trial_goes_on_first():
    trials = reported()
    promotable(trials.scheduler, ["good"])
    for name, accuracy in (("good", 0.9), ("x", 0.8), ("y", 0.7)):
        trials.report(name, 3, accuracy=accuracy, size_bytes=10.0)
    trials.report("new", 1, accuracy=0.99, size_bytes=5.0)
    assert promotable(trials.scheduler, ["new", "good"]) == "good"


def test_at_the_end_too_few_to_compare_with_is_no_reason():
    trials = Trials(promote=True)
    trials.report("a", 1, accuracy=0.9, size_bytes=10.0)
    trials.report("b", 1, accuracy=0.8, size_bytes=11.0)
    assert trials.reason("a") == "rung 1: rank 1 of 1, too few to compare with"
    assert promotable(trials.scheduler, ["a", "b"]) is None
    assert promotable(trials.scheduler, ["a", "b"], ending=True) == "a"
    assert promotable(trials.scheduler, ["b"], ending=True) is None


def test_a_fresh_scheduler_that_heard_the_same_promotes_the_same():
    fresh = Trials(promote=True)
    for name, accuracy in (("good", 0.9), ("bad", 0.5), ("worse", 0.4)):
        result = {"training_iteration": 1, "accuracy": accuracy, "size_bytes": 10.0}
        replay(fresh.scheduler, name, {"name": name}, [result])
    names = ["worse", "bad", "good"]
    assert promotable(fresh.scheduler, names) == promotable(reported().scheduler, names) == "good"


def test_schedulers_without_promotion_promote_nobody():
    for method in ("none", "asha", "pareto_asha"):
        scheduler = make_scheduler(Options(method), max_epochs=9, goals=Goals(LOSSES))
        assert promotable(scheduler, []) is None
    assert promotable(make_scheduler(Options("asha"), max_epochs=9), ["x"]) is None
