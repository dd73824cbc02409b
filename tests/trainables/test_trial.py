"""One trial from config to measured file."""

import dataclasses
import errno
from pathlib import Path

import pytest
import torch

from contracts.trial_contract import TrialContract, run
from trainables import artifact, running
from trainables import trial as trial_module
from trainables.config import DataConfig, DeployConfig, TrialConfig
from trainables.contract import Status
from trainables.errors import StorageRefusedError
from trainables.train import Training
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
    assert [p.sparsity for p in progress[:2]] == [0, 0]
    assert progress[3].sparsity == pytest.approx(1 - parameters[3] / parameters[0])


def pruned(**changes):
    given = {"model_args": {"depth": 2, "width": 16}, "epochs": 4}
    return TrialConfig(**given | {"pruning_method": "filter", "pruning_ratio": 0.5} | changes)


def test_gradual_pruning_narrows_epoch_by_epoch(settings):
    config = pruned(pruning_schedule="gradual", prune_at=0.0).model_copy(
        update={"epochs": 8, "model_args": {"depth": 2, "width": 32}}
    )
    _, progress, [(_, report)] = run(config, settings)
    parameters = [p.parameters for p in progress]
    assert parameters == sorted(parameters, reverse=True)
    # Against the network before any of it went, which the first epoch no longer was.
    assert progress[-1].sparsity > 1 - parameters[-1] / parameters[0]
    assert len(set(parameters)) > 2
    assert parameters[3:] == [report.measurement.parameters] * 5
    assert report.forecast.size_bytes == report.measurement.size_bytes


def test_a_scope_that_follows_the_weights_meets_the_forecast_size(settings):
    _, _, [(_, report)] = run(pruned(pruning_scope="sensitivity"), settings)
    assert report.status is Status.MEASURED, report.reason
    assert not report.forecast.exact
    assert report.pruning["sensitivity"]
    assert 0.6 < report.measurement.parameters / report.forecast.parameters <= 1


def test_a_forecast_that_is_not_sure_ends_no_trial(settings):
    bounded = dataclasses.replace(settings, bounds={"size_bytes": (0, 1000)})
    _, _, [(_, report)] = run(pruned(pruning_scope="global"), bounded)
    assert report.status is Status.MEASURED


def test_a_trial_goes_on_from_a_network_trained_alike(settings, tmp_path):
    shared = dataclasses.replace(settings, shared_location=str(tmp_path / "networks"))
    first, second = (
        pruned(),
        pruned(pruning_criterion="l1").model_copy(update={"pruning_ratio": 0.25}),
    )
    _, _, [(_, parent)] = run(first, shared)
    _, progress, [(_, child)] = run(second, shared)
    _, alone_progress, [(_, alone)] = run(second, settings)
    assert parent.continued_from is None
    assert child.continued_from == first.trial_id
    assert [p.epoch for p in progress] == [3, 4]
    assert (parent.epochs_spent, child.epochs_spent, child.epochs_trained) == (4, 2, 4)
    # The very network that a training from scratch gives.
    assert [p.loss for p in progress] == [p.loss for p in alone_progress[2:]]
    assert child.measurement.accuracy == alone.measurement.accuracy
    assert progress[0].train_seconds > child.seconds["train"] / 2


def test_a_torn_network_is_trained_anew(settings, tmp_path):
    shared = dataclasses.replace(settings, shared_location=str(tmp_path / "networks"))
    run(pruned(), shared)
    [file] = (tmp_path / "networks").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    _, _, [(_, report)] = run(pruned(pruning_criterion="l1"), shared)
    assert report.continued_from is None
    assert report.epochs_spent == 4


def test_single_weights_pay_off_in_the_deflated_file_alone(settings):
    config = pruned().model_copy(update={"pruning_method": "weight", "pruning_ratio": 0.8})
    _, progress, [(_, report)] = run(config, settings)
    measured = report.measurement
    assert progress[-1].sparsity > 0.7 > progress[0].sparsity == 0
    assert measured.compressed_bytes < 0.5 * measured.size_bytes
    assert report.without_payoff[0].startswith("not smaller")
    assert report.pruning["parameters_after"] < 0.3 * measured.parameters


def test_siblings_cost_no_epoch_and_are_judged_for_themselves(settings):
    several = dataclasses.replace(settings, sibling_bits=((32, 32), (8, 8)))
    _, _, ended = run(TrialConfig(model_args=SMALL, epochs=1), several)
    assert [report.epochs_spent for _, report in ended] == [1, 0]
    assert [report.epochs_trained for _, report in ended] == [1, 1]
    plain, integer = (report for _, report in ended)
    assert plain.without_payoff == []
    whole = integer.measurement.uncompressed
    assert whole.size_bytes == plain.measurement.size_bytes
    assert not any(text.startswith("not smaller") for text in integer.without_payoff)


def test_quantization_aware_training_recovers_what_four_bits_lose(settings):
    def accuracy(quantization):
        config = TrialConfig(
            model_args={"depth": 3, "width": 4}, epochs=8, learning_rate=0.1, seed=1,
            weight_bits=4, activation_bits=8, quantization=quantization,
        )  # fmt: skip
        _, progress, [(_, report)] = run(config, settings)
        assert report.status is Status.MEASURED, report.reason
        assert report.measurement.parameters == report.forecast.parameters
        return progress[-1].accuracy, report.measurement

    memory, measured = accuracy("qat")
    assert measured.accuracy == pytest.approx(memory, abs=0.01)
    assert measured.max_disagreement < artifact.QAT_TOLERANCE
    assert measured.test_accuracy > accuracy("ptq")[1].test_accuracy


def test_a_quantization_aware_trial_has_no_siblings(settings):
    several = dataclasses.replace(settings, sibling_bits=((32, 32), (8, 8), (4, 8)))
    config = TrialConfig(
        model_args=SMALL, epochs=2, weight_bits=4, activation_bits=8, quantization="qat"
    )
    _, _, ended = run(config, several)
    assert [config.weight_bits for config, _ in ended] == [4]


def test_memory_of_training_grows_with_batch_and_width(settings):
    def peak(**changes):
        config = TrialConfig(epochs=1, **{"model_args": SMALL, "batch_size": 32} | changes)
        _, _, [(_, report)] = run(config, settings)
        return report.measurement.peak_memory_bytes

    small, large = peak(), peak(batch_size=128)
    assert 2 < large / small < 4.5
    assert peak(amp="bf16") < small
    assert peak() == small  # whatever this worker did before


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


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"torn", None])
def test_a_trial_whose_checkpoint_is_unusable_begins_again(settings, tmp_path, damage, caplog):
    fragile = dataclasses.replace(settings, running_location=str(tmp_path / "running"))
    config = TrialConfig(model_args=SMALL, epochs=2).canonical()
    Trial(config, fragile).step()
    (left,) = (tmp_path / "running").iterdir()
    left.write_bytes(left.read_bytes()[:-100] if damage is None else damage)
    progress, _ = Trial(config, fragile).step()
    assert progress.epoch == 1
    assert "begins again" in caplog.text


def test_a_trial_goes_on_without_checkpoints_where_the_storage_refuses(settings, tmp_path, caplog):
    (tmp_path / "taken").write_text("a file, where a folder should be")
    fragile = dataclasses.replace(settings, running_location=str(tmp_path / "taken"))
    _, progress, [(_, report)] = run(TrialConfig(model_args=SMALL, epochs=2), fragile)
    assert report.status is Status.MEASURED
    assert len(progress) == 2
    assert "no checkpoint" in caplog.text


def test_checkpoints_take_a_small_share_of_the_time(tmp_path, monkeypatch):
    file = running.RunningFile(str(tmp_path), "0123abcd")
    now = [0.0]
    monkeypatch.setattr(running.time, "monotonic", lambda: now[0])
    saved = []

    def save(location, head, state):
        saved.append(now[0])
        now[0] += 1.0

    monkeypatch.setattr(running, "save_checkpoint", save)
    for _ in range(100):
        file.save({}, dict)
        now[0] += 1.0
    assert len(saved) == pytest.approx(running.CHECKPOINT_SHARE * 100, abs=1)


def test_a_storage_that_cannot_take_the_model_is_not_the_trials_fault(settings, monkeypatch):
    def full(file, location):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trial_module, "write_and_read_back", full)
    with pytest.raises(StorageRefusedError, match=r"cannot write .*\.onnx: the disk is full"):
        run(TrialConfig(model_args=SMALL, epochs=1), settings)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_too_little_memory_is_said_with_what_helps(settings, monkeypatch, error):
    def train(self):
        raise error("tried to allocate 20 GiB\nand more")

    monkeypatch.setattr(Training, "train_epoch", train)
    trial, _, [(_, report)] = run(TrialConfig(model_args=SMALL), settings)
    assert report.status is Status.FAILED
    assert report.reason == (
        "out of memory: tried to allocate 20 GiB; try a smaller batch_size or network"
    )
    assert trial.training is None


@pytest.mark.parametrize(
    "changes",
    [
        {"pruning_schedule": "gradual", "prune_at": 0.2},
        {"pruning_scope": "sensitivity"},
        {"pruning_method": "weight", "pruning_schedule": "gradual", "prune_at": 0.2},
        {"quantization": "qat", "weight_bits": 4, "activation_bits": 8, "qat_at": 0.4},
    ],
)
@pytest.mark.parametrize("lost_after", [2, 3, 4])
def test_a_compressed_trial_that_is_lost_goes_on_bit_for_bit(
    settings, tmp_path, changes, lost_after
):
    config = pruned(**changes).model_copy(update={"epochs": 5}).canonical()
    kept = dataclasses.replace(settings, running_location=str(tmp_path / "running"))
    lost = Trial(config, kept)
    for _ in range(lost_after):
        lost.step()
    _, progress, [(_, report)] = run(config, kept)
    _, expected, [(_, whole)] = run(config, settings)
    assert report.resumed_from
    assert [p.loss for p in progress] == [p.loss for p in expected[progress[0].epoch - 1 :]]
    assert report.pruning["layers"].keys() == whole.pruning["layers"].keys()
    assert report.measurement.accuracy == whole.measurement.accuracy
    assert report.epochs_spent == whole.epochs_spent
