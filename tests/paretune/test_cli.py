import csv
import io
import json
import re
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
import yaml
from made_rows import made_row, tiny_onnx

import paretune
from paretune.cli import main
from search.errors import StorageError, SweepError
from search.front.front import ParetoFront
from search.observer import SweepPlan
from search.spec.spec_file import load_sweep
from search.study import storage
from search.study.study import Study
from search.sweep import SweepOutcome
from trainables.config import TrialConfig
from trainables.contract import Status
from trainables.errors import DataError, ExportError

SWEEP = """
name: digits
storage: {storage}
data: {{name: digits}}
space:
  learning_rate: {{log_uniform: [0.01, 0.1]}}
  width: [8, 16]
  weight_bits: [32, 16, 8]
  activation_bits: [32, 8]
search: {{trials: 3}}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my sweep.yaml"
    path.write_text(SWEEP.format(storage=tmp_path))
    return path


@pytest.fixture
def command(capsys):
    """Give a function that runs the command and gives its exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


def models(study):
    """Write three measured trials and a failed one; the third is dominated."""
    latency = {"ms": 0.05, "low_ms": 0.049, "high_ms": 0.051}
    numbers = [(0.99, 90_000, 0.5), (0.9, 12_345, 0.05), (0.8, 20_000, 0.06)]
    rows = []
    for number, numbers_ in enumerate(numbers, 1):
        config = TrialConfig(learning_rate=0.01 * number, model_args={"width": 8}).canonical()
        row = made_row(number, *numbers_, config=config, latency=latency, test_accuracy=0.5)
        row = row.model_copy(update={"artifact": f"{row.trial_id}.onnx"})
        storage.write_whole(study.artifact_path(row), tiny_onnx(f"model {number}"))
        rows.append(row)
    rows.append(made_row(4, status=Status.FAILED, reason="out of memory"))
    for row in rows:
        study.write_row(row)
    return rows


@pytest.fixture
def study(file):
    study = Study.create(load_sweep(file))
    models(study)
    return study


# --- the command as a whole ----------------------------------------------------------------------


def python(code, *arguments, **more):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, **more,
    )  # fmt: skip


LOADS_NOTHING_HEAVY = """
import sys
from paretune.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert not ended.code, ended.code
loaded = {"torch", "ray", "onnx", "onnxruntime", "torchvision", "sklearn"} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"], ["check"]])
def test_what_must_answer_at_once_loads_neither_torch_nor_ray(arguments, file):
    given = [*arguments, file] if arguments == ["check"] else arguments
    done = python(LOADS_NOTHING_HEAVY, *given)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_package_is_a_module_that_runs():
    done = subprocess.run(
        [sys.executable, "-m", "paretune", "--version"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == f"paretune {paretune.__version__}\n"


def test_the_public_names_are_the_real_ones():
    assert paretune.load_sweep is load_sweep
    assert paretune.__all__ == dir(paretune)
    assert callable(paretune.run_sweep)
    assert callable(paretune.read_front)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = paretune.nonsense


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["front"], ["run", "x.yaml", "--trials", "0"], ["front", "x", "--nonsense"],
     ["select", "x", "--min-accuracy", "2"], ["export-data", "x", "y.npz", "--split", "all"]],
)  # fmt: skip
def test_wrong_usage_is_exit_2_with_a_word_on_stderr(command, arguments):
    code, out, err = command(*arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert "Usage" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageError("cannot write x: the disk is full"), 3),
        (SweepError("every trial failed: x"), 1),
        (DataError("no images at x"), 2),
        (ExportError("no such operator"), 1),
    ],
)
def test_an_error_is_one_message_and_its_exit_code(command, file, monkeypatch, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("search.sweep.run_sweep", fail)
    got, _, err = command("run", file)
    assert got == code
    assert err.splitlines()[-1] == f"paretune: {error}"
    assert "Traceback" not in err


def test_debug_shows_the_traceback(file, monkeypatch):
    monkeypatch.setenv("PARETUNE_DEBUG", "1")
    with pytest.raises(StorageError):
        main(["front", "nonsense://place"])


# --- check ---------------------------------------------------------------------------------------


def test_check_prints_a_sweep_file_and_what_it_would_run(command, file, tmp_path):
    code, out, _ = command("check", file)
    assert code == 0
    (tmp_path / "again.yaml").write_text(out)
    assert load_sweep(tmp_path / "again.yaml").to_yaml() == load_sweep(file).to_yaml()
    said = [line for line in out.splitlines() if line.startswith("# ")]
    assert any("continuous: learning_rate" in line for line in said)
    assert any("ehvi search, 3 trials" in line for line in said)
    assert any(str(tmp_path / "digits") in line for line in said)
    # float activations alone with 16-bit weights: the other pair is not really executed.
    assert any("W16A8" in line for line in said)


def test_check_counts_a_finite_space(command, file):
    file.write_text(
        yaml.safe_dump(
            {
                "name": "a",
                "data": {"name": "digits"},
                "space": {"epochs": [2, 3], "width": [8, 16]},
            }
        )
    )
    assert "# 4 configurations" in command("check", file)[1]


def test_check_names_every_mistake(command, file):
    file.write_text(file.read_text().replace("learning_rate", "learning_rte"))
    code, out, err = command("check", file)
    assert code == 2
    assert out == ""
    assert "learning_rte" in err
    assert "Traceback" not in err


# --- run -----------------------------------------------------------------------------------------


@pytest.fixture
def sweep(monkeypatch):
    """Put a double in place of the sweep: it writes the same rows at once."""

    def install(*, interrupted=False, feasible=True, lost=False):
        def run_sweep(spec, *, observers=(), start=None):
            if lost:
                raise KeyboardInterrupt
            study = Study.create(spec)
            rows = models(study) if feasible else [made_row(1, status=Status.FAILED, reason="x")]
            plan = SweepPlan(spec.name, study.location, spec.search.trials, (),
                             spec.objective_list, spec.max_concurrent)  # fmt: skip
            for observer in observers:
                observer.sweep_started(plan)
                for row in rows:
                    observer.trial_started(row.trial_id, row.config)
                    observer.trial_ended(row)
                observer.sweep_ended(interrupted=interrupted)
            front = ParetoFront.of(rows, spec.objective_list, spec.constraint_list)
            return SweepOutcome(study, front, rows, interrupted)

        monkeypatch.setattr("search.sweep.run_sweep", run_sweep)

    return install


def test_run_ends_with_the_front_and_commands_that_work(command, sweep, file, tmp_path):
    sweep()
    code, out, _ = command("run", file)
    assert code == 0
    assert re.search(r"^\[1/3\] [0-9a-f]{8} measured  acc 0.990  90.0 kB", out, re.MULTILINE)
    assert "3 measured, 1 failed; front of 2" in out
    assert "\x1b" not in out
    (next_command, *_) = re.findall(r"^  (paretune select .*)$", out, re.MULTILINE)
    _, *arguments = next_command.replace("model.onnx", str(tmp_path / "model.onnx")).split()
    assert command(*arguments)[0] == 0
    assert (tmp_path / "model.onnx").exists()


def test_run_lines_show_only_what_varies(command, sweep, file):
    sweep()
    _, out, _ = command("run", file)
    line = next(line for line in out.splitlines() if line.startswith("[1/3]"))
    assert line.endswith("lr=0.01 width=8 W32A32")


def test_an_interrupted_run_says_how_to_go_on(command, sweep, file):
    sweep(interrupted=True)
    code, out, err = command("run", file, "--plain", "--trials", 7)
    assert code == 130
    assert "front of 2" in out
    assert "all finished trials are kept" in err
    assert f"paretune run '{file}' --plain --trials 7" in err


def test_an_interrupt_outside_of_the_sweep_is_the_same(command, sweep, file):
    sweep(lost=True)
    code, _, err = command("run", file)
    assert code == 130
    assert f"paretune run '{file}'" in err


def test_a_sweep_without_a_feasible_model_is_exit_1(command, sweep, file):
    sweep(feasible=False)
    code, out, err = command("run", file)
    assert code == 1
    assert "1 failed; front of 0" in out
    assert "without a feasible model" in err


def test_trials_replaces_the_number_in_the_file(command, sweep, file, tmp_path):
    sweep()
    _, out, _ = command("run", file, "--trials", 50)
    assert "[ 1/50]" in out
    assert Study.open(str(tmp_path / "digits")).spec().search.trials == 50


def test_from_a_study_that_is_not_there_is_bad_input(command, sweep, file, tmp_path):
    sweep()
    code, _, err = command("run", file, "--from", tmp_path / "nothing")
    assert code == 2
    assert "there is no study at" in err


def test_from_a_study_that_does_not_match_is_refused(command, sweep, file, tmp_path):
    sweep()
    other = tmp_path / "other.yaml"
    other.write_text(file.read_text().replace("name: digits\n", "name: other\n", 1)
                     + "deploy: {batch_size: 8}\n")  # fmt: skip
    command("run", other)
    code, _, err = command("run", file, "--from", tmp_path / "other")
    assert code == 2
    assert "its `deploy` is" in err
    assert "--from-anyway" in err
    assert not (tmp_path / "digits").exists(), "nothing was written"


WAITS_FOR_A_SIGNAL = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts what runs in the background
import search.sweep
from search.front.front import ParetoFront
from search.study.study import Study

def run_sweep(spec, *, observers=(), start=None):
    study = Study.create(spec)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(99))  # as Ray does when it starts
    for observer in observers:
        observer.trial_started("0123abcd", spec.space.base)
    try:
        print("ready", flush=True)
        time.sleep(60)
        interrupted = False
    except KeyboardInterrupt:
        interrupted = True
    front = ParetoFront.of([], spec.objective_list)
    return search.sweep.SweepOutcome(study, front, [], interrupted)

search.sweep.run_sweep = run_sweep
from paretune.cli import main
main(["run", *sys.argv[1:]])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_in_order_even_where_they_were_ignored(file, number):
    with subprocess.Popen(
        [sys.executable, "-c", WAITS_FOR_A_SIGNAL, str(file)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        while running.stdout.readline() != "ready\n":
            assert running.poll() is None
        running.send_signal(number)
        output, _ = running.communicate(timeout=30)
    assert running.returncode == 130, output
    assert f"paretune run '{file}'" in output
    assert "Traceback" not in output


# --- front ---------------------------------------------------------------------------------------


def test_front_is_a_table_of_whole_lines_in_a_pipe(command, study):
    code, out, _ = command("front", study.location)
    assert code == 0
    heading, _, first, second, *_ = out.splitlines()
    assert heading.split() == [
        "trial", "accuracy", "test", "size", "of", "largest", "latency", "settings",
    ]  # fmt: skip
    assert "0.990" in first
    assert "90.0 kB" in first
    assert "100 %" in first
    assert re.search(r" 14 % +0\.0500 ms ± 2\.0 % +lr=0\.02 *$", second)
    assert "3 measured, 1 failed; front of 2, hypervolume 0." in out
    assert "\x1b" not in out


def test_front_json_is_json_alone(command, study):
    storage.write_whole(f"{study.location}/rows/torn.json", b"{")
    code, out, err = command("front", study.location, "--json")
    members = json.loads(out)
    assert code == 0
    assert [m["accuracy"] for m in members] == [0.99, 0.9]
    assert all(storage.exists(m["artifact"]) for m in members)
    assert "torn.json" in err


def test_front_csv_has_a_column_per_setting(command, study):
    _, out, _ = command("front", study.location, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["size_bytes"] for row in rows] == ["90000", "12345"]
    assert [row["config.learning_rate"] for row in rows] == ["0.01", "0.02"]
    assert rows[0]["config.model_args.width"] == "8"


def test_front_of_a_study_without_models(command, file):
    location = Study.create(load_sweep(file)).location
    assert command("front", location, "--json")[:2] == (0, "[]\n")
    assert command("front", location, "--csv")[:2] == (0, "")
    assert "no trials yet; front of 0" in command("front", location)[1]


def test_front_refuses_two_formats(command, study):
    code, out, err = command("front", study.location, "--json", "--csv")
    assert (code, out) == (2, "")
    assert "choose one" in err


def test_a_missing_study_is_exit_2_and_one_line(command, tmp_path):
    code, out, err = command("front", tmp_path / "none")
    assert (code, out) == (2, "")
    assert err == f"paretune: there is no study at {tmp_path}/none: no sweep.yaml there\n"


# --- select --------------------------------------------------------------------------------------


def test_select_tells_the_most_accurate_model_in_words(command, study):
    code, out, _ = command("select", study.location)
    facts = dict(line.split(None, 1) for line in out.splitlines())
    assert code == 0
    assert facts["accuracy"] == "0.990 on validation images, 0.500 on test images"
    assert facts["size"] == "90.0 kB"
    assert facts["model"].startswith(f"{study.location}/artifacts/")


@pytest.mark.parametrize(
    "budget",
    [("--max-size-bytes", "12345"), ("--max-size-bytes", "12.345kB"),
     ("--max-latency-ms", "0.05"), ("--max-latency-ms", "50us")],
)  # fmt: skip
def test_select_keeps_a_budget_and_copies_the_model(command, study, tmp_path, budget):
    copy = tmp_path / "model.onnx"
    code, out, _ = command("select", study.location, *budget, "--copy-to", copy, "--json")
    assert code == 0
    assert json.loads(out)["size_bytes"] == 12345
    assert onnx.load(copy).doc_string == "model 2"


def test_select_says_the_nearest_miss(command, study, tmp_path):
    copy = tmp_path / "model.onnx"
    code, out, err = command(
        "select", study.location, "--max-size-bytes", "1kB", "--copy-to", copy
    )
    assert (code, out) == (1, "")
    assert "the smallest model has 12.3 kB" in err
    assert not copy.exists()


@pytest.mark.parametrize("size", ["many", "5ms", "-1", "0"])
def test_select_refuses_what_is_no_size(command, study, size):
    code, out, err = command("select", study.location, f"--max-size-bytes={size}")
    assert (code, out) == (2, "")
    assert err.startswith(f"paretune: --max-size-bytes: got '{size}'; allowed: ")


def test_select_says_when_the_model_file_is_gone(command, study, tmp_path):
    for name in storage.list_names(study.artifacts_location):
        storage.remove(f"{study.artifacts_location}/{name}")
    code, _, err = command("select", study.location, "--copy-to", tmp_path / "model.onnx")
    assert code == 3
    assert "there is no such file" in err


# --- export-data ---------------------------------------------------------------------------------


def test_export_data_writes_what_the_model_takes(command, study, tmp_path):
    sizes = {}
    for split in ("train", "val", "test"):
        to = tmp_path / f"{split}.npz"
        assert command("export-data", study.location, "--split", split, to)[0] == 0
        with np.load(to) as data:
            assert sorted(data) == ["images", "labels"]
            assert data["images"].dtype == np.float32
            assert data["labels"].dtype == np.int64
            assert data["images"].shape[1:] == (1, 8, 8)
            assert abs(data["images"].mean()) < 0.2  # normalised
            sizes[split] = len(data["labels"])
    assert sum(sizes.values()) == 1797
    assert sizes["train"] > sizes["val"]


# --- resume --------------------------------------------------------------------------------------


def test_resume_runs_the_stored_sweep_in_the_folder_that_is_given(
    command, sweep, file, tmp_path, monkeypatch
):
    sweep()
    assert command("run", file)[0] == 0
    (study,) = (path.parent for path in tmp_path.rglob("rows") if path.is_dir())
    moved = tmp_path / "elsewhere" / study.name
    moved.parent.mkdir()
    study.rename(moved)
    monkeypatch.chdir(moved.parent)
    code, out, _ = command("resume", study.name)
    assert code == 0
    assert f"study: {moved}" in out
    assert not study.exists()


def test_an_interrupted_resume_says_how_to_go_on(command, sweep, file, tmp_path):
    sweep()
    command("run", file)
    (study,) = (path.parent for path in tmp_path.rglob("rows") if path.is_dir())
    sweep(interrupted=True)
    code, _, err = command("resume", study, "--trials", 9)
    assert code == 130
    assert f"paretune resume {study} --trials 9" in err


def test_resume_refuses_what_is_no_study_and_a_folder_of_another_name(
    command, sweep, file, tmp_path
):
    code, _, err = command("resume", tmp_path / "nothing")
    assert (code, "there is no study" in err) == (2, True)
    sweep()
    command("run", file)
    (study,) = (path.parent for path in tmp_path.rglob("rows") if path.is_dir())
    study.rename(study.with_name("renamed"))
    code, _, err = command("resume", study.with_name("renamed"))
    assert code == 2
    assert f"Rename it to {study.name}" in err
