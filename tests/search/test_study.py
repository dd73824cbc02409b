import json
import math

import pytest
from made_rows import made_row

from search.errors import StorageError, StudyError
from search.spec.spec_file import load_sweep
from search.study import storage
from search.study.study import Study, flat
from trainables.contract import Status

SWEEP = """
name: digits
seed: 0
storage: {storage}
data: {{name: digits, image_size: 8}}
space: {{learning_rate: {{log_uniform: [0.01, 0.1]}}, width: [8, 16]}}
search: {{trials: 5}}
objectives: {{accuracy: max, size_bytes: min, latency_ms: min}}
"""


@pytest.fixture
def sweep(tmp_path):
    """Give a function that loads the sweep with some lines replaced."""

    def load(*changes):
        text = SWEEP.format(storage=tmp_path / "studies")
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        file = tmp_path / "given.yaml"
        file.write_text(text)
        return load_sweep(file)

    return load


@pytest.fixture
def study(sweep):
    return Study.create(sweep())


# --- making and opening ------------------------------------------------------------------------


def test_a_new_study_is_a_folder_with_the_sweep_file(study, sweep, tmp_path):
    assert study.location == str(tmp_path / "studies" / "digits")
    assert sorted(storage.list_names(study.location)) == ["artifacts", "rows", "sweep.yaml"]
    assert study.rows() == []
    assert study.spec().to_yaml() == sweep().to_yaml()


def test_the_same_sweep_goes_on_with_the_rows_of_its_study(study, sweep):
    study.write_row(made_row(1, 0.9))
    assert Study.create(sweep()).rows() == [made_row(1, 0.9)]


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (("trials: 5", "trials: 9"), lambda spec: spec.search.trials == 9),
        (("width: [8, 16]", "width: [8, 32]"), lambda spec: "32" in spec.to_yaml()),
        (("trials: 5", "trials: 5, method: grid"), lambda spec: spec.search.method == "grid"),
        (
            ("search:", "resources: {max_concurrent: 7}\nsearch:"),
            lambda spec: spec.max_concurrent == 7,
        ),
        (
            ("search:", "constraints: {accuracy: {min: 0.5}}\nsearch:"),
            lambda spec: len(spec.constraint_list) == 1,
        ),
    ],
)
def test_what_keeps_rows_comparable_may_change_and_is_noted(study, sweep, change, kept):
    if "grid" in change[1]:  # a grid has no continuous dimension
        change = ("{log_uniform: [0.01, 0.1]}, width: [8, 16]}\nsearch: {trials: 5}",
                  "[0.01, 0.1], width: [8, 16]}\nsearch: {trials: 5, method: grid}")  # fmt: skip
    again = Study.create(sweep(change))
    assert kept(again.spec())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("image_size: 8", "image_size: 16"), "data.image_size: 8 -> 16"),
        (("seed: 0", "seed: 3"), "seed: 0 -> 3"),
        (("search:", "deploy: {batch_size: 4}\nsearch:"), "deploy.batch_size: 1 -> 4"),
        (("search:", "model: {name: resnet18}\nsearch:"), "resnet18"),
        ((", latency_ms: min", ""), "objectives.latency_ms"),
    ],
)
def test_what_would_make_rows_incomparable_is_refused_key_by_key(study, sweep, change, line):
    before = study.spec().to_yaml()
    if "resnet18" in line:
        changes = [change, ("width: [8, 16]", "batch_size: [8, 16]")]
    else:
        changes = [change]
    with pytest.raises(StudyError) as error:
        Study.create(sweep(*changes))
    assert line in str(error.value)
    assert " -> " in str(error.value)
    assert study.location in str(error.value)
    assert study.spec().to_yaml() == before


def test_a_folder_with_other_things_is_not_taken_over(sweep, tmp_path):
    foreign = tmp_path / "studies" / "digits"
    foreign.mkdir(parents=True)
    (foreign / "thesis.doc").write_text("years of work")
    with pytest.raises(StudyError, match=r"thesis\.doc.*not a study"):
        Study.create(sweep())
    assert [path.name for path in foreign.iterdir()] == ["thesis.doc"]


def test_a_study_is_opened_where_it_is(study, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Study.open("studies/digits").location == study.location


def test_a_missing_study_is_an_error_with_a_hint(study, tmp_path):
    with pytest.raises(StudyError, match=r"no study at .*nothing"):
        Study.open(str(tmp_path / "nothing"))
    with pytest.raises(StudyError, match="inside it: digits"):
        Study.open(str(tmp_path / "studies"))
    with pytest.raises(StudyError, match="looks like a sweep file"):
        Study.open(str(tmp_path / "given.yaml"))


def test_a_damaged_sweep_file_is_said(study):
    storage.write_whole(f"{study.location}/sweep.yaml", b"name: [")
    with pytest.raises(StudyError, match="sweep file inside the study"):
        study.spec()


# --- rows --------------------------------------------------------------------------------------


def test_rows_come_in_the_order_of_finishing(study):
    rows = [made_row(n, n / 10) for n in (3, 1, 2)]
    for row in rows:
        study.write_row(row)
    assert [row.number for row in Study.open(study.location).rows()] == [1, 2, 3]


def test_a_row_is_replaced_by_a_later_one_of_the_same_trial(study):
    study.write_row(made_row(1, 0.1))
    study.write_row(made_row(1, 0.2))
    assert [row.metrics["accuracy"] for row in study.rows()] == [0.2]


def test_a_diverged_row_is_not_lost(study):
    study.write_row(made_row(1, status=Status.DIVERGED, curve=[{"epoch": 1, "loss": math.nan}]))
    (row,) = study.rows()
    assert math.isnan(row.curve[0]["loss"])


def test_torn_and_foreign_files_are_skipped_listed_and_left_alone(study):
    good = made_row(1, 0.9)
    study.write_row(good)
    whole = good.model_dump_json()
    foreign = {
        "0123abcd.json": whole[: len(whole) // 2],  # torn
        "89abcdef.json": whole,  # another trial's row
        "notes.txt": "hello",
        "4f2a91c3.json.bak": whole,
        "00000000.json": "[]",
        "11111111.json": made_row(2, artifact="../../etc/passwd")
        .model_copy(update={"trial_id": "11111111"})
        .model_dump_json(),
        "22222222.json": "\0\0\0",
    }
    for name, content in foreign.items():
        storage.write_whole(f"{study.location}/rows/{name}", content.encode())
    assert study.rows() == [good]
    assert study.skipped_files == sorted(foreign)
    assert len(storage.list_names(f"{study.location}/rows")) == len(foreign) + 1


def test_a_folder_inside_rows_is_skipped(study, tmp_path):
    (tmp_path / "studies" / "digits" / "rows" / "33333333.json").mkdir()
    assert study.rows() == []
    assert study.skipped_files == ["33333333.json"]


@pytest.mark.parametrize("trial_id", ["../../up", "4f2a91c", "4F2A91C3", "4f2a91c3\n", ""])
def test_a_row_is_only_written_under_a_real_trial_id(study, trial_id):
    with pytest.raises(StudyError, match="eight hexadecimal digits"):
        study.write_row(made_row(1).model_copy(update={"trial_id": trial_id}))
    assert study.rows() == []


# --- artifacts ---------------------------------------------------------------------------------


def with_artifact(study, number):
    row = made_row(number, 0.9)
    row = row.model_copy(update={"artifact": f"{row.trial_id}.onnx"})
    storage.write_whole(study.artifact_path(row), b"model")
    study.write_row(row)
    return row


def test_the_path_of_an_artifact_is_absolute_and_inside(study):
    row = with_artifact(study, 1)
    assert study.artifact_path(row) == f"{study.artifacts_location}/{row.artifact}"
    assert storage.read(study.artifact_path(row)) == b"model"


@pytest.mark.parametrize(
    "name", ["../rows/x.json", "/etc/passwd", "..", ".", "a/b.onnx", "", "a\\b"]
)
def test_an_artifact_outside_the_study_is_refused(study, name):
    with pytest.raises(StudyError, match="plain file name"):
        study.artifact_path(made_row(1, artifact=name))


def test_a_row_without_an_artifact_says_so(study):
    with pytest.raises(StudyError, match=r"failed\) has no model file"):
        study.artifact_path(made_row(1, status=Status.FAILED))


def test_removed_artifacts_are_gone_from_folder_and_rows(study):
    kept, removed = with_artifact(study, 1), with_artifact(study, 2)
    storage.write_whole(f"{study.artifacts_location}/0a0a0a0a.onnx", b"being written")
    study.remove_artifacts(keep={kept.trial_id})
    assert storage.list_names(study.artifacts_location) == sorted(["0a0a0a0a.onnx", kept.artifact])
    assert study.rows() == [kept, removed.model_copy(update={"artifact": None})]


def test_removing_goes_on_where_a_crash_cut_it_off(study, monkeypatch):
    removed = with_artifact(study, 1)

    def full(self, row):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Study, "write_row", full)
        with pytest.raises(StorageError):
            study.remove_artifacts(keep=set())
    study.remove_artifacts(keep=set())
    assert study.rows() == [removed.model_copy(update={"artifact": None})]


# --- the rest ----------------------------------------------------------------------------------


def test_the_environment_is_noted(study):
    study.write_environment({"torch": "2.14.1", "cpu_flags": ["avx512"]})
    noted = json.loads(storage.read(f"{study.location}/environment.json"))
    assert noted == {"torch": "2.14.1", "cpu_flags": ["avx512"]}


def test_a_study_lives_in_an_object_store_by_the_same_code(sweep, tmp_path):
    place = f"memory://bucket/{tmp_path.name}"
    spec = sweep((str(tmp_path / "studies"), place))
    study = Study.create(spec)
    row = with_artifact(study, 1)
    again = Study.open(f"{place}/digits")
    assert again.rows() == [row]
    assert again.spec().to_yaml() == spec.to_yaml()
    with pytest.raises(StudyError, match="seed: 0 -> 1"):
        Study.create(sweep((str(tmp_path / "studies"), place), ("seed: 0", "seed: 1")))
    again.remove_artifacts(keep=set())
    assert not storage.exists(study.artifact_path(row))


def test_flat_joins_keys_with_dots():
    assert flat({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {
        "a.b.c": 1, "a.d": [2], "e": None,
    }  # fmt: skip
