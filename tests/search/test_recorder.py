"""What becomes of a trial's reports, and what a new driver takes up."""

import pytest
from made_rows import made_row

from search.errors import LeaseError, StorageError
from search.observer import SweepObserver
from search.recorder import HOPELESS_FAILURES, Recorder
from search.spec.spec_file import load_sweep
from search.study import storage
from search.study.study import Study
from trainables.checkpoint import save_checkpoint
from trainables.contract import Progress, Status
from trainables.running import checkpoint_name

SWEEP = """
name: digits
storage: {storage}
data: {{name: digits}}
space: {{learning_rate: {{log_uniform: [0.01, 0.1]}}, epochs: 8}}
search: {{method: random, trials: 20}}
"""


@pytest.fixture
def spec(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP.format(storage=tmp_path))
    return load_sweep(file)


@pytest.fixture
def study(spec):
    return Study.create(spec)


def recorder(spec, study, *observers):
    return Recorder(spec, study, study.rows(), observers, left_running=study.running())


def progress(epoch, accuracy=0.5):
    return Progress(epoch, accuracy, 1.0, 0.1, 1000, 0.1, 1.0, 0, 1.0, 100)


def leave(study, config, epochs):
    head = {"config": config.model_dump(), "curve": [vars(progress(e + 1)) for e in range(epochs)]}
    location = f"{study.running_location}/{checkpoint_name(config.trial_id)}"
    save_checkpoint(location, head, {})
    return location


def failed(reason):
    return {"status": "failed", "reason": reason}


def asked(spec, study, count):
    fresh = recorder(spec, study)
    return [fresh.ask() for _ in range(count)]


def test_what_was_under_way_is_suggested_first_and_then_the_rest(spec, study):
    usual = asked(spec, study, 6)
    leave(study, usual[1], 2)
    leave(study, usual[3], 5)
    again = asked(spec, study, 6)
    assert again[:2] == [usual[3], usual[1]]
    assert again[2:] == [usual[0], usual[2], usual[4], usual[5]]


def test_epochs_of_an_earlier_driver_are_given_once_and_stay_in_the_row(spec, study):
    config = asked(spec, study, 1)[0]
    leave(study, config, 3)
    fresh = recorder(spec, study)
    assert [p.epoch for p in fresh.trial_started(config)] == [1, 2, 3]
    assert fresh.trial_started(config) == []  # again, after its worker was lost
    fresh.trial_ended([(config, failed("x"))])
    assert [point["epoch"] for point in study.rows()[0].curve] == [1, 2, 3]


def test_a_trial_with_a_row_is_not_taken_up_again(spec, study):
    config = asked(spec, study, 1)[0]
    study.write_row(made_row(1).model_copy(update={"trial_id": config.trial_id, "config": config}))
    leave(study, config, 3)
    assert asked(spec, study, 1) != [config]
    assert storage.list_names(study.running_location) == []


def test_a_trial_outside_of_the_space_is_not_taken_up(spec, study):
    config = asked(spec, study, 1)[0].model_copy(update={"learning_rate": 0.9})
    leave(study, config, 3)
    assert asked(spec, study, 1) != [config]
    assert storage.list_names(study.running_location) == []


@pytest.mark.parametrize("content", [b"", b"torn", b"\0" * 8 + b"{}", b"\0" * 7 + b"\2[]"])
def test_torn_and_foreign_checkpoints_are_left_alone(spec, study, content):
    storage.write_whole(f"{study.running_location}/0123abcd.ckpt", content)
    storage.write_whole(f"{study.running_location}/notes.txt", b"hello")
    assert study.running() == []
    assert len(storage.list_names(study.running_location)) == 2


def test_a_row_ends_what_is_kept_of_a_running_trial(spec, study):
    fresh = recorder(spec, study)
    config = fresh.ask()
    leave(study, config, 3)
    fresh.trial_started(config)
    fresh.trial_ended([(config, failed("x"))])
    assert storage.list_names(study.running_location) == []


def test_epochs_seen_again_after_a_fault_are_in_the_row_once(spec, study):
    fresh = recorder(spec, study)
    config = fresh.ask()
    fresh.trial_started(config)
    for epoch in (1, 2, 3):
        fresh.epoch_ended(config, progress(epoch, 0.1))
    fresh.trial_interrupted(config, "its worker died")
    fresh.trial_started(config)
    fresh.trial_resumed(config, [progress(1, 0.1)])
    for epoch in (2, 3, 4):
        fresh.epoch_ended(config, progress(epoch, 0.2))
    fresh.trial_ended([(config, failed("x"))])
    assert [(p["epoch"], p["accuracy"]) for p in study.rows()[0].curve] == [
        (1, 0.1), (2, 0.2), (3, 0.2), (4, 0.2),
    ]  # fmt: skip


def test_a_trials_own_row_is_the_last_that_is_written(spec, study, monkeypatch):
    fresh = recorder(spec, study)
    config = fresh.ask()
    sibling = config.model_copy(update={"weight_bits": 8})
    fresh.trial_started(config)
    written = []
    monkeypatch.setattr(Study, "write_row", lambda self, row: written.append(row.trial_id))
    fresh.trial_ended([(config, failed("x")), (sibling, failed("x"))])
    assert written == [sibling.trial_id, config.trial_id]
    assert [row.origin for row in fresh.rows] == ["trained", "sibling"]


def test_a_trial_that_was_measured_as_a_sibling_meanwhile_counts_as_a_trial(spec, study):
    fresh = recorder(spec, study)
    config = fresh.ask()
    other = config.model_copy(update={"weight_bits": 8})
    for started in (config, other):
        fresh.trial_started(started)
    fresh.trial_ended([(config, failed("x")), (other, failed("x"))])
    fresh.trial_ended([(other, failed("x"))])
    assert fresh.remaining == 18
    assert len(study.rows()) == 2


# --- causes --------------------------------------------------------------------------------------


def end_all(spec, study, reasons):
    fresh = recorder(spec, study)
    for reason in reasons:
        config = fresh.ask()
        if config is None:
            break
        fresh.trial_started(config)
        fresh.trial_ended([(config, failed(reason))])
    return fresh


def test_one_cause_from_the_start_ends_the_sweep_whatever_numbers_it_names(spec, study):
    reasons = [f"trial 0123abc{i}: tried to allocate {i}.5 GiB" for i in range(20)]
    fresh = end_all(spec, study, reasons)
    assert len(fresh.rows) == HOPELESS_FAILURES
    assert fresh.hopeless == reasons[HOPELESS_FAILURES - 1]


@pytest.mark.parametrize("other", ["another cause", None])
def test_several_causes_or_one_success_do_not(spec, study, other):
    fresh = recorder(spec, study)
    config = fresh.ask()
    fresh.trial_started(config)
    report = failed(other) if other else {"status": "stopped"}
    fresh.trial_ended([(config, report)])
    assert len(end_all(spec, study, ["one cause"] * 9).rows) == 10


# --- refusals ------------------------------------------------------------------------------------


def test_a_driver_that_lost_its_lease_writes_no_row(spec, study):
    fresh = recorder(spec, study)
    config = fresh.ask()
    fresh.trial_started(config)

    def lost():
        raise LeaseError("another driver has taken over")

    study.fence = lost
    with pytest.raises(LeaseError):
        fresh.trial_ended([(config, failed("x"))])
    assert study.rows() == []


def test_a_row_that_cannot_be_written_is_not_announced(spec, study, monkeypatch):
    heard = []

    class Watcher(SweepObserver):
        def trial_ended(self, row):
            heard.append(row)

    fresh = recorder(spec, study, Watcher())
    config = fresh.ask()
    location = leave(study, config, 3)
    fresh.trial_started(config)

    def full(path, content, **_):
        raise StorageError("cannot write: the disk is full")

    monkeypatch.setattr(storage, "write_whole", full)
    with pytest.raises(StorageError):
        fresh.trial_ended([(config, failed("x"))])
    assert heard == []
    assert storage.exists(location)  # a next driver goes on from here


def test_rows_of_many_trials_cost_the_same_each(spec, study, monkeypatch):
    """Count what is read and written for a trial, early and late."""
    fresh = recorder(spec, study)
    calls = []
    monkeypatch.setattr(storage, "write_whole", lambda path, *_, **__: calls.append(path))
    monkeypatch.setattr(storage, "remove", calls.append)
    monkeypatch.setattr(Study, "rows", lambda self: pytest.fail("all rows are read again"))
    counts = []
    for number in range(30):
        config = fresh.ask()
        fresh.trial_started(config)
        calls.clear()
        fresh.trial_ended([(config, {"status": Status.STOPPED, "reason": str(number)})])
        counts.append(len(calls))
    assert set(counts) == {2}


def test_a_latency_measured_alone_is_written_and_announced(spec, study):
    heard = []

    class Watcher(SweepObserver):
        def row_changed(self, row):
            heard.append(row)

    row = made_row(1, accuracy=0.9, size_bytes=1000, latency_ms=0.2)
    study.write_row(row)
    fresh = recorder(spec, study, Watcher())
    fresh.measured_alone(row, {"ms": 0.1})
    [changed] = study.rows()
    assert changed.metrics["latency_ms"] == 0.1
    assert changed.measured_alone
    assert heard == fresh.rows == [changed]


@pytest.fixture
def promoting(spec):
    stop = spec.stop.model_copy(update={"method": "pareto_asha", "promote": True})
    return spec.model_copy(update={"stop": stop})


def stop_one(spec, study):
    """Let a trial stop after three epochs, its checkpoint in the study."""
    fresh = recorder(spec, study)
    config = fresh.ask()
    leave(study, config, 3)
    fresh.trial_started(config)
    fresh.trial_ended([(config, {"status": Status.STOPPED, "reason": "rung 3"})])
    return fresh, config


def test_a_stopped_trial_may_go_on_and_is_one_row(promoting, study):
    fresh, config = stop_one(promoting, study)
    assert list(fresh.paused) == [config.trial_id]
    assert fresh.promote(config.trial_id) == config
    fresh.trial_started(config)
    fresh.trial_resumed(config, [progress(1), progress(2), progress(3)])
    fresh.epoch_ended(config, progress(4))
    fresh.trial_ended([(config, failed("x"))])
    assert [(row.trial_id, row.status, len(row.curve)) for row in study.rows()] == [
        (config.trial_id, Status.FAILED, 4)
    ]
    assert fresh.rows == study.rows()
    assert not fresh.paused
    assert storage.list_names(study.running_location) == []


def test_a_new_driver_knows_which_stopped_trials_may_go_on(promoting, study):
    _, config = stop_one(promoting, study)
    later = recorder(promoting, study)
    assert later.paused == {config.trial_id: config}
    assert later.ask() != config  # it waits for the scheduler's word


def test_without_promotion_a_stopped_trial_leaves_nothing(spec, study):
    fresh, _ = stop_one(spec, study)
    assert not fresh.paused
    assert storage.list_names(study.running_location) == []


def test_with_promotion_no_more_trials_are_begun_than_asked_for(promoting, study):
    fresh = recorder(promoting, study)
    configs = list(iter(fresh.ask, None))
    assert len(configs) == promoting.search.trials
    fresh.trial_started(configs[0])
    fresh.trial_ended([(configs[0], {"status": Status.STOPPED, "reason": "rung 1"})])
    assert fresh.ask() is None
