"""What every trial must keep, whatever its model, pruning and bits."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from trainables import running
from trainables.config import DataConfig, DeployConfig, TrialConfig
from trainables.contract import METRICS, Status
from trainables.data import load_data
from trainables.trial import Trial, TrialSettings


def run(config: TrialConfig, settings: TrialSettings):
    """Run a trial to its end; give its progress and its reports."""
    trial, progress, ended = Trial(config.canonical(), settings), [], []
    while not ended:
        step, ended = trial.step()
        progress += [step] if step else []
    return trial, progress, ended


class TrialContract:
    """Inherit, and give the fixture `config`."""

    @pytest.fixture(scope="class")
    @classmethod
    def data_config(cls) -> DataConfig:
        return DataConfig(name="digits")

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, tmp_path_factory, data_config) -> TrialSettings:
        return TrialSettings(
            data=data_config,
            deploy=DeployConfig(),
            artifacts_location=str(tmp_path_factory.mktemp("artifacts")),
            bounds={},
        )

    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, config, settings):
        return run(config, settings)

    def test_ends_measured_with_every_metric(self, ended):
        _, _, [(_, report)] = ended
        assert report.status is Status.MEASURED, report.reason
        assert report.measurement.metrics().keys() == METRICS.keys()
        assert all(np.isfinite(v) for v in report.measurement.metrics().values())

    def test_reports_progress_once_per_epoch(self, ended, config):
        _, progress, _ = ended
        assert [p.epoch for p in progress] == list(range(1, config.epochs + 1))

    def test_the_forecast_is_the_size_of_the_file(self, ended):
        _, progress, [(_, report)] = ended
        assert report.forecast.size_bytes == report.measurement.size_bytes
        assert report.forecast.parameters == report.measurement.parameters
        assert {p.size_bytes for p in progress} == {report.measurement.size_bytes}

    def test_plain_onnxruntime_reproduces_the_numbers(self, ended, settings, data_config):
        _, _, [(_, report)] = ended
        file = f"{settings.artifacts_location}/{report.artifact}"
        data = load_data(data_config)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        answers = session.run(None, {"images": data.normalised(data.test.images)})[0]
        assert (answers.argmax(1) == data.test.labels).mean() == report.measurement.test_accuracy
        assert Path(file).stat().st_size == report.measurement.size_bytes

    def test_the_same_seed_gives_the_same_file(self, ended, config, settings, tmp_path):
        _, progress, [(_, report)] = ended
        again = TrialSettings(
            settings.data, settings.deploy, artifacts_location=str(tmp_path), bounds={}
        )
        _, progress_again, [(_, second)] = run(config, again)
        assert [p.loss for p in progress_again] == [p.loss for p in progress]
        first_file = Path(settings.artifacts_location) / report.artifact
        assert first_file.read_bytes() == (tmp_path / second.artifact).read_bytes()

    def test_a_trial_that_is_lost_after_every_epoch_gives_the_same_file(
        self, ended, config, settings, tmp_path, monkeypatch
    ):
        _, progress, [(_, report)] = ended
        monkeypatch.setattr(running, "CHECKPOINT_SHARE", float("inf"))  # after every epoch
        fragile = dataclasses.replace(
            settings,
            artifacts_location=f"{tmp_path}/artifacts",
            running_location=f"{tmp_path}/running",
        )
        losses = []
        for _ in range(config.epochs):
            step, _ = Trial(config.canonical(), fragile).step()
            losses.append(step.loss)
        _, rest, [(_, last)] = run(config, fragile)
        assert rest == []  # it was lost while it was measured, too
        assert last.status is Status.MEASURED, last.reason
        assert losses == [p.loss for p in progress]
        assert last.resumed_from == list(range(1, config.epochs + 1))
        assert last.epochs_trained == report.epochs_trained
        assert json.dumps(last.pruning) == json.dumps(report.pruning)
        first_file = Path(settings.artifacts_location) / report.artifact
        assert (
            first_file.read_bytes() == Path(f"{tmp_path}/artifacts/{last.artifact}").read_bytes()
        )
