"""A sweep starts from the rows of studies that match, and says why others do not."""

import shutil
from pathlib import Path

import pytest
from analytic_trials import analytic_rows, analytic_sweep
from made_rows import made_row

from search import warm_start
from search.errors import StudyError
from search.recorder import Recorder
from search.searchers import make_searcher
from search.study import storage
from search.study.study import Study
from search.warm_start import begin, copy_front, read_parents
from trainables.config import TrialConfig
from trainables.contract import Status

HERE = {"paretune": "1", "torch": "2", "onnx": "3", "onnxruntime": "4", "cpu": "a CPU"}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Stand-ins for the data and the machine, which would take seconds."""
    data = type("Data", (), {"fingerprint": "digits-1"})
    monkeypatch.setattr(warm_start, "load_data", lambda _: data)
    monkeypatch.setattr(warm_start, "environment", lambda _: dict(HERE))


@pytest.fixture
def sweep(tmp_path):
    def made(name="new", method="ehvi", **sections):
        return analytic_sweep(method, 5, storage=str(tmp_path), name=name, **sections)

    return made


@pytest.fixture
def parent(sweep):
    """A study of three trainings and their siblings, each row with a model file."""

    def made(spec=None, **environment):
        spec = spec or sweep("parent")
        study, searcher = Study.create(spec), make_searcher(spec)
        for _ in range(3):
            for row in analytic_rows(searcher.ask(), 1, spec.space.bits_pairs):
                name = f"{row.trial_id}.onnx"
                Path(study.artifacts_location, name).write_text(row.trial_id)
                found = HERE | {"data_fingerprint": "digits-1"} | environment
                changes = {"artifact": name, "environment": found}
                study.write_row(row.model_copy(update=changes))
        return study

    return made


def test_all_rows_of_a_study_that_matches_count(sweep, parent):
    study = parent()
    start = read_parents(sweep(), [study.location], anyway=False)
    assert {row.trial_id for row in start.told} == {row.trial_id for row in study.rows()}
    assert not start.hints


def test_rows_that_failed_or_lie_outside_do_not_count(sweep, parent):
    study = parent()
    outside = TrialConfig(learning_rate=50.0)
    study.write_row(made_row(1, config=outside, status=Status.MEASURED))
    failed = study.rows()[-1].model_copy(update={"status": Status.FAILED})
    study.write_row(failed)
    told = {row.trial_id for row in read_parents(sweep(), [study.location], anyway=False).told}
    assert not told & {outside.trial_id, failed.trial_id}
    assert len(told) == len(study.rows()) - 2


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"data_fingerprint": "digits-2"}, "data_fingerprint digits-2, here it is digits-1"),
        ({"torch": "1.9"}, "measured with torch 1.9, here it is 2"),
        ({"paretune": "0"}, "measured with paretune 0, here it is 1"),
        ({"cpu": "another"}, "measured with cpu another, here it is a CPU"),
    ],
)
def test_rows_measured_with_something_else_are_refused(sweep, parent, environment, reason):
    study = parent(**environment)
    with pytest.raises(StudyError, match=reason):
        read_parents(sweep(), [study.location], anyway=False)


@pytest.mark.parametrize(
    "sections",
    [
        {"deploy": {"batch_size": 8}},
        {"data": {"name": "digits", "image_size": 16}},
        {"model": {"name": "cnn", "args": {"fc_width": 64}}},
    ],
)
def test_a_study_with_other_settings_is_refused_by_name(sweep, parent, sections):
    study = parent(sweep("parent", **sections))
    with pytest.raises(StudyError, match=f"(?s)its `{next(iter(sections))}` is .*--from-anyway"):
        read_parents(sweep(), [study.location], anyway=False)


def test_anyway_rows_that_do_not_match_are_hints(sweep, parent):
    other = parent(torch="1.9")
    start = read_parents(sweep(), [other.location], anyway=True)
    assert not start.told
    assert {row.trial_id for row in start.hints} == {row.trial_id for row in other.rows()}


@pytest.mark.parametrize("method", ["random", "tpe", "gp", "ehvi"])
def test_told_rows_are_no_trials_and_are_not_repeated(sweep, parent, method):
    spec, study = sweep(method=method), parent(sweep("parent", method))
    told = read_parents(spec, [study.location], anyway=False).told
    recorder = Recorder(spec, Study.create(spec), [], [], told)
    assert recorder.remaining == spec.search.trials
    asked = {recorder.ask().trial_id for _ in range(4)}
    assert len(asked) == 4
    assert not asked & {row.trial_id for row in told}


def test_hints_do_not_keep_a_config_from_being_tried(sweep, parent):
    spec, study = sweep(), parent(sweep("parent"), torch="1.9")
    hints = read_parents(spec, [study.location], anyway=True).hints
    recorder = Recorder(spec, Study.create(spec), [], [], (), hints)
    asked = {recorder.ask().trial_id for _ in range(3)}
    assert asked <= {row.trial_id for row in hints}, "the same seed draws the same configs"


def test_the_best_models_are_copied_with_their_files(sweep, parent):
    spec, source = sweep(), parent()
    study = Study.create(spec)
    copy_front(spec, study, read_parents(spec, [source.location], anyway=False))
    rows = study.rows()
    assert rows
    assert len(rows) < len(source.rows())
    for row in rows:
        assert row.origin == "copied"
        assert Path(study.artifact_path(row)).read_text() == row.trial_id
    assert Recorder(spec, study, rows, []).remaining == spec.search.trials


def test_a_study_is_begun_again_from_what_it_was_begun_from(sweep, parent):
    spec, source = sweep(), parent()
    study = Study.create(spec)
    first = begin(spec, study, read_parents(spec, [source.location], anyway=False))
    again = begin(spec, study, None)
    assert again.told == first.told
    assert Recorder(spec, study, study.rows(), [], again.told).ask() == (
        Recorder(spec, study, study.rows(), [], first.told).ask()
    )


def test_a_study_without_parents_begins_with_nothing(sweep):
    start = begin(sweep(), Study.create(sweep()), None)
    assert (start.told, start.hints) == ([], [])


def test_a_study_that_is_gone_or_does_not_match_any_more_holds_up_nobody(
    sweep, parent, monkeypatch, caplog
):
    spec, gone, other = sweep(), parent(), parent(sweep("other"))
    study = Study.create(spec)
    begin(spec, study, read_parents(spec, [gone.location, other.location], anyway=False))
    shutil.rmtree(gone.location)
    monkeypatch.setitem(HERE, "torch", "3")
    again = begin(spec, study, None)
    assert again.told == []
    assert {row.trial_id for row in again.hints} == {row.trial_id for row in other.rows()}
    assert f"there is no study at {gone.location}" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b"[" * 10_000])
def test_a_damaged_note_of_parents_is_none(sweep, content):
    study = Study.create(sweep())
    storage.write_whole(f"{study.location}/parents.json", content)
    assert study.parents() == []
