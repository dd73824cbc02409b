from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from trainables.config import DataConfig, TrialConfig, kept_channels
from trainables.data import load_data
from trainables.errors import PruningError
from trainables.models import build_model
from trainables.prune import PRUNING, prune_filters
from trainables.train import Training

MODELS = ["cnn", "resnet18", "mobilenet_v3_small"]
EXAMPLE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def build(name, seed=0, size=32, **args):
    return build_model(name, args, in_channels=3, image_size=size, classes=10, seed=seed)


def convolutions(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def widths(model):
    return {name: layer.out_channels for name, layer in convolutions(model).items()}


def all_widths(model):
    linear = {n: m.out_features for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    return widths(model) | linear


def parameters(model):
    return sum(p.numel() for p in model.parameters())


# --- what is left --------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_but_the_scores_keeps_what_the_ratio_says(name, ratio):
    model = build(name)
    *hidden, (scores, classes) = all_widths(model).items()
    expected = {n: kept_channels(w, ratio) for n, w in hidden}
    pruning = prune_filters(model, ratio, example=EXAMPLE)
    assert all_widths(model) == expected | {scores: classes}
    assert pruning.layers == {n: (w, expected[n]) for n, w in hidden if expected[n] < w}
    assert pruning.parameters_after == parameters(model)
    assert pruning.parameters_after < 0.7 * pruning.parameters_before


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("name", MODELS)
def test_the_pruned_model_still_trains(name, ratio):
    model = build(name)
    prune_filters(model, ratio, example=EXAMPLE)
    scores = model(torch.randn(4, 3, 32, 32))
    assert scores.shape == (4, 10)
    scores.square().sum().backward()
    for layer in model.modules():
        for parameter in layer.parameters(recurse=False):
            assert parameter.grad.shape == parameter.shape
    for layer in convolutions(model).values():
        assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)


@pytest.mark.parametrize("name", MODELS)
def test_the_shape_does_not_depend_on_the_weights(name):
    first, second = build(name, seed=1), build(name, seed=2)
    for model in (first, second):
        prune_filters(model, 0.5, example=EXAMPLE)
    assert [p.shape for p in first.parameters()] == [p.shape for p in second.parameters()]
    second.load_state_dict(first.state_dict())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_dead_channels_go_first_and_everywhere_the_same(name, ratio):
    """The same channels leave all coupled layers: else the scores would change."""
    model = build(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
                dead = torch.randperm(len(layer.weight), generator=generator.manual_seed(0))
                dead = dead[kept_channels(len(layer.weight), ratio) :]
                layer.weight[dead] = 0
                if layer.bias is not None:
                    layer.bias[dead] = 0
    expected = model.eval()(EXAMPLE)
    prune_filters(model, ratio, example=EXAMPLE)
    assert torch.allclose(model.eval()(EXAMPLE), expected, atol=1e-5)


def test_the_filters_of_least_norm_go():
    model = build("cnn", width=16, depth=1)
    with torch.no_grad():
        for i in (1, 2, 5, 7, 8, 11, 13, 15):
            for layer in (model.stage1[0], model.stage1[1]):
                layer.weight[i] *= 0.01
            model.stage1[3].weight[:, i] *= 0.01
    strong = model.stage1[0].weight[[0, 3, 4, 6, 9, 10, 12, 14]].clone()
    prune_filters(model, 0.5, example=EXAMPLE)
    assert torch.equal(model.stage1[0].weight, strong)


def test_hidden_layers_narrow_as_well_and_the_scores_stay():
    model = build("cnn", fc_width=48)
    prune_filters(model, 0.5, example=EXAMPLE)
    assert (model.hidden.in_features, model.hidden.out_features) == (64, 24)
    assert (model.head.in_features, model.head.out_features) == (24, 10)


def test_a_convolution_that_gives_the_scores_keeps_them():
    model = build("squeezenet1_1")
    prune_filters(model, 0.5, example=EXAMPLE)
    assert model.classifier[1].out_channels == 10
    assert model.classifier[1].in_channels == 256


def test_grouped_convolutions_keep_equal_groups():
    model = build("regnet_y_400mf")
    before = widths(model)
    prune_filters(model, 0.5, example=EXAMPLE)
    assert all(w % 8 == 0 or w == before[n] for n, w in widths(model).items())
    grouped = [m for m in convolutions(model).values() if m.groups > 1]
    assert grouped
    assert all(m.out_channels % m.groups == m.in_channels % m.groups == 0 for m in grouped)
    model(EXAMPLE).sum().backward()


@pytest.mark.parametrize("ratio", [0.05, 0.9, 0.999])
def test_no_layer_is_emptied(ratio):
    model = build("mobilenet_v3_small")
    prune_filters(model, ratio, example=EXAMPLE)
    assert min(widths(model).values()) >= 8


def test_narrow_layers_stay():
    model = build("cnn", width=6, depth=2)
    prune_filters(model, 0.75, example=EXAMPLE)
    assert list(widths(model).values()) == [6, 6, 8, 8]


def test_ratio_zero_and_layers_of_one_vector_change_nothing():
    for ratio, width in ((0.0, 16), (0.9, 8)):
        model = build("cnn", width=width, depth=1)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        pruning = prune_filters(model, ratio, example=EXAMPLE)
        assert pruning.layers == {}
        assert pruning.parameters_after == pruning.parameters_before
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("round_to", [1, 4, 16])
def test_widths_are_rounded_as_asked(round_to):
    model = build("cnn", width=32, depth=1)
    prune_filters(model, 0.3, example=EXAMPLE, round_to=round_to)
    assert set(widths(model).values()) == {kept_channels(32, 0.3, round_to)}


def test_a_bare_image_batch_of_one_is_enough():
    model = build("resnet18")
    prune_filters(model, 0.5, example=EXAMPLE[:1])
    assert model(EXAMPLE).shape == (2, 10)


# --- what stays as it was ------------------------------------------------------------------------


def test_generators_and_modes_stay_as_they_were():
    model = build("mobilenet_v3_small")
    model.features[3].eval()
    modes = [layer.training for layer in model.modules()]
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(3)
    np.random.seed(3)
    prune_filters(model, 0.5, example=EXAMPLE)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    assert [layer.training for layer in model.modules()] == modes


def test_pruned_weights_and_running_averages_are_the_old_ones():
    model = build("cnn", width=16, depth=1)
    model(EXAMPLE)
    norm = model.stage1[1]
    old = {round(v, 6) for v in norm.running_mean.tolist()}
    prune_filters(model, 0.5, example=EXAMPLE)
    assert {round(v, 6) for v in norm.running_mean.tolist()} < old


def test_training_goes_on_after_pruning(tmp_path):
    data = load_data(DataConfig(name="digits"), tmp_path)
    model = build_model(
        "cnn", {"width": 16, "depth": 2}, in_channels=1, image_size=8, classes=10, seed=0
    )
    config = TrialConfig(epochs=4, batch_size=32)
    training = Training(config, model, data, device=torch.device("cpu"))
    training.train_epoch()
    example = torch.from_numpy(data.normalised(data.val.images[:2]))
    prune_filters(model, 0.5, example=example)
    training.replace_parameters()
    for _ in range(3):
        training.train_epoch()
    assert training.evaluate(data.val) > 0.9
    reloaded = build_model(
        "cnn", {"width": 16, "depth": 2}, in_channels=1, image_size=8, classes=10, seed=0
    )
    prune_filters(reloaded, 0.5, example=example)
    again = Training(config, reloaded, data, device=torch.device("cpu"))
    again.load_state_dict(training.state_dict())
    assert again.evaluate(data.val) == training.evaluate(data.val)


# --- silent failures, said -----------------------------------------------------------------------


def test_frozen_layers_are_named():
    model = build("resnet18")
    model.layer1.requires_grad_(False)
    with pytest.raises(PruningError, match=r"layer1\.0\.conv1.*requires_grad"):
        prune_filters(model, 0.5, example=EXAMPLE)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_could_be_traced(context):
    with context(), pytest.raises(PruningError, match="no_grad"):
        prune_filters(build("cnn"), 0.5, example=EXAMPLE)


def test_a_model_that_cannot_lose_channels_is_an_error():
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(PruningError, match=r"nothing was pruned at ratio 0\.5"):
        prune_filters(model, 0.5, example=EXAMPLE)


class Detached(nn.Module):
    """The graph ends in the middle, so the first convolution is not found."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3)
        self.head = nn.Linear(32, 10)

    def forward(self, images):
        return self.head(self.second(self.first(images).detach()).mean((2, 3)))


def test_a_convolution_that_tracing_misses_is_an_error():
    with pytest.raises(PruningError, match=r"no gradient flows .* to first"):
        prune_filters(Detached(), 0.5, example=EXAMPLE)


def test_a_model_out_of_reach_is_an_error():
    with pytest.raises(PruningError, match="cannot handle this ShuffleNetV2"):
        prune_filters(build("shufflenet_v2_x0_5"), 0.5, example=EXAMPLE)


def test_every_method_of_the_config_is_registered():
    methods = get_args(TrialConfig.model_fields["pruning_method"].annotation)
    assert {"none", *PRUNING} == set(methods)
