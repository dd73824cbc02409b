"""A real sweep on real images through the command line, judged from the outside."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

SWEEP = """
name: digits
storage: {storage}
data: {{name: digits}}
space:
  learning_rate: {{log_uniform: [0.02, 0.2]}}
  batch_size: 64
  epochs: {epochs}
  width: [8, 16]
  depth: 2
  amp: [none, bf16]
  pruning_method: filter
  pruning_ratio: {{uniform: [0.0, 0.6]}}
  weight_bits: [32, 8, 4]
  activation_bits: [32, 8]
search: {{method: random, trials: {trials}}}
resources: {{max_concurrent: 2}}
"""


def paretune(*arguments, **options):
    command = [sys.executable, "-m", "paretune", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, **options
    )


def front(study):
    shown = paretune("front", study, "--json")
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def study(folder) -> Path:
    sweep = folder / "sweep.yaml"
    sweep.write_text(SWEEP.format(storage=folder, trials=4, epochs=6))
    ran = paretune("run", sweep)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    return folder / "digits"


@pytest.mark.slow
def test_every_front_member_is_reproduced_by_plain_onnxruntime(study, folder):
    assert paretune("export-data", study, "--split", "test", folder / "t.npz").returncode == 0
    with np.load(folder / "t.npz") as data:
        images, labels = data["images"], data["labels"]
    members = front(study)
    assert len(members) >= 3
    for member in members:
        artifact = Path(member["artifact"])
        assert artifact.stat().st_size == member["size_bytes"]
        session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
        answers = session.run(None, {session.get_inputs()[0].name: images})[0].argmax(1)
        assert (answers == labels).mean() == member["test_accuracy"]


@pytest.mark.slow
def test_rows_are_whole_and_siblings_cost_no_training(study):
    rows = [json.loads(path.read_text()) for path in (study / "rows").iterdir()]
    trained = [row for row in rows if row["origin"] == "trained"]
    assert len(trained) == 4
    measured = {row["trial_id"] for row in trained if row["status"] == "measured"}
    assert {row["parent"] for row in rows if row["origin"] == "sibling"} == measured
    assert all("train" not in row["seconds"] for row in rows if row["origin"] == "sibling")


@pytest.mark.slow
def test_the_environment_of_the_run_is_noted(study):
    noted = json.loads((study / "environment.json").read_text())
    assert noted["onnxruntime"] == onnxruntime.__version__
    assert noted["data_fingerprint"]
    assert "run" in noted["command"]


@pytest.mark.slow
def test_only_front_members_keep_their_files(study):
    kept = {path.stem for path in (study / "artifacts").iterdir()}
    assert kept == {member["trial_id"] for member in front(study)}


@pytest.mark.slow
def test_a_finished_sweep_is_shown_not_repeated(study, folder):
    before = {path: path.stat().st_mtime_ns for path in (study / "rows").iterdir()}
    assert paretune("run", folder / "sweep.yaml").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (study / "rows").iterdir()} == before


@pytest.mark.slow
def test_the_front_is_measured_alone_also_if_an_earlier_driver_did_not_come_to_it(study, folder):
    path = study / "rows" / f"{front(study)[0]['trial_id']}.json"
    row = json.loads(path.read_text())
    assert row["measured_alone"]
    row["measured_alone"] = False
    path.write_text(json.dumps(row))
    assert paretune("run", folder / "sweep.yaml").returncode == 0
    row = json.loads(path.read_text())
    assert row["measured_alone"]
    assert f"{row['metrics']['latency_ms']:.3g}" in (study / "report.html").read_text()


@pytest.mark.slow
def test_select_copies_the_picked_file(study, folder):
    smallest = min(front(study), key=lambda m: m["size_bytes"])
    picked = paretune(
        "select", study, "--max-size-bytes", smallest["size_bytes"],
        "--copy-to", folder / "model.onnx", "--json",
    )  # fmt: skip
    assert json.loads(picked.stdout)["trial_id"] == smallest["trial_id"]
    copied, own = (onnx.load(path) for path in (folder / "model.onnx", smallest["artifact"]))
    assert copied.graph == own.graph
    facts = json.loads({p.key: p.value for p in copied.metadata_props}["paretune"])
    assert facts["trial"] == smallest["trial_id"]
    assert facts["config"] == smallest["config"]
    assert facts["metrics"]["test_accuracy"] == smallest["test_accuracy"]


@pytest.mark.slow
def test_the_printed_snippet_runs_with_numpy_and_onnxruntime_alone(study, folder):
    for profile in ("phone", "edge", "server"):
        picked = paretune(
            "select", study, "--profile", profile, "--copy-to", "model.onnx", cwd=folder
        )
        assert picked.returncode == 0, picked.stderr
        facts, _, snippet = picked.stdout.partition("\n# ")
        export, code = snippet.split("\n", 1)
        command = export.partition("   ")[0].split()
        assert paretune(*command[1:], cwd=folder).returncode == 0
        assert len(code.strip().splitlines()) == 5
        # -S and an own path leave nothing to import but these two and the standard library.
        bare = folder / "bare"
        bare.mkdir(exist_ok=True)
        for package in (np, onnxruntime):
            here = Path(package.__file__).parent
            for part in (here, here.parent / f"{here.name}.libs"):
                link = bare / part.name
                if part.exists() and not link.exists():
                    link.symlink_to(part)
        ran = subprocess.run(
            [sys.executable, "-S", "-c", code], cwd=folder, env={"PYTHONPATH": str(bare)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        stated = next(line for line in facts.splitlines() if line.startswith("accuracy"))
        accuracy = float(ran.stdout.split()[1])
        assert f"{accuracy:.3f} on test images" in stated


def alive(mark: str) -> list[str]:
    """Give the command lines of processes that carry `mark` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().decode().replace("\0", " "))
        except OSError:
            continue
    return found


def wait_until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_an_interrupt_keeps_all_rows_and_leaves_no_process(tmp_path):
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(SWEEP.format(storage=tmp_path, trials=500, epochs=4))
    mark = f"mark-{uuid.uuid4()}"
    rows = tmp_path / "digits" / "rows"
    with subprocess.Popen(
        [sys.executable, "-m", "paretune", "run", str(sweep)],
        env={**os.environ, "PARETUNE_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert wait_until(lambda: rows.is_dir() and len(list(rows.glob("*.json"))) >= 2, 120)
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=60)
    assert running.returncode == 130, output
    assert "Traceback" not in output
    assert f"paretune run {sweep}" in output
    assert front(tmp_path / "digits")
    assert wait_until(lambda: not alive(mark), 20), alive(mark)
