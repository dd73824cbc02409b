import copy
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from trainables import export
from trainables.errors import ExportError
from trainables.export import count_parameters, export_float, serialise
from trainables.fx_to_onnx import UnknownOperatorError, write
from trainables.graph import Graph

SIZE = 16
TOLERANCE = 1e-4


def stirred(model, seed=0):
    """Give batch norms and biases values that a mistake would show in."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            low, high = (0.5, 1.5) if name.endswith("running_var") else (-0.3, 0.3)
            tensor.data.uniform_(low, high, generator=generator)
    return model.eval()


def images(n=3, size=SIZE, channels=3):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def run(proto, batch):
    session = onnxruntime.InferenceSession(
        serialise(proto, {}), providers=["CPUExecutionProvider"]
    )
    return session.run(["logits"], {"images": batch.numpy()})[0]


def assert_agrees(model, proto, batch):
    with torch.no_grad():
        expected = model(batch).numpy()
    np.testing.assert_allclose(
        run(proto, batch), expected, atol=TOLERANCE * max(1, np.abs(expected).max())
    )


def operators(proto):
    return [node.op_type for node in proto.graph.node]


@pytest.fixture
def fast_only(monkeypatch):
    """Fail where the official exporter would have to help."""

    def refuse(model, example, unknown):
        raise AssertionError(f"the fast way does not know {unknown!r}")

    monkeypatch.setattr(export, "_export_officially", refuse)


class Body(nn.Module):
    """A classifier around what is under test, which takes and gives 8 channels of any size."""

    def __init__(self, body):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = body
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(
            torch.flatten(functional.adaptive_avg_pool2d(self.body(self.stem(x)), 1), 1)
        )


class Call(nn.Module):
    """A function as a layer; torch.fx looks through it."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# --- operators that the fast way writes ----------------------------------------------------------

LAYERS = {
    "grouped": nn.Conv2d(8, 8, 3, groups=4),
    "depthwise": nn.Conv2d(8, 8, 3, groups=8, padding=1, bias=False),
    "dilated": nn.Conv2d(8, 8, 3, dilation=2, stride=2),
    "same": nn.Conv2d(8, 8, (2, 4), padding="same"),
    "valid": nn.Conv2d(8, 8, 3, padding="valid"),
    "relu": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu tanh": nn.GELU(approximate="tanh"),
    "tanh": nn.Tanh(),
    "softmax": nn.Softmax(dim=1),
    "log softmax": nn.LogSoftmax(dim=1),
    "max pool": nn.MaxPool2d(3, stride=2, padding=1),
    "max pool up": nn.MaxPool2d(3, stride=2, ceil_mode=True),
    "avg pool": nn.AvgPool2d(3, stride=2, padding=1),
    "avg pool inside": nn.AvgPool2d(3, padding=1, count_include_pad=False),
    "dropped": nn.Sequential(nn.Dropout(), nn.Identity(), nn.Dropout2d()),
    "norm first": nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)),
    "norm without affine": nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8, affine=False)),
    "stochastic depth": torchvision.ops.StochasticDepth(0.5, "row"),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.usefixtures("fast_only")
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_written_as_it_computes(name):
    model = stirred(Body(copy.deepcopy(LAYERS[name])))
    assert_agrees(model, export_float(model, channels=3, image_size=SIZE), images())


CALLS = {
    "relu": functional.relu,
    "method relu": lambda x: x.relu(),
    "inplace relu": lambda x: functional.relu(x, inplace=True),
    "relu6": functional.relu6,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
    "silu": functional.silu,
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "max pool": lambda x: functional.max_pool2d(x, 3, 2, 1),
    "max pool up": lambda x: functional.max_pool2d(x, 2, ceil_mode=True),
    "avg pool": lambda x: functional.avg_pool2d(x, 2),
    "dropout": lambda x: functional.dropout(x, 0.5, False),
    "residual": lambda x: functional.relu(x) + x,
    "residual inplace": lambda x: torch.tanh(x).add_(x),
    "gate": lambda x: x * torch.sigmoid(functional.adaptive_avg_pool2d(x, (1, 1))),
    "gate by mean": lambda x: x * x.mean((2, 3), keepdim=True),
    "constants": lambda x: (1 - x) * 2 / 3 + 0.5,
    "torch arithmetic": lambda x: torch.div(torch.add(torch.mul(x, x), torch.sub(x, 1)), 2),
}


@pytest.mark.usefixtures("fast_only")
@pytest.mark.parametrize("name", CALLS)
def test_a_functional_call_is_written_as_it_computes(name):
    model = stirred(Body(Call(CALLS[name])))
    assert_agrees(model, export_float(model, channels=3, image_size=SIZE), images())


HEADS = {
    "flatten": lambda x: torch.flatten(x, 1),
    "method flatten": lambda x: x.flatten(1),
    "layer flatten": nn.Flatten(),
    "view": lambda x: x.view(x.size(0), -1),
    "reshape": lambda x: x.reshape(x.shape[0], -1),
    "mean": lambda x: x.mean([2, 3]),
    "torch mean": lambda x: torch.mean(x, dim=(-1, -2)),
}


@pytest.mark.usefixtures("fast_only")
@pytest.mark.parametrize("name", HEADS)
def test_every_way_to_flatten_is_known(name):
    model = stirred(nn.Sequential(nn.Conv2d(3, 8, 4), Call(HEADS[name]), nn.Linear(8, 5)))
    assert_agrees(model, export_float(model, channels=3, image_size=4), images(size=4))


@pytest.mark.usefixtures("fast_only")
def test_concatenation_and_parameters_of_the_model_are_written():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)
            self.scale = nn.Parameter(torch.ones(4, 1, 1))
            self.head = nn.Linear(8, 5)

        def forward(self, x, mask=None):
            x = self.stem(x)
            x = torch.cat((x * self.scale, functional.relu(x)), dim=1)
            return self.head(x.mean((2, 3)))

    model = stirred(Model())
    assert_agrees(model, export_float(model, channels=3, image_size=SIZE), images())


@settings(deadline=None, max_examples=25)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    padding=st.sampled_from([0, 1, (1, 2), "valid"]),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 8]),
    bias=st.booleans(),
)
def test_any_convolution_agrees(kernel, stride, padding, dilation, groups, bias):
    conv = nn.Conv2d(8, 8, kernel, stride, padding, dilation, groups, bias)
    model = stirred(Body(nn.Sequential(conv, nn.BatchNorm2d(8))))
    proto = export_float(model, channels=3, image_size=SIZE)
    assert_agrees(model, proto, images())
    assert "BatchNormalization" not in operators(proto)


# --- batch norm ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("fast_only")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_known_networks_take_the_fast_way_without_a_batch_norm_left(name):
    model = stirred(getattr(torchvision.models, name)(num_classes=10))
    proto = export_float(model, channels=3, image_size=32)
    assert_agrees(model, proto, images(size=32))
    assert "BatchNormalization" not in operators(proto)


@pytest.mark.usefixtures("fast_only")
def test_one_layer_under_two_batch_norms_is_folded_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.head = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))

        def forward(self, x):
            x = self.second(self.conv(self.first(self.conv(x))))
            return self.head(x.mean((2, 3)))

    model = stirred(Twice())
    proto = export_float(model, channels=3, image_size=SIZE)
    assert_agrees(model, proto, images())
    assert "BatchNormalization" not in operators(proto)


@pytest.mark.usefixtures("fast_only")
def test_a_batch_norm_stays_where_others_read_what_it_reads():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

        def forward(self, x):
            x = self.conv(x)
            return (self.norm(x) + x).mean((2, 3))

    model = stirred(Shared())
    proto = export_float(model, channels=3, image_size=SIZE)
    assert_agrees(model, proto, images())
    assert "BatchNormalization" in operators(proto)


# --- the contract of the file --------------------------------------------------------------------


def small():
    return Body(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)))


def test_the_file_takes_any_number_of_images():
    proto = export_float(small(), channels=3, image_size=SIZE)
    batch = images(5)
    one_by_one = np.concatenate([run(proto, batch[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(run(proto, batch), one_by_one, atol=1e-5)
    shapes = [
        [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    ]
    assert shapes == [["N", 3, SIZE, SIZE], ["N", 5]]
    assert (proto.ir_version, proto.opset_import[0].version) == (10, 21)


def test_the_model_is_left_as_it_is():
    model = small().train()
    before = copy.deepcopy(model.state_dict())
    export_float(model, channels=3, image_size=SIZE)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_metadata_is_written_sorted_and_the_given_graph_is_not_touched():
    proto = export_float(small(), channels=3, image_size=SIZE)
    before = proto.SerializeToString()
    file = serialise(proto, {"b": "2", "a": "1"})
    assert proto.SerializeToString() == before
    assert file == serialise(proto, {"a": "1", "b": "2"})
    props = onnx.load_from_string(file).metadata_props
    assert [(p.key, p.value) for p in props] == [("a", "1"), ("b", "2")]


def test_an_invalid_graph_is_not_serialised():
    proto = export_float(small(), channels=3, image_size=SIZE)
    proto.graph.node[0].op_type = "Convolute"
    with pytest.raises(ExportError, match="Convolute"):
        serialise(proto, {})


def test_parameters_are_counted_frozen_or_not():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    model[0].weight.requires_grad_(False)
    assert count_parameters(model) == 3 * 8 * 9 + 8 + 8 + 8


# --- what the fast way refuses -------------------------------------------------------------------


REFUSED = {
    "group norm": (nn.GroupNorm(2, 8), "GroupNorm"),
    "circular": (nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), "circular"),
    "ceil": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), "ceil_mode"),
    "skipping ceil": (nn.MaxPool2d(1, 2, ceil_mode=True), "ceil_mode"),
    "indices": (nn.MaxPool2d(2, return_indices=True), "indices"),
    "divisor": (nn.AvgPool2d(2, divisor_override=3), "divisor"),
    "pool to 7": (nn.AdaptiveAvgPool2d(7), r"AdaptiveAvgPool2d to 7"),
    "statistics": (nn.BatchNorm2d(8, track_running_stats=False), "running statistics"),
    "always on": (lambda x: functional.dropout(x, 0.5), "dropout"),
    "scaled sum": (lambda x: torch.add(x, x, alpha=2), "Add with settings"),
    "size": (lambda x: x * x.size(0), "settings"),
    "width": (lambda x: x.view(x.size(1), -1), "size"),
    "batch away": (torch.flatten, "Flatten from 0"),
    "mean of all": (lambda x: x.mean(), "mean"),
    "overwritten": (lambda x: functional.relu(x, inplace=True) + x, "overwrites"),
    "overwritten by sum": (lambda x: x.add_(1) + x, "overwrites"),
    "slice": (lambda x: x[:, 0], "index"),
    "tuple": (lambda x: (x, x), "not one tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_fast_way_never_guesses(name):
    called, what = REFUSED[name]
    with pytest.raises(UnknownOperatorError, match=what):
        write(Call(called).eval(), Graph(), "images")


def test_a_second_input_is_refused():
    class TwoInputs(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(UnknownOperatorError, match="second input, y"):
        write(TwoInputs(), Graph(), "images")


def test_an_unknown_operator_is_left_to_the_official_exporter_in_silence(capfd):
    model = stirred(Body(nn.Sequential(nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.SiLU())))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        proto = export_float(model, channels=3, image_size=SIZE)
    assert not caught
    assert capfd.readouterr() == ("", "")
    assert_agrees(model, proto, images(1))
    assert_agrees(model, proto, images(5))
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)


# --- errors --------------------------------------------------------------------------------------


def test_a_model_that_nobody_can_write_says_why():
    class Undecided(nn.Module):
        def forward(self, x):
            x = x.mean((2, 3))
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match=r"Undecided cannot be written as ONNX: .*the fast way"):
        export_float(Undecided(), channels=3, image_size=SIZE)


def test_a_model_for_other_images_says_which():
    with pytest.raises(ExportError, match="does not take images of 1x16x16"):
        export_float(small(), channels=1, image_size=SIZE)


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (lambda x: x, r"\(2, 3, 16, 16\)"),
        (lambda x: (x, x), "tuple"),
        (lambda x: x[0, 0], r"\(16, 16\)"),
    ],
)
def test_an_output_that_is_not_logits_is_an_error(output, got):
    with pytest.raises(ExportError, match=rf"logits of shape \(N, classes\), got {got}"):
        export_float(Call(output), channels=3, image_size=SIZE)
