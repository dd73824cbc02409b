"""Quantization-aware training: what is trained is what the file answers."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from trainables.errors import ExportError
from trainables.export import export_float
from trainables.graph import Graph
from trainables.graph_module import GraphModule
from trainables.measure import open_session, predict
from trainables.models import build_model
from trainables.qat import QuantizedModule
from trainables.quantize import SCHEMES, quantize

IMAGES = np.random.default_rng(0).normal(size=(16, 3, 32, 32)).astype(np.float32)
QAT_BITS = [bits for bits in SCHEMES if bits[0] <= 8]


def network(name: str, **args) -> torch.nn.Module:
    """Give a network whose batch norms have seen something."""
    model = build_model(name, args, in_channels=3, image_size=32, classes=10, seed=0)
    for _ in range(3):
        model(torch.from_numpy(IMAGES))
    return model.eval()


def difference(proto: onnx.ModelProto, answers: np.ndarray) -> float:
    """Give the largest difference of the file's answers, relative to the largest answer."""
    found = predict(open_session(proto.SerializeToString()), IMAGES)
    return float(np.abs(found - answers).max() / np.abs(answers).max())


@pytest.fixture(scope="module")
def protos():
    models = {
        "cnn": network("cnn", width=8, depth=2),
        "mobilenet_v3_small": network("mobilenet_v3_small"),
        "resnet18": network("resnet18"),
    }
    return {n: export_float(m, channels=3, image_size=32) for n, m in models.items()}


def aware(proto, weight_bits=4, activation_bits=8) -> QuantizedModule:
    return QuantizedModule(
        proto,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        calibration=IMAGES,
        method="minmax",
        parameters=7,
    )


def file_of(module: QuantizedModule, weight_bits=4, activation_bits=8) -> onnx.ModelProto:
    return quantize(
        module.proto(),
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        calibration=IMAGES,
        learned=module.learned(),
    )


def train(module, steps=3):
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.from_numpy(IMAGES)).square().mean().backward()
        optimizer.step()
    return module.eval()


@pytest.mark.parametrize("name", ["cnn", "mobilenet_v3_small", "resnet18"])
def test_a_graph_answers_in_torch_as_in_the_runtime(protos, name):
    proto = protos[name]
    module = GraphModule(Graph.read(proto)).eval()
    with torch.no_grad():
        answers = module(torch.from_numpy(IMAGES)).numpy()
    assert difference(proto, answers) < 1e-4
    assert module.proto().graph == Graph.read(proto).proto().graph


@pytest.mark.parametrize("bits", SCHEMES)
def test_quantized_files_answer_in_torch_as_in_the_runtime(protos, bits):
    file = quantize(
        protos["cnn"], weight_bits=bits[0], activation_bits=bits[1], calibration=IMAGES
    )
    with torch.no_grad():
        answers = GraphModule(Graph.read(file)).eval()(torch.from_numpy(IMAGES)).numpy()
    assert difference(file, answers) < 0.02


@pytest.mark.parametrize("name", ["cnn", "mobilenet_v3_small", "resnet18"])
@pytest.mark.parametrize("bits", QAT_BITS)
def test_the_file_is_the_network_that_was_trained(protos, name, bits):
    module = train(aware(protos[name], *bits), steps=2)
    with torch.no_grad():
        answers = module(torch.from_numpy(IMAGES)).numpy()
    # Integer kernels may differ in the last bit of a sum; float ones only in its rounding.
    assert difference(file_of(module, *bits), answers) < (1e-3 if bits[1] == 32 else 0.05)


def test_scales_and_weights_learn_and_go_into_the_file(protos):
    module = aware(protos["cnn"])
    before = copy.deepcopy(module.learned())
    weights = {n: module.constant(n).detach().clone() for n in module.bits}
    train(module)
    after = module.learned()
    for name, scale in before.scales.items():
        assert not np.array_equal(scale, after.scales[name])
        assert not torch.equal(weights[name], module.constant(name))
    stored = {t.name: numpy_helper.to_array(t) for t in file_of(module).graph.initializer}
    written = [v for k, v in stored.items() if k.endswith(".weight.scale")]
    assert len(written) == len(after.scales)
    for scale in after.scales.values():
        assert any(np.array_equal(scale, value) for value in written)


def test_ranges_follow_training_and_rest_otherwise(protos):
    module = aware(protos["cnn"])
    before = module.learned().ranges
    module.eval()(torch.from_numpy(10 * IMAGES))
    assert module.learned().ranges == before
    module.train()(torch.from_numpy(10 * IMAGES))
    after = module.learned().ranges
    assert after["images"][1] > before["images"][1]


def test_without_activation_bits_no_range_is_watched(protos):
    assert aware(protos["cnn"], 4, 32).learned().ranges == {}


def test_pruned_weights_have_a_mask_and_stay_zero_in_the_file(protos):
    module = aware(protos["cnn"])
    name = next(iter(module.bits))
    with torch.no_grad():
        module.constant(name)[0] = 0
    mask = module.masks()[module.places[name]]
    assert not mask[0].any()
    assert mask[1:].all()


def test_a_restored_module_answers_alike(protos):
    module = train(aware(protos["cnn"]))
    again = aware(protos["cnn"])
    again.load_state_dict(module.state_dict())
    images = torch.from_numpy(IMAGES)
    assert torch.equal(again.eval()(images), module(images))


def test_an_operator_without_torch_form_is_named():
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    graph = Graph([helper.make_node("Celu", ["x"], ["y"])], {}, [value], [out])
    with pytest.raises(ExportError, match="no torch form of Celu"):
        GraphModule(graph)
