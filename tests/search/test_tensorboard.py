"""Logs are judged by what TensorBoard's own server says about them over HTTP."""

import io
import subprocess
import sys

import pytest
from made_rows import made_row
from PIL import Image
from tensorboard_client import tensorboard

from search.observer import BestEffort, SweepObserver, SweepPlan
from search.spec.spec import SweepSpec
from search.study.study import Study
from search.tensorboard.log import TensorBoardLog, write_logs
from trainables.config import TrialConfig
from trainables.contract import Progress, Status

DIMENSIONS = {
    "learning_rate": {"log_uniform": [0.01, 0.1]},
    "batch_size": [32, 64],
    "epochs": 2,
    "amp": ["none", "bf16"],
    "pruning_method": "filter",
    "pruning_ratio": {"uniform": [0.1, 0.5]},
    "weight_bits": [32, 8],
}
METRICS = {
    "accuracy", "test_accuracy", "size_bytes", "latency_ms", "compressed_bytes", "train_seconds",
    "on_front",
}  # fmt: skip


def config(number: int, **more) -> TrialConfig:
    return TrialConfig(learning_rate=0.01 * number, epochs=2, **more)


def measured(number: int, accuracy: float, size: float, **more):
    row = made_row(number, accuracy, size, 1.0, config=config(number), epochs_trained=2, **more)
    known = row.metrics | {"compressed_bytes": size / 2, "train_seconds": 3.0}
    return row.model_copy(update={"metrics": known, "test_accuracy": accuracy - 0.01})


def progress(epoch: int, parameters: int = 1000) -> Progress:
    gone = 1 - parameters / 1000
    return Progress(epoch, 0.4 + epoch / 10, 2.0, 0.05, 5000, 0.5, epoch, 0, 1.0, parameters, gone)


@pytest.fixture
def spec(tmp_path) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "logs",
            "storage": str(tmp_path),
            "data": {"name": "digits"},
            "space": DIMENSIONS,
        }
    )


@pytest.fixture
def study(spec) -> Study:
    return Study.create(spec)


def statuses(sessions) -> dict[str, str]:
    return {
        name: group["sessions"][0].get("status", "STATUS_UNKNOWN").removeprefix("STATUS_")
        for name, group in sessions.items()
    }


def values(group) -> dict[str, float]:
    return {m["name"]["tag"].removeprefix("final/"): m["value"] for m in group["metricValues"]}


@pytest.mark.slow
def test_tensorboard_shows_the_sweep_while_it_runs_and_after(spec, study, tmp_path):
    ids = [config(number).trial_id for number in range(1, 7)]
    log = TensorBoardLog(spec)
    log.sweep_started(
        SweepPlan("logs", study.location, 9, (), spec.objective_list, max_concurrent=2)
    )
    for number in (1, 2):
        log.trial_started(ids[number - 1], config(number))
        log.epoch_ended(ids[number - 1], progress(1))
        log.epoch_ended(ids[number - 1], progress(2, parameters=250))
    log.trial_ended(measured(1, 0.9, 9000))

    with tensorboard(tmp_path / "logs" / "tensorboard", tmp_path) as server:
        running = server.wait(lambda: len(found := server.sessions()) == 2 and found)
        # The plugin calls a session without an end unknown.
        assert statuses(running) == {ids[0]: "SUCCESS", ids[1]: "UNKNOWN"}
        assert values(running[ids[0]])["on_front"] == 1

        experiment = server.ask("plugin/hparams/experiment", {"experimentName": ""})
        infos = {info["name"]: info for info in experiment["hparamInfos"]}
        assert set(infos) == set(DIMENSIONS)
        assert infos["learning_rate"]["domainInterval"] == {"minValue": 0.01, "maxValue": 0.1}
        assert infos["amp"]["domainDiscrete"] == ["none", "bf16"]
        assert infos["weight_bits"]["domainDiscrete"] == [8, 32]
        # What canonical configs say where nothing is pruned belongs to the domain.
        assert infos["pruning_method"]["domainDiscrete"] == ["filter", "none"]
        assert infos["pruning_ratio"]["domainInterval"]["minValue"] == 0
        assert {m["displayName"] for m in experiment["metricInfos"]} == METRICS

        log.trial_ended(measured(2, 0.95, 8000))  # dominates the first
        for number, status in ((3, Status.STOPPED), (4, Status.DIVERGED), (5, Status.FAILED)):
            log.trial_started(ids[number - 1], config(number))
            log.trial_ended(
                made_row(number, status=status, config=config(number), reason="because")
            )
        last = measured(6, 0.8, 2000, origin="sibling", parent=ids[0])
        log.trial_ended(last)
        alone = {**last.metrics, "latency_ms": 0.5}
        log.row_changed(last.model_copy(update={"metrics": alone}))
        log.sweep_ended(interrupted=False)

        done = server.wait(
            lambda: (
                "UNKNOWN" not in statuses(found := server.sessions()).values()
                and len(found) == 6
                and set(values(found[ids[5]])) == METRICS
                and values(found[ids[5]])["latency_ms"] == 0.5
                and values(found[ids[0]])["on_front"] == 0
                and found
            )
        )
        assert statuses(done) == {
            ids[0]: "SUCCESS", ids[1]: "SUCCESS", ids[2]: "SUCCESS", ids[3]: "FAILURE",
            ids[4]: "FAILURE", ids[5]: "SUCCESS",
        }  # fmt: skip
        assert values(done[ids[1]]) == {
            "accuracy": pytest.approx(0.95), "test_accuracy": pytest.approx(0.94),
            "size_bytes": 8000, "latency_ms": 1, "compressed_bytes": 4000, "train_seconds": 3,
            "on_front": 1,
        }  # fmt: skip
        assert done[ids[1]]["hparams"]["learning_rate"] == pytest.approx(0.02)
        assert done[ids[1]]["hparams"]["pruning_method"] == "none"

        def scalar(run: str, tag: str) -> list[float]:
            points = server.ask(f"plugin/scalars/scalars?run={run}&tag={tag}")
            return [pytest.approx(value) for _, _, value in points]

        assert scalar(f"trials/{ids[1]}", "epoch/accuracy") == [0.5, 0.6]
        assert scalar(f"trials/{ids[1]}", "epoch/sparsity") == [0, 0.75]
        assert scalar(f"trials/{ids[1]}", "forecast/size_bytes") == [5000, 5000]
        assert scalar("sweep", "front/size")[-1] == 2
        assert scalar("sweep", "trials/measured")[-1] == 3
        assert scalar("sweep", "trials/failed")[-1] == 1
        assert scalar("sweep", "best_accuracy/edge")[-1] == 0.95
        images = server.ask("plugin/images/images?run=sweep&tag=front/accuracy_over_size&sample=0")
        assert images[-1]["step"] == 6
        png = server.read(f"plugin/images/individualImage?{images[-1]['query']}")
        assert Image.open(io.BytesIO(png)).size == (640, 400)


@pytest.mark.slow
def test_logs_are_written_again_from_the_rows(study, tmp_path):
    curve = [{"epoch": 1.0, "accuracy": 0.5, "loss": 1.0, "learning_rate": 0.1}]
    study.write_row(measured(1, 0.9, 9000, curve=curve))
    study.write_row(measured(2, 0.8, 9500))
    write_logs(study)
    before = sorted((tmp_path / "logs" / "tensorboard" / "trials").iterdir())
    write_logs(study)
    assert sorted((tmp_path / "logs" / "tensorboard" / "trials").iterdir()) == before
    with tensorboard(tmp_path / "logs" / "tensorboard", tmp_path) as server:
        found = server.wait(lambda: len(found := server.sessions()) == 2 and found)
    assert sorted(values(group)["on_front"] for group in found.values()) == [0, 1]
    assert set(statuses(found).values()) == {"SUCCESS"}


def test_a_watcher_that_fails_does_not_end_the_sweep(caplog):
    class Broken(SweepObserver):
        calls = 0

        def trial_ended(self, row):
            self.calls += 1
            raise OSError("the disk is full")

    broken = Broken()
    watcher = BestEffort(broken)
    for number in (1, 2):
        watcher.trial_ended(made_row(number, 0.9, 1000, 1.0))
    assert broken.calls == 1
    assert "Broken gave up, the sweep goes on: the disk is full" in caplog.text


def test_the_driver_imports_neither_torch_nor_tensorflow():
    code = (
        "import sys, search.tensorboard.log, search.report.writer;"
        "heavy = {'torch', 'tensorflow', 'ray', 'plotly', 'sklearn'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == "[]"
