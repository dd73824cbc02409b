import sys
import types

import pytest
import torch
from torch import fx, nn

from trainables.config import cnn_widths
from trainables.errors import ModelError
from trainables.models import LOCAL, build_model


def build(name, size=32, channels=3, classes=10, seed=0, **args):
    return build_model(
        name, args, in_channels=channels, image_size=size, classes=classes, seed=seed
    )


def convolutions(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]


def last_map(model, size, channels=3):
    """Size of what the last convolution gives."""
    sizes = []
    for layer in convolutions(model):
        layer.register_forward_hook(lambda layer, inputs, output: sizes.append(output.shape[-1]))
    with torch.no_grad():
        model.eval()(torch.zeros(2, channels, size, size))
    return sizes[-1]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- every model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "resnet18", "mobilenet_v3_small"])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3), (64, 3)])
def test_models_train_on_small_images(name, size, channels):
    model = build(name, size, channels, classes=7)
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    scores = model(torch.randn(3, channels, size, size))
    assert scores.shape == (3, 7)
    scores.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["cnn", "squeezenet1_1"])
def test_weights_follow_from_the_seed_alone(name):
    torch.manual_seed(1)
    first = weights(build(name, seed=5))
    torch.manual_seed(2)
    assert torch.equal(first, weights(build(name, seed=5)))
    assert not torch.equal(first, weights(build(name, seed=6)))


@pytest.mark.parametrize("name", ["cnn", "mobilenet_v3_small"])
def test_the_global_generator_stays_as_it_was(name):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build(name)
    assert torch.equal(torch.rand(4), expected)


def test_building_does_not_touch_the_running_averages():
    model = build("cnn")
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(int(norm.num_batches_tracked) == 0 for norm in norms)


# --- cnn -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("fc_width", [0, 24])
def test_cnn_has_the_widths_that_its_config_says(depth, fc_width):
    model = build("cnn", depth=depth, width=4, fc_width=fc_width)
    found = [layer.out_channels for layer in convolutions(model)]
    expected = cnn_widths({"depth": depth, "width": 4})
    assert found == [w for w in expected for _ in range(2)]
    assert (model.head.in_features == fc_width) == bool(fc_width)


@pytest.mark.parametrize(
    ("size", "depth", "expected"), [(8, 3, 4), (8, 5, 4), (7, 3, 7), (32, 3, 8), (28, 4, 7)]
)
def test_cnn_halves_the_map_while_it_has_8_pixels(size, depth, expected):
    assert last_map(build("cnn", size, depth=depth), size) == expected


def test_cnn_keeps_the_map_with_any_kernel():
    assert last_map(build("cnn", 16, depth=1, kernel_size=5), 16) == 16


def test_cnn_traces_to_plain_module_calls():
    graph = fx.symbolic_trace(build("cnn", fc_width=8)).graph
    assert {node.op for node in graph.nodes} == {"placeholder", "call_module", "output"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"width": 1.5}, r"width is 1\.5"),
        ({"kernel_size": 4}, "kernel_size is 4; it must be odd"),
        ({"fc_width": -1}, "fc_width is -1"),
        ({"widht": 8}, "'widht'.*signature.*width"),
        ({"classes": 3}, "classes follow from the data"),
    ],
)
def test_cnn_refuses_wrong_arguments(args, message):
    with pytest.raises(ModelError, match=message):
        build_model("cnn", args, in_channels=1, image_size=8, classes=2, seed=0)


def test_a_local_model_is_one_function_and_one_line(monkeypatch):
    def linear(in_channels, image_size, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, classes))

    monkeypatch.setitem(LOCAL, "linear", linear)
    assert build("linear", 8, 1)[1].in_features == 64


# --- torchvision ---------------------------------------------------------------------------------


def test_resnet_gets_the_small_stem():
    model = build("resnet18")
    assert model.conv1.kernel_size == (3, 3)
    assert model.conv1.stride == (1, 1)
    assert isinstance(model.maxpool, nn.Identity)
    assert last_map(model, 32) == 4


def test_large_images_keep_the_original_model():
    model = build("resnet18", 96)
    assert model.conv1.kernel_size == (7, 7)
    assert isinstance(model.maxpool, nn.MaxPool2d)


@pytest.mark.parametrize(
    "name",
    [
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "mnasnet0_5",
        "mobilenet_v2",
        "regnet_y_400mf",
        "resnext50_32x4d",
        "shufflenet_v2_x0_5",
        "squeezenet1_0",
    ],
)
def test_other_families_keep_a_map_of_4_pixels(name):
    model = build(name, 32, channels=1)
    assert convolutions(model)[0].in_channels == 1
    assert last_map(model, 32, channels=1) >= 4


def test_mobilenet_at_64_pixels_loses_only_its_first_stride():
    original = build("mobilenet_v3_small", 96)
    adapted = build("mobilenet_v3_small", 64)
    strides = [
        (old.stride, new.stride)
        for old, new in zip(convolutions(original), convolutions(adapted), strict=True)
    ]
    assert [i for i, (old, new) in enumerate(strides) if old != new] == [0]


def test_model_arguments_reach_torchvision():
    model = build("mobilenet_v3_small", dropout=0.5)
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.5]


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("resnet81", {}, "'resnet81' is unknown; close names: resnet"),
        ("resnet18", {"depth": 3}, "resnet18 does not take .*depth"),
        ("resnet18", {"weights": "DEFAULT"}, "resnet18 does not take .*weights"),
        ("maxvit_t", {}, r"maxvit_t cannot take images of 3 x 32 x 32: .*tried: stem\.0\.0"),
    ],
)
def test_what_torchvision_cannot_do_is_said(name, args, message):
    with pytest.raises(ModelError, match=message):
        build(name, **args)


# --- imported functions --------------------------------------------------------------------------


@pytest.fixture
def factories(monkeypatch):
    module = types.ModuleType("users_models")
    monkeypatch.setitem(sys.modules, "users_models", module)
    return module


def flat(in_channels, classes, hidden=4):
    layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, hidden))
    return nn.Sequential(*layers, nn.Linear(hidden, classes)).double()


def test_an_imported_function_gets_what_it_takes(factories):
    factories.flat = flat
    model = build("users_models:flat", 16, classes=3, hidden=6)
    assert model[2].out_features == 6
    assert model[2].weight.dtype == torch.float32


def test_a_function_with_keywords_gets_everything(factories):
    factories.flat = lambda **given: flat(given["in_channels"], given["classes"])
    assert build("users_models:flat")[3].out_features == 10


def fails(**given):
    raise KeyError("boom")


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        (flat, {"depth": 2}, "users_models:f: .*'depth'"),
        (flat, {"in_channels": 2}, "in_channels follow from the data"),
        (lambda: 3, {}, "users_models:f gave int"),
        (fails, {}, "users_models:f.*boom"),
        (lambda classes: nn.Conv2d(3, classes, 1), {}, r"gives \(2, 10, 32, 32\) for 2 images"),
        (lambda classes: nn.Linear(3, classes), {}, "cannot take images of 3 x 32 x 32"),
        (lambda: nn.LSTM(32, 4), {}, "users_models:f cannot take images"),
        ("text", {}, "is a str, not a function"),
        (dict, {}, r"users_models:f: no signature.*Python function around it"),
    ],
)
def test_wrong_functions_are_named(factories, function, args, message):
    factories.f = function
    with pytest.raises(ModelError, match=message):
        build_model("users_models:f", args, in_channels=3, image_size=32, classes=10, seed=0)


@pytest.mark.parametrize("name", ["no_such_module:f", "users_models:missing", ":f"])
def test_what_cannot_be_imported_is_named(factories, name):
    with pytest.raises(ModelError, match=f"{name} cannot be imported"):
        build(name)
