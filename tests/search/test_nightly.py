"""Nights with trials made up by the test: the real searcher, recorder and studies, no training."""

import json
from datetime import date
from pathlib import Path

import pytest
import yaml

from search import nightly
from search.errors import SpecError
from search.front.front import ParetoFront
from search.nightly import night_spec, read_comparison, run_night
from search.recorder import Recorder
from search.spec.spec_file import load_sweep
from search.study.study import Study
from search.sweep import SweepOutcome
from search.warm_start import begin

MONDAY, TUESDAY, WEDNESDAY = (date(2026, 11, day) for day in (23, 24, 25))


class Trials:
    """Runs a sweep without training: each config gets numbers from a formula."""

    def __init__(self):
        self.data = "data-1"
        self.gain = 0.0
        self.run = []
        self.stop_after = None

    def run_sweep(self, spec, *, observers=(), start=None):
        study = Study.create(spec)
        told = begin(spec, study, start).told
        recorder = Recorder(spec, study, list(study.rows()), observers, told)
        recorder.start()
        while recorder.remaining > 0 and (config := recorder.searcher.ask()):
            if len(self.run) == self.stop_after:
                return SweepOutcome(study, self.front(spec, recorder), recorder.rows, True)
            self.run.append(config.trial_id)
            recorder.trial_started(config)
            recorder.trial_ended([(config, self.report(study, config))])
        return SweepOutcome(study, self.front(spec, recorder), recorder.rows, False)

    def front(self, spec, recorder):
        return ParetoFront.of(recorder.rows, spec.objective_list, spec.constraint_list)

    def report(self, study, config):
        # The best learning rate is 0.1; the wider, the better and the larger.
        width = config.model_args["width"]
        accuracy = 0.6 + 0.02 * width**0.5 - abs(config.learning_rate - 0.1) + self.gain
        name = f"{config.trial_id}.onnx"
        Path(study.artifacts_location, name).write_text(config.trial_id)
        latency = {"ms": width / 10, "low_ms": 0, "high_ms": 1, "device": "cpu"}
        return {
            "status": "measured",
            "measurement": {"accuracy": accuracy, "size_bytes": 1000 * width, "latency": latency},
            "artifact": name,
            "environment": {"data_fingerprint": self.data},
        }


@pytest.fixture
def trials(monkeypatch):
    trials = Trials()
    monkeypatch.setattr(nightly, "run_sweep", trials.run_sweep)
    monkeypatch.setattr(
        nightly, "load_data", lambda _: type("Data", (), {"fingerprint": trials.data})
    )
    return trials


@pytest.fixture
def sweep(tmp_path):
    def made(**changes):
        text = {
            "name": "digits",
            "storage": str(tmp_path),
            "data": {"name": "digits"},
            "space": {"learning_rate": {"log_uniform": [0.001, 0.3]}, "width": [8, 16, 32, 64]},
            "search": {"method": "random", "trials": 6},
            **changes,
        }
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(text))
        return load_sweep(tmp_path / "sweep.yaml")

    return made


def test_the_first_night_has_nothing_to_compare_with(trials, sweep):
    night = run_night(sweep(), MONDAY)
    assert night.comparison is None
    assert night.told == 0
    assert len(trials.run) == 6
    assert night.outcome.study.location.endswith("/digits-nights/digits-2026-11-23")
    assert read_comparison(sweep(), MONDAY) is None


def test_the_second_night_repeats_no_trial_and_spends_its_whole_budget(trials, sweep):
    run_night(sweep(), MONDAY)
    night = run_night(sweep(), TUESDAY)
    assert night.told == 6
    assert len(trials.run) == len(set(trials.run)) == 12


def test_the_best_models_are_carried_over_with_their_files(trials, sweep):
    first = run_night(sweep(), MONDAY).outcome
    trials.gain = -0.3  # nothing of tonight is any good
    second = run_night(sweep(), TUESDAY)
    copied = [row for row in second.outcome.rows if row.origin == "copied"]
    assert {r.trial_id for r in copied} == {r.trial_id for r in first.front.rows}
    assert second.comparison.worse is False
    assert second.comparison.hypervolume_now >= second.comparison.hypervolume_then
    for row in copied:
        assert Path(second.outcome.study.artifact_path(row)).read_text() == row.trial_id


def test_what_changed_is_written_into_the_study(trials, sweep):
    run_night(sweep(), MONDAY)
    trials.gain = 0.1
    night = run_night(sweep(), TUESDAY)
    record = read_comparison(sweep(), TUESDAY)
    assert night.comparison.joined
    assert len(record["joined"]) == len(night.comparison.joined)
    assert record["text"].startswith("hypervolume 0.")
    folder = Path(night.outcome.study.location)
    assert json.loads((folder / "comparison.json").read_text()) == record
    report = (folder / "report.html").read_text()
    assert "Then and now" in report
    assert f"{len(night.comparison.joined)} joined" in report


def test_other_data_start_anew_and_a_worse_pick_is_seen(trials, sweep):
    run_night(sweep(), MONDAY)
    trials.data, trials.gain = "data-2", -0.1
    night = run_night(sweep(), TUESDAY)
    assert night.told == 0
    assert all(row.origin == "trained" for row in night.outcome.rows)
    assert night.comparison.worse
    assert night.comparison.notes == ("another data: data-1 then, data-2 now",)


def test_other_settings_are_not_learnt_from(trials, sweep):
    run_night(sweep(), MONDAY)
    assert run_night(sweep(deploy={"batch_size": 8}), TUESDAY).told == 0


def test_configs_outside_of_tonights_space_are_not_told(trials, sweep):
    run_night(sweep(), MONDAY)
    wide = {"learning_rate": {"log_uniform": [0.001, 0.3]}, "width": [64, 128]}
    night = run_night(sweep(space=wide), TUESDAY)
    monday = Study.open(night_spec(sweep(), MONDAY).study_location).rows()
    assert night.told == sum(row.config.model_args["width"] == 64 for row in monday)


def test_an_interrupted_night_goes_on_where_it_was(trials, sweep):
    run_night(sweep(), MONDAY)
    trials.stop_after = 9
    night = run_night(sweep(), TUESDAY)
    assert night.outcome.interrupted
    assert night.comparison is None
    trials.stop_after = None
    night = run_night(sweep(), TUESDAY)
    assert len(trials.run) == len(set(trials.run)) == 12
    assert night.comparison is not None
    again = run_night(sweep(), TUESDAY)
    assert len(trials.run) == 12
    assert again.comparison == night.comparison


def test_the_third_night_learns_from_both(trials, sweep):
    for day in (MONDAY, TUESDAY):
        run_night(sweep(), day)
    assert run_night(sweep(), WEDNESDAY).told == 12


def test_old_nights_are_removed_and_nothing_else(trials, sweep, tmp_path):
    folder = tmp_path / "digits-nights"
    for day in (MONDAY, TUESDAY):
        run_night(sweep(), day)
    (folder / "notes.txt").write_text("mine")
    (folder / "digits-2026-01-01").mkdir()  # not a study
    (folder / "other-2026-01-01").mkdir()
    night = run_night(sweep(), WEDNESDAY, keep=2)
    assert [Path(path).name for path in night.removed] == ["digits-2026-11-23"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "digits-2026-01-01", "digits-2026-11-24", "digits-2026-11-25", "notes.txt",
        "other-2026-01-01",
    ]  # fmt: skip


def test_what_was_best_outlives_its_study(trials, sweep):
    best = run_night(sweep(), MONDAY).outcome.front
    trials.gain = -0.3
    for day in (TUESDAY, WEDNESDAY):
        last = run_night(sweep(), day, keep=1)
    assert {r.trial_id for r in best.rows} <= {r.trial_id for r in last.outcome.front.rows}


def test_a_name_without_room_for_a_date_is_refused(sweep):
    with pytest.raises(SpecError, match="allowed at night: 52"):
        night_spec(sweep(name="a" * 53), MONDAY)
    assert night_spec(sweep(name="a" * 52), MONDAY).name.endswith("-2026-11-23")


def test_the_folder_stands_beside_the_sweeps_own_study(sweep, tmp_path):
    assert sweep().nights_location == f"{tmp_path}/digits-nights"
    assert sweep().study_location == f"{tmp_path}/digits"
