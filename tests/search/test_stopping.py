"""A sweep's scheduler: its goals, its memory of earlier runs, its reasons in the rows."""

from types import SimpleNamespace

import pytest
from lone_driver import EPOCHS, LoneDriver, epoch_of, stopping_sweep
from made_rows import made_row

from paretune import load_sweep, run_sweep
from schedulers import stop_reason
from search.stopping import epochs, goals, scheduler_of
from search.study.study import Study
from trainables.config import TrialConfig
from trainables.contract import METRICS, Status

SWEEP = """
name: stopped
storage: {storage}
data: {{name: digits}}
space:
  learning_rate: {{log_uniform: [0.001, 0.2]}}
  batch_size: 128
  epochs: 4
  width: [4, 8]
  depth: [1, 2]
search: {{method: random, trials: 8}}
stop: {{method: pareto_asha}}
objectives: {{accuracy: max, size_bytes: min}}
constraints: {{size_bytes: {{max: 1MB}}, accuracy: {{min: 0.5}}}}
resources: {{max_concurrent: 2}}
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.format(storage=tmp_path))
    return load_sweep(path)


def curve(*accuracies):
    return [{"epoch": float(e), "accuracy": a} for e, a in enumerate(accuracies, 1)]


def test_goals_are_those_of_the_sweep(spec):
    found = goals(spec)
    assert list(found.losses) == ["accuracy", "size_bytes"]
    assert found.losses["accuracy"](0.9) < found.losses["accuracy"](0.8)
    assert found.losses["size_bytes"](1e4) < found.losses["size_bytes"](1e5)
    size, accuracy = found.bounds
    assert (size.high, size.fixed) == (1e6, True)
    assert (accuracy.low, accuracy.fixed) == (0.5, False)


def test_a_new_scheduler_compares_with_the_trials_of_earlier_runs(spec):
    rows = [made_row(i, 0.9, 1e4, curve=curve(0.8, 0.85, 0.9)) for i in range(3)]
    trial = SimpleNamespace(trial_id="x", config=TrialConfig(seed=9).model_dump())
    bad = {"training_iteration": 1, "accuracy": 0.3, "size_bytes": 2e4}
    assert scheduler_of(spec, []).on_trial_result(None, trial, bad) == "CONTINUE"
    remembering = scheduler_of(spec, rows)
    assert remembering.on_trial_result(None, trial, bad) == "STOP"
    reason = stop_reason(remembering, TrialConfig(seed=9).trial_id)
    assert reason == f"rung 1: rank 4 of 4, dominated by {rows[0].trial_id}"


def test_epochs_are_heard_again_as_they_were_reported(tmp_path):
    driver = LoneDriver(Study.create(stopping_sweep(str(tmp_path), method="none")))
    driver.run(EPOCHS)
    row = driver.study.rows()[0]
    assert row.status is Status.MEASURED
    heard = epochs(row)
    for result, epoch in zip(heard, range(1, EPOCHS + 1), strict=True):
        told = vars(epoch_of(row.config, epoch))
        assert result["training_iteration"] == epoch
        assert {n: v for n, v in result.items() if n in METRICS} == (
            {n: v for n, v in told.items() if n in METRICS}
        )
    # Not so the file that it made.
    assert row.metrics["latency_ms"] != heard[-1]["latency_ms"]


@pytest.mark.slow
def test_rows_of_stopped_trials_say_why(spec):
    rows = run_sweep(spec).rows
    stopped = [row for row in rows if row.status is Status.STOPPED]
    assert stopped
    names = {row.trial_id for row in rows}
    for row in stopped:
        method, rung, why = row.reason.split(": ")
        assert (method, rung) in {("pareto_asha", "rung 1"), ("pareto_asha", "rung 3")}
        assert why.split(" ")[-1] in {*names, "constraint", "here"}
        assert len(row.curve) == row.epochs_trained == int(rung.split(" ")[1])


@pytest.mark.slow
def test_a_stopped_trial_that_proves_good_goes_on_from_its_checkpoint(spec):
    stop = spec.stop.model_copy(update={"promote": True})
    spec = spec.model_copy(update={"stop": stop})
    outcome = run_sweep(spec)
    assert len(outcome.rows) == spec.search.trials  # a trial that went on is one row
    measured = [row for row in outcome.rows if row.status is Status.MEASURED]
    assert any(row.resumed_from for row in measured)
    for row in measured:
        assert [point["epoch"] for point in row.curve] == [1, 2, 3, 4]
        assert row.epochs_spent == 4  # nothing was trained twice
        assert set(row.resumed_from) <= {1, 3}
    assert any(row.status is Status.STOPPED for row in outcome.rows)
    assert outcome.study.running() == []
