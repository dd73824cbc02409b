import doctest
import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from trainables import train
from trainables.augment import AUGMENTATIONS, crop, flip
from trainables.config import DataConfig, TrialConfig
from trainables.data import ImageData, Split, load_data
from trainables.errors import DivergedError
from trainables.models import build_model
from trainables.train import OPTIMIZERS, Training, parameter_groups, schedule

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_data(DataConfig(name="digits"), tmp_path_factory.mktemp("cache"))


def made_data(count, size=8, seed=0):
    """Bright and dark images, in two classes."""
    labels = np.arange(count) % 2
    noise = np.random.default_rng(seed).integers(0, 60, (count, 1, size, size))
    split = Split((noise + 150 * labels[:, None, None, None]).astype(np.uint8), labels)
    mean, std = np.full(1, 0.4, np.float32), np.full(1, 0.3, np.float32)
    return ImageData("made", ("dark", "bright"), split, split, split, mean, std, "0")


def network(data, width=4, depth=1):
    return build_model(
        "cnn",
        {"width": width, "depth": depth},
        in_channels=data.channels,
        image_size=data.image_size,
        classes=len(data.classes),
        seed=0,
    )


def training(data, model=None, **settings):
    settings = {"epochs": 4, "batch_size": 16, **settings}
    return Training(TrialConfig(**settings), model or network(data), data, device=CPU)


def weights(training):
    return torch.cat([t.detach().flatten() for t in training.model.state_dict().values()])


class Scaled(nn.Module):
    """Multiplies the gradients of the batches named in `bad` by infinity."""

    def __init__(self, inner, bad):
        super().__init__()
        self.inner, self.bad, self.calls = inner, bad, 0

    def forward(self, images):
        scores = self.inner(images)
        if self.training:
            self.calls += 1
            if self.calls in self.bad:
                scores.register_hook(lambda gradient: gradient * math.inf)
        return scores


# --- learning ------------------------------------------------------------------------------------


def test_digits_are_learned(digits):
    learner = training(digits, network(digits, width=8, depth=2), batch_size=32)
    before = learner.evaluate(digits.val)
    stats = [learner.train_epoch() for _ in range(4)]
    assert stats[-1].loss < stats[0].loss / 2
    assert learner.evaluate(digits.val) > max(0.85, before)
    assert learner.epoch == 4
    assert stats[-1].loss_scale == 1
    assert stats[-1].skipped_steps == 0
    assert stats[-1].seconds > 0


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
def test_every_optimizer_learns_under_every_amp(optimizer, amp):
    data = made_data(64)
    learner = training(data, optimizer=optimizer, amp=amp, learning_rate=0.02, batch_size=8)
    for _ in range(4):
        stats = learner.train_epoch()
    assert learner.evaluate(data.val) == 1
    assert stats.loss < 0.5
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}


def test_amp_computes_in_its_type_and_evaluation_does_not():
    data = made_data(8)
    learner = training(data, amp="bf16")
    types = []
    learner.model[0][0].register_forward_hook(lambda layer, inputs, out: types.append(out.dtype))
    learner.train_epoch()
    learner.evaluate(data.val)
    assert types == [torch.bfloat16, torch.float32]


def test_label_smoothing_and_the_loss_are_those_of_the_first_batch():
    data = made_data(16)
    model = network(data)
    learner = training(data, model, label_smoothing=0.2, epochs=1)
    images = torch.from_numpy(data.normalised(data.train.images))
    labels = torch.from_numpy(data.train.labels)
    scores = network(data)(images)  # the same weights
    expected = functional.cross_entropy(scores, labels, label_smoothing=0.2).item()
    assert learner.train_epoch().loss == pytest.approx(expected, rel=1e-4)


def test_every_image_is_seen_once_per_epoch_in_a_new_order():
    data = made_data(50)
    learner = training(data, batch_size=16)
    orders = []
    for learner.epoch in (0, 1):
        batches = [images for images, _ in learner._epoch_batches()]
        assert [len(images) for images in batches] == [16, 16, 16, 2]
        orders.append(torch.cat(batches).flatten(1).sum(1))
    assert torch.allclose(orders[0].sort().values, orders[1].sort().values)
    assert not torch.equal(*orders)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_training_images_are_augmented_as_configured(name):
    data = made_data(40)
    plain, changed = (
        torch.cat([images for images, _ in training(data, augmentation=n)._epoch_batches()])
        for n in ("none", name)
    )
    assert torch.equal(plain, changed) == (name == "none")


def test_batches_are_normalised_like_the_artifacts_input():
    data = made_data(8)
    learner = training(data, batch_size=8)
    assert torch.equal(
        learner.batches.to_device(data.train.images),
        torch.from_numpy(data.normalised(data.train.images)),
    )


@pytest.mark.parametrize(
    ("count", "batch_size", "expected"),
    [(32, 16, [16, 16]), (33, 16, [16, 16]), (34, 16, [16, 16, 2]), (3, 16, [3]), (3, 1, [1] * 3)],
)
def test_a_last_batch_of_one_image_is_left_out(count, batch_size, expected):
    learner = training(made_data(count), batch_size=batch_size)
    assert [len(images) for images, _ in learner._epoch_batches()] == expected
    assert learner.batches.per_epoch == len(expected)
    learner.train_epoch()


def test_evaluation_counts_all_images_and_changes_nothing(monkeypatch):
    data = made_data(50)
    learner = training(data)
    before = weights(learner)
    whole = learner.evaluate(data.val)
    monkeypatch.setattr(train, "EVALUATION_PIXELS", 7 * data.image_size**2)
    assert learner.evaluate(data.val) == whole
    assert learner.model.training
    assert torch.equal(weights(learner), before)
    images = torch.from_numpy(data.normalised(data.val.images))
    with torch.no_grad():
        answers = learner.model.eval()(images).argmax(1).numpy()
    assert whole == (answers == data.val.labels).mean()


# --- the same again ------------------------------------------------------------------------------


def dropout_network(data):
    return nn.Sequential(network(data)[:-1], nn.Dropout(0.5), nn.Linear(4, len(data.classes)))


def test_training_follows_from_the_seed_alone():
    data = made_data(40)

    def run(global_seed, seed):
        torch.manual_seed(1)
        learner = training(data, dropout_network(data), seed=seed, augmentation="crop_flip")
        torch.manual_seed(global_seed)
        learner.train_epoch()
        return weights(learner)

    assert torch.equal(run(1, seed=0), run(2, seed=0))
    assert not torch.equal(run(1, seed=0), run(1, seed=1))


def test_the_global_generator_stays_as_it_was():
    data = made_data(40)
    learner = training(data, dropout_network(data), augmentation="crop")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    learner.train_epoch()
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_reloaded_training_goes_on_bit_for_bit(amp, optimizer):
    data = made_data(40)
    settings = {"amp": amp, "optimizer": optimizer, "augmentation": "crop", "learning_rate": 0.01}
    # One overflow, so that the loss scale is no longer the first one.
    bad = {2} if amp == "fp16" else set()
    first = training(data, Scaled(dropout_network(data), bad), **settings)
    first.train_epoch()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    second = training(data, Scaled(dropout_network(data), set()), **settings)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.epoch == 1
    for _ in range(2):
        one, other = first.train_epoch(), second.train_epoch()
        assert one.loss == other.loss
        assert one.learning_rate == other.learning_rate
        assert one.loss_scale == other.loss_scale
    assert torch.equal(weights(first), weights(second))


# --- schedule and optimiser ----------------------------------------------------------------------


def test_schedule_examples():
    assert doctest.testmod(train).failed == 0
    assert doctest.testmod(train).attempted > 0


@pytest.mark.parametrize("warmup_share", [0.0, 0.1, 0.33, 0.99])
def test_schedule_rises_to_its_peak_and_falls_to_zero(warmup_share):
    steps = 97  # so that the warm-up ends between two steps
    rates = [schedule(step, steps, warmup_share) for step in range(steps + 1)]
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0.96 < max(rates) <= 1
    assert rates[0] > 0
    assert rates[steps] == 0
    assert peak == pytest.approx(steps * warmup_share, abs=1)


def test_the_schedule_spans_all_epochs():
    learner = training(made_data(32), learning_rate=0.2, warmup_share=0.25)
    rates = [learner.train_epoch().learning_rate for _ in range(4)]
    assert rates[0] == pytest.approx(0.2)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.2 * schedule(7, 8, 0.25))


def test_norms_and_biases_do_not_decay():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    decayed, spared = parameter_groups(model, 0.1)
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert [p.ndim for p in spared["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, True)])
def test_sgd_is_nesterov_with_momentum(momentum, nesterov):
    optimizer = training(made_data(8), momentum=momentum).optimizer
    assert optimizer.param_groups[0]["nesterov"] == nesterov
    assert optimizer.param_groups[0]["momentum"] == momentum


def test_replaced_parameters_are_trained_and_the_schedule_goes_on():
    data = made_data(32)
    learner = training(data)
    learner.train_epoch()
    expected = learner.config.learning_rate * schedule(3, 8, 0.1)
    learner.model.head = nn.Linear(4, 2)
    learner.replace_parameters()
    assert not learner.optimizer.state
    before = learner.model.head.weight.detach().clone()
    assert learner.train_epoch().learning_rate == pytest.approx(expected)
    assert not torch.equal(learner.model.head.weight, before)


# --- what goes wrong -----------------------------------------------------------------------------


def test_fp16_skips_overflowing_steps_and_halves_the_scale():
    data = made_data(64)
    learner = training(data, Scaled(network(data), bad={2, 3}), amp="fp16")
    scale = learner.scaler.get_scale()
    stats = learner.train_epoch()
    assert stats.skipped_steps == 2
    assert stats.loss_scale == scale / 4
    assert math.isfinite(stats.loss)
    assert learner.train_epoch().skipped_steps == 0


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_without_loss_scaling_an_infinite_gradient_is_divergence(amp):
    data = made_data(64)
    learner = training(data, Scaled(network(data), bad={4}), amp=amp)
    with pytest.raises(DivergedError, match="epoch 1: weights or running averages"):
        learner.train_epoch()


def test_an_infinite_loss_is_divergence_even_with_finite_gradients():
    data = made_data(64)
    model = network(data)
    calls = iter(range(100))
    model.head.register_forward_hook(
        lambda layer, inputs, out: out - torch.tensor([0, math.inf if next(calls) == 1 else 0])
    )
    with pytest.raises(DivergedError, match="epoch 1: the loss is inf"):
        training(data, model).train_epoch()


def test_a_huge_learning_rate_diverges_with_advice():
    data = made_data(64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    learner = training(data, model, learning_rate=100, warmup_share=0, epochs=20)
    with pytest.raises(DivergedError, match=r"epoch \d+: .*learning_rate 100.*try a lower"):
        [learner.train_epoch() for _ in range(20)]


class Overflowing(nn.Module):
    """Its activations do not fit float16, so no loss scale can help."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 2)

    def forward(self, images):
        return self.head(images.flatten(1)) * 1e6


def test_fp16_activations_that_always_overflow_diverge():
    learner = training(made_data(32), Overflowing(), amp="fp16")
    with pytest.raises(DivergedError, match=r"amp fp16.*bf16 or none"):
        learner.train_epoch()


def test_an_overflow_that_spoils_the_running_averages_is_divergence():
    data = made_data(64)
    model = network(data)
    calls = iter(range(100))
    convolution = model[0][0]
    convolution.register_forward_hook(
        lambda layer, inputs, out: out * math.inf if next(calls) == 1 else None
    )
    learner = training(data, model, amp="fp16")
    with pytest.raises(DivergedError, match="running averages are not finite"):
        learner.train_epoch()


# --- augmentation --------------------------------------------------------------------------------


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crop_shifts_by_up_to_an_eighth():
    images = torch.zeros(400, 2, 16, 16)
    images[:, :, 8, 8] = 1
    shifted = crop(images, generator())
    places = shifted[:, 0].flatten(1).argmax(1)
    rows, columns = places // 16 - 8, places % 16 - 8
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}
    assert torch.all(shifted.sum((2, 3)) == 1)
    assert torch.equal(shifted[:, 0], shifted[:, 1])  # channels stay together


def test_crop_is_a_window_of_the_padded_image():
    images = torch.randn(6, 3, 8, 8)
    offsets = torch.randint(3, (2, 6), generator=generator(4))
    expected = torch.stack(
        [
            functional.pad(image, (1, 1, 1, 1))[:, y : y + 8, x : x + 8]
            for image, y, x in zip(images, *offsets.tolist(), strict=True)
        ]
    )
    assert torch.equal(crop(images, generator(4)), expected)


def test_flip_mirrors_about_half_of_the_images():
    images = torch.arange(4.0).repeat(400, 1, 4, 1)
    flipped = flip(images, generator())
    mirrored = (flipped == images.flip(3)).all(dim=(1, 2, 3))
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    assert 150 < mirrored.sum() < 250


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
@pytest.mark.parametrize("size", [4, 8, 17])
def test_augmentations_keep_shape_and_follow_their_generator(name, size):
    images = torch.randn(5, 3, size, size)
    original = images.clone()
    augment = AUGMENTATIONS[name]
    first = augment(images, generator(1))
    assert first.shape == images.shape
    assert torch.equal(first, augment(images, generator(1)))
    assert torch.equal(images, original)
    assert torch.equal(first, images) == (name == "none" or (name == "crop" and size < 8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
@pytest.mark.parametrize("resident", [True, False])
def test_training_on_a_gpu(digits, amp, resident, monkeypatch):
    monkeypatch.setattr(train, "fits_on_gpu", lambda size_bytes, device: resident)
    config = TrialConfig(amp=amp, epochs=4, batch_size=32, augmentation="crop")
    learner = Training(config, network(digits, 8, 2), digits, device=torch.device("cuda"))
    for _ in range(4):
        learner.train_epoch()
    assert learner.evaluate(digits.val) > 0.85
