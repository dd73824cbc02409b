"""The commands that show a study: select by profile, compare, report, tensorboard."""

import json
import os

import pytest
from made_rows import made_row, tiny_onnx

from paretune.cli import main
from search.spec.spec_file import load_sweep
from search.study import storage
from search.study.study import Study
from trainables.config import TrialConfig

SWEEP = """
name: {name}
storage: {storage}
data: {{name: digits}}
space: {{learning_rate: {{log_uniform: [0.01, 0.1]}}, weight_bits: [32, 8]}}
"""
MODELS = ((0.99, 9_000_000, 60.0), (0.95, 2_000_000, 20.0), (0.90, 200_000, 5.0))


@pytest.fixture
def command(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


def study_of(folder, name, models=MODELS) -> Study:
    file = folder / f"{name}.yaml"
    file.write_text(SWEEP.format(name=name, storage=folder))
    study = Study.create(load_sweep(file))
    for number, numbers in enumerate(models, 1):
        config = TrialConfig(learning_rate=0.01 * number).canonical()
        row = made_row(number, *numbers, config=config, test_accuracy=0.5)
        row = row.model_copy(update={"artifact": f"{row.trial_id}.onnx"})
        storage.write_whole(study.artifact_path(row), tiny_onnx(row.trial_id))
        study.write_row(row)
    return study


@pytest.fixture
def study(tmp_path):
    return study_of(tmp_path, "shown")


@pytest.mark.parametrize(
    ("profile", "accuracy"), [("phone", 0.95), ("edge", 0.90), ("server", 0.95)]
)
def test_a_profile_picks_within_its_budgets(command, study, profile, accuracy):
    code, out, _ = command("select", study.location, "--profile", profile, "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == accuracy


def test_a_budget_beside_a_profile_replaces_the_profiles_own(command, study):
    _, out, _ = command(
        "select", study.location, "--profile", "phone", "--max-size-bytes", "1MB", "--json"
    )
    assert json.loads(out)["accuracy"] == 0.90


def test_a_profile_of_ones_own(command, study, tmp_path):
    file = tmp_path / "profiles.yaml"
    file.write_text("doorbell: {max_size_bytes: 300kB, min_accuracy: 80%}\n")
    code, out, _ = command(
        "select", study.location, "--profiles", file, "--profile", "doorbell", "--json"
    )
    assert code == 0
    assert json.loads(out)["size_bytes"] == 200_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("doorbell: {max_size: 3}", "doorbell.max_size: is unknown; did you mean"),
        ("doorbell: {max_size_bytes: 3ms}", "doorbell.max_size_bytes: got '3ms'; allowed: "),
        ("doorbell: {min_accuracy: 2}", "doorbell.min_accuracy: got 2; allowed: up to 1"),
        ("- doorbell", "allowed: a mapping of profiles"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_mistakes_in_profiles_are_named(command, study, tmp_path, text, said):
    file = tmp_path / "profiles.yaml"
    file.write_text(text)
    code, out, err = command("select", study.location, "--profiles", file)
    assert (code, out) == (2, "")
    assert said in err


def test_an_unknown_profile_is_named(command, study):
    code, _, err = command("select", study.location, "--profile", "phnoe")
    assert code == 2
    assert "there is no profile 'phnoe'; did you mean 'phone'? allowed: phone, edge or " in err


def test_select_says_what_one_step_more_or_less_gives(command, study):
    _, out, _ = command("select", study.location, "--profile", "phone")
    assert "most accurate of the 3 on the front, size <= 5.00 MB and latency <= 33.0 ms" in out
    assert "one more  +4.00 % accuracy for 4.5x the size and 3x the latency" in out
    assert "one less  -5.00 % accuracy for 0.1x the size and 0.25x the latency" in out


def test_select_names_a_faster_model_that_is_as_accurate(command, tmp_path):
    larger = study_of(tmp_path, "larger", (*MODELS[:1], (MODELS[0][0], 2 * MODELS[0][1], 0.2)))
    _, out, _ = command("select", larger.location)
    assert "faster    +0.00 % accuracy for 2x the size and 0.0033x the latency" in out
    _, out, _ = command("select", larger.location, "--max-latency-ms", "0.3ms")
    assert "faster    nothing as accurate is faster" in out


def test_select_ends_where_the_front_ends(command, study):
    _, out, _ = command("select", study.location)
    assert "one more  nothing on the front is more accurate" in out


def test_a_damaged_model_file_is_refused(command, study, tmp_path):
    for name in storage.list_names(study.artifacts_location):
        storage.write_whole(f"{study.artifacts_location}/{name}", b"\xff\xff\xff")
    code, _, err = command("select", study.location, "--copy-to", tmp_path / "m.onnx")
    assert code == 1
    assert "it is not ONNX" in err
    assert not (tmp_path / "m.onnx").exists()


def test_compare_says_what_joined_left_and_changed(command, study, tmp_path):
    later = study_of(tmp_path, "later", (*MODELS[:2], (0.97, 100_000, 2.0)))
    code, out, _ = command("compare", study.location, later.location)
    assert code == 0
    assert "front: 0 joined, 1 left, 2 stayed" in out
    assert "better: " in out
    _, out, _ = command("compare", study.location, later.location, "--json")
    found = json.loads(out)
    assert found["hypervolume"]["now"] > found["hypervolume"]["then"]
    assert found["picks"]["edge"]["verdict"] == "better"


def test_report_is_written_into_the_study(command, study, tmp_path):
    earlier = study_of(tmp_path, "earlier", MODELS[:2])
    code, out, _ = command("report", study.location, "--then", earlier.location)
    assert (code, out) == (0, f"{study.location}/report.html\n")
    page = storage.read(f"{study.location}/report.html").decode()
    assert "Then and now" in page
    assert "1 joined" in page


def test_tensorboard_takes_over_with_the_studys_logs(command, study, monkeypatch):
    taken = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: taken.append(arguments))
    command("tensorboard", study.location, "--port", "7007")
    assert taken[0][1:] == [
        "-m", "search.tensorboard", "--logdir", f"{study.location}/tensorboard",
        "--host", "127.0.0.1", "--port", "7007",
    ]  # fmt: skip
    # A study without logs gets them from its rows.
    assert len(storage.list_names(f"{study.location}/tensorboard/trials")) == 3


@pytest.mark.parametrize("name", ["report", "tensorboard"])
def test_no_study_no_view(command, tmp_path, name):
    code, _, err = command(name, tmp_path / "nothing")
    assert code == 2
    assert "there is no study at" in err
