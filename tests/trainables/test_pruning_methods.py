"""Pruning methods by the contract, and what is theirs alone."""

from typing import get_args

import pytest
import torch
from torch import nn

from contracts.pruning_contract import EXAMPLE, PruningContract, build, look
from trainables.channel_groups import ChannelGroups
from trainables.config import DataConfig, TrialConfig, kept_channels
from trainables.data import load_data
from trainables.errors import PruningError
from trainables.importance import CHANNEL_SCORES
from trainables.models import build_model
from trainables.prune import FILTERS, PRUNING, How, prune_filters
from trainables.sensitivity import RATIOS, allocate, ratios_at
from trainables.train import Training


class TestFilter(PruningContract):
    @pytest.fixture
    def method(self):
        return "filter"


class TestNeuron(PruningContract):
    @pytest.fixture
    def method(self):
        return "neuron"


class TestWeight(PruningContract):
    @pytest.fixture
    def method(self):
        return "weight"


def test_every_name_of_the_config_is_registered():
    fields = TrialConfig.model_fields
    assert {"none", *PRUNING} == set(get_args(fields["pruning_method"].annotation))
    assert set(CHANNEL_SCORES) == set(get_args(fields["pruning_criterion"].annotation))


# --- neurons -------------------------------------------------------------------------------------


def test_hidden_units_leave_both_layers_and_nothing_else():
    model = build()
    convolutions = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    PRUNING["neuron"](model, How(0.5), example=EXAMPLE).step(1.0)
    assert (model.hidden.out_features, model.head.in_features) == (24, 24)
    assert model.head.out_features == 10
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == convolutions


def test_dead_units_go_first():
    model = build()
    with torch.no_grad():
        for dead in range(0, 48, 2):
            model.hidden.weight[dead] = 0
            model.hidden.bias[dead] = 0
    expected = model.eval()(EXAMPLE)
    PRUNING["neuron"](model, How(0.5), example=EXAMPLE).step(1.0)
    assert torch.allclose(model.eval()(EXAMPLE), expected, atol=1e-5)


def test_a_network_without_hidden_units_is_an_error():
    model = build_model("resnet18", {}, in_channels=3, image_size=32, classes=100, seed=0)
    with pytest.raises(PruningError, match="no linear layer"):
        PRUNING["neuron"](model, How(0.5), example=torch.randn(2, 3, 32, 32)).step(1.0)


# --- sizes and shares ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_parameters_are_counted_before_anything_goes(name):
    example = torch.randn(2, 3, 32, 32)
    model = build_model(name, {}, in_channels=3, image_size=32, classes=10, seed=0)
    groups = ChannelGroups(model, FILTERS, example)
    kept = {root: kept_channels(c.width, 0.4) for root, c in groups.by_root.items()}
    counted = groups.parameters_with(kept)
    assert counted == prune_filters(model, 0.4, example=example).parameters_after


def test_silenced_channels_answer_like_removed_ones_and_come_back():
    model = build().eval()
    groups = ChannelGroups(model, FILTERS, EXAMPLE)
    whole = model(EXAMPLE)
    root = next(iter(groups.by_root))
    with groups.silenced(root, list(range(8))):
        silent = model(EXAMPLE)
    assert torch.equal(model(EXAMPLE), whole)
    groups.remove({root: list(range(8))})
    assert torch.allclose(model(EXAMPLE), silent, atol=1e-5)
    assert not torch.allclose(silent, whole, atol=1e-3)


def test_a_layer_that_accuracy_depends_on_loses_less():
    curves = {"needed": [0.5, 0.6, 0.7, 0.8], "idle": [0.0, 0.0, 0.01, 0.02]}
    ratios = allocate(curves, lambda r: round(1000 * sum(1 - x for x in r.values())), 1200)
    assert ratios["idle"] > 0.5 > ratios["needed"]
    assert sum(1 - r for r in ratios.values()) == pytest.approx(1.2, abs=0.001)


def test_ratios_rise_with_the_allowed_drop():
    curves = {"a": [0.0, 0.1, 0.1, 0.4]}
    found = [ratios_at(curves, drop)["a"] for drop in (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)]
    assert found == sorted(found)
    assert found[-1] == RATIOS[-1]


def test_global_pruning_takes_from_where_weights_are_weak():
    model = build()
    with torch.no_grad():  # half of the second stage's channels, and all that goes with them
        for layer in model.stage2:
            if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
                layer.weight[16:] *= 1e-3
    pruner = PRUNING["filter"](model, How(0.3, scope="global"), example=EXAMPLE, look=look())
    pruner.step(1.0)
    narrow = [m.out_channels for m in model.stage2 if isinstance(m, nn.Conv2d)]
    wide = [m.out_channels for m in model.stage1 if isinstance(m, nn.Conv2d)]
    assert wide == [16, 16]
    assert narrow < [32, 32]


# --- single weights ------------------------------------------------------------------------------


def test_pruned_weights_stay_zero_through_the_optimiser(tmp_path):
    data = load_data(DataConfig(name="digits"), tmp_path)
    args = {"width": 8, "depth": 1}
    model = build_model("cnn", args, in_channels=1, image_size=8, classes=10, seed=0)
    config = TrialConfig(epochs=3, batch_size=64, momentum=0.9, weight_decay=1e-3)
    training = Training(config, model, data, device=torch.device("cpu"))
    training.train_epoch()  # momentum now pushes every weight
    example = torch.from_numpy(data.normalised(data.val.images[:2]))
    pruner = PRUNING["weight"](model, How(0.8), example=example)
    pruning = pruner.step(1.0)
    training.masks = pruner.masks
    training.train_epoch()
    weights = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    assert {n: int(w.count_nonzero()) for n, w in weights.items()} == {
        n: left for n, (_, left) in pruning.layers.items()
    }
    share = 1 - sum(int(w.count_nonzero()) for w in weights.values()) / sum(
        w.numel() for w in weights.values()
    )
    assert share == pytest.approx(0.8, abs=0.01)
    kept = {n: w[pruner.masks[n] == 1].clone() for n, w in weights.items()}
    training.train_epoch()
    assert not any(torch.equal(w[pruner.masks[n] == 1], kept[n]) for n, w in weights.items())


def test_a_model_without_layers_is_an_error():
    with pytest.raises(PruningError, match="no convolution and no linear layer"):
        PRUNING["weight"](nn.Sequential(nn.ReLU()), How(0.5), example=EXAMPLE).step(1.0)
