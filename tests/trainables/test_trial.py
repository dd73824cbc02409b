"""One trial from config to measured file."""

import dataclasses
from pathlib import Path

import pytest

from contracts.trial_contract import TrialContract, run
from trainables import artifact
from trainables.config import DataConfig, DeployConfig, TrialConfig
from trainables.contract import Status
from trainables.trial import Trial, TrialSettings

HERE = str(Path(__file__).parent)
SMALL = {"depth": 2, "width": 8}


class TestPlainCnn(TrialContract):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls):
        return TrialConfig(model_args=SMALL, epochs=2, learning_rate=0.1)


class TestPrunedIntegerCnn(TrialContract):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls):
        return TrialConfig(
            model_args={"depth": 2, "width": 16},
            epochs=2,
            amp="bf16",
            pruning_method="filter",
            pruning_ratio=0.5,
            weight_bits=8,
            activation_bits=8,
        )


class TestFactoryModelInFourBits(TrialContract):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _importable(cls):
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(HERE)
            yield

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls):
        return TrialConfig(
            model="factory_models:tiny",
            model_args={"hidden": 24},
            epochs=2,
            optimizer="adamw",
            learning_rate=0.01,
            pruning_method="filter",
            pruning_ratio=0.3,
            weight_bits=4,
            activation_bits=8,
        )


@pytest.fixture
def settings(tmp_path) -> TrialSettings:
    return TrialSettings(
        data=DataConfig(name="digits"),
        deploy=DeployConfig(),
        artifacts_location=str(tmp_path),
        bounds={},
    )


def test_a_broken_size_bound_ends_it_before_any_training(settings):
    bounded = dataclasses.replace(settings, bounds={"size_bytes": (0, 1000)})
    trial, progress, [(_, report)] = run(TrialConfig(model_args=SMALL), bounded)
    assert report.status is Status.INFEASIBLE
    assert "size_bytes" in report.reason
    assert "1000" in report.reason
    assert progress == []
    assert trial.training is None


def test_a_non_finite_loss_ends_it_as_diverged(settings):
    _, _, [(_, report)] = run(
        TrialConfig(model_args=SMALL, learning_rate=100, momentum=0.99, epochs=4), settings
    )
    assert report.status is Status.DIVERGED
    assert "epoch" in report.reason


def test_pruning_happens_at_its_epoch_and_training_goes_on(settings):
    config = TrialConfig(
        model_args={"depth": 2, "width": 16},
        epochs=4,
        pruning_method="filter",
        pruning_ratio=0.5,
        prune_at=0.5,
    )
    _, progress, [(_, report)] = run(config, settings)
    parameters = [p.parameters for p in progress]
    assert parameters[0] == parameters[1] > parameters[2] == parameters[3]
    assert report.pruning["parameters_after"] == parameters[3]


def test_siblings_are_measured_on_the_same_network(settings):
    several = dataclasses.replace(settings, sibling_bits=((32, 32), (8, 8), (4, 8)))
    _, _, ended = run(TrialConfig(model_args=SMALL, epochs=1), several)
    bits = [(c.weight_bits, c.activation_bits) for c, _ in ended]
    assert bits == [(32, 32), (8, 8), (4, 8)]
    sizes = [report.measurement.size_bytes for _, report in ended]
    assert sizes == sorted(sizes, reverse=True)
    assert len({c.trial_id for c, _ in ended}) == 3


def test_a_file_that_answers_differently_fails_with_the_reason(settings, monkeypatch):
    quantize = artifact.quantize

    def with_a_wrong_scale(graph, **options):
        broken = quantize(graph, **options)
        for tensor in broken.graph.initializer:
            if tensor.name.endswith(".weight.scale"):
                values = artifact.np.frombuffer(tensor.raw_data, "float32") * 3
                tensor.raw_data = values.tobytes()
                break
        else:
            pytest.fail("no scale to plant an error in")
        return broken

    config = TrialConfig(model_args=SMALL, epochs=1, weight_bits=8, activation_bits=8)
    trial = Trial(config.canonical(), settings)
    monkeypatch.setattr(artifact, "quantize", with_a_wrong_scale)
    _, [(_, report)] = trial.step()
    assert report.status is Status.FAILED
    assert "differs from the model in memory" in report.reason
