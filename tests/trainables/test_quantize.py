import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from torch import nn

from trainables.calibrate import activation_ranges
from trainables.config import BITS_ON
from trainables.errors import ExportError
from trainables.export import export_float, serialise
from trainables.graph import Graph
from trainables.measure import executed_operators
from trainables.qdq import Uint8
from trainables.quantize import SCHEMES, quantize
from trainables.weights import INT4, along, to_integers

SIZE = 16
CLASSES = 10
QUANTIZED = [pair for pair in SCHEMES if pair != (32, 32)]


class Cnn(nn.Module):
    """Six convolutions with batch norm, 300k parameters."""

    def __init__(self):
        super().__init__()
        layers, before = [], 3
        for i, width in enumerate((32, 32, 64, 64, 128, 128)):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if i % 2 else []
            before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(before, CLASSES)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


def pictures(n, seed, noise=0.3):
    """Draw n images, each one of ten coarse patterns with noise: (n, 3, SIZE, SIZE), labels."""
    patterns = np.random.default_rng(0).normal(size=(CLASSES, 3, 4, 4))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    images = patterns[labels].repeat(SIZE // 4, 2).repeat(SIZE // 4, 3)
    return (images + noise * rng.normal(size=images.shape)).astype(np.float32), labels


def fit_norms(model, images):
    """Set the running statistics of an untrained model, so that its activations live."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain average
    with torch.no_grad():
        model.train()(torch.from_numpy(images))
    return model.eval()


def fit_head(model, images, labels):
    """Train the head, which has a closed form: ridge regression."""
    with torch.no_grad():
        features = model.features(torch.from_numpy(images)).mean((2, 3)).double()
        x = torch.cat([features, torch.ones(len(features), 1).double()], 1)
        y = nn.functional.one_hot(torch.from_numpy(labels), CLASSES).double()
        solved = torch.linalg.solve(x.T @ x + 0.1 * torch.eye(x.shape[1]), x.T @ y)
        model.head.weight.copy_(10 * solved[:-1].T)
        model.head.bias.copy_(10 * solved[-1])
    return model


@pytest.fixture(scope="module")
def cnn():
    images, labels = pictures(200, seed=1)
    model = fit_head(fit_norms(seeded(Cnn), images), images, labels)
    return export_float(model, channels=3, image_size=SIZE)


@pytest.fixture(scope="module")
def calibration():
    return pictures(64, seed=2)[0]


def run(proto, images):
    session = onnxruntime.InferenceSession(
        serialise(proto, {}), providers=["CPUExecutionProvider"]
    )
    return session.run(["logits"], {"images": images})[0]


def under(proto, pair, images):
    return quantize(proto, weight_bits=pair[0], activation_bits=pair[1], calibration=images)


def stored(proto, kind):
    return {t.name: t for t in proto.graph.initializer if t.data_type == kind}


# --- all schemes ---------------------------------------------------------------------------------


def test_there_is_a_scheme_for_every_pair_that_some_device_runs():
    assert set(SCHEMES) == {pair for pairs in BITS_ON.values() for pair in pairs}


def test_an_unknown_pair_is_told_what_there_is(cnn, calibration):
    with pytest.raises(ExportError, match=r"no scheme for W32A8; there are .*W4A8"):
        under(cnn, (32, 8), calibration)


@pytest.mark.parametrize("pair", SCHEMES)
def test_a_scheme_gives_the_same_bytes_again_and_leaves_its_input_alone(cnn, calibration, pair):
    before = cnn.SerializeToString()
    first, second = (serialise(under(cnn, pair, calibration), {}) for _ in range(2))
    assert first == second
    assert cnn.SerializeToString() == before


@pytest.mark.parametrize(
    ("pair", "largest", "smallest"),
    [
        ((16, 32), 0.51, 0.5),
        ((8, 32), 0.27, 0.25),
        ((4, 32), 0.15, 0.125),
        ((8, 8), 0.3, 0.25),
        ((4, 8), 0.17, 0.125),
    ],
)
def test_fewer_bits_are_fewer_bytes(cnn, calibration, pair, largest, smallest):
    whole = len(serialise(cnn, {}))
    assert smallest < len(serialise(under(cnn, pair, calibration), {})) / whole <= largest


@pytest.mark.parametrize("pair", QUANTIZED)
def test_the_size_does_not_depend_on_the_weights(calibration, pair):
    sizes = set()
    for stir in (0.5, 2.0):
        model = seeded(Cnn)
        for parameter in model.parameters():
            parameter.data.mul_(stir).add_(0.01 * stir)
        proto = export_float(model, channels=3, image_size=SIZE)
        sizes.add(len(serialise(under(proto, pair, calibration), {})))
    assert len(sizes) == 1


@pytest.mark.parametrize("pair", QUANTIZED)
def test_a_quantized_file_classifies_like_the_float_file(cnn, calibration, pair):
    images, labels = pictures(300, seed=3)
    expected, got = run(cnn, images), run(under(cnn, pair, calibration), images)
    assert (expected.argmax(1) == labels).mean() > 0.95  # the question is not trivial
    assert (expected.argmax(1) == got.argmax(1)).mean() >= 0.95
    tolerance = {16: 0.005, 8: 0.05, 4: 0.4}[pair[0]]
    assert 0 < np.abs(expected - got).max() < tolerance * np.abs(expected).max()


# --- weights only --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "kind", "layers"),
    [
        ((16, 32), TensorProto.FLOAT16, 14),
        ((8, 32), TensorProto.INT8, 7),
        ((4, 32), TensorProto.INT4, 5),
    ],
)
def test_stored_weights_are_restored_before_the_first_call(cnn, calibration, pair, kind, layers):
    proto = under(cnn, pair, calibration)
    assert len(stored(proto, kind)) == layers
    executed = executed_operators(serialise(proto, {}))
    assert executed == executed_operators(serialise(cnn, {}))
    assert not {"Cast", "Mul", "DequantizeLinear"} & set(executed)


@pytest.mark.parametrize("activation_bits", [32, 8])
def test_four_bits_are_packed_in_pairs_and_spare_the_first_and_the_last_layer(
    cnn, calibration, activation_bits
):
    proto = under(cnn, (4, activation_bits), calibration)
    packed = stored(proto, TensorProto.INT4)
    values = [int(np.prod(tensor.dims)) for tensor in packed.values()]
    assert values == [32 * 32 * 9, 32 * 64 * 9, 64 * 64 * 9, 64 * 128 * 9, 128 * 128 * 9]
    assert [len(tensor.raw_data) for tensor in packed.values()] == [n // 2 for n in values]
    kept = [list(t.dims) for t in stored(proto, TensorProto.INT8).values() if len(t.dims) > 1]
    assert kept == [[32, 3, 3, 3], [CLASSES, 128]]


def test_a_large_weight_stays_finite_in_half_precision(calibration):
    model = seeded(Cnn)
    model.head.weight.data[0, 0] = 1e6
    proto = export_float(model, channels=3, image_size=SIZE)
    assert np.isfinite(run(under(proto, (16, 32), calibration), calibration)).all()


# --- integer arithmetic --------------------------------------------------------------------------


@pytest.mark.parametrize("weight_bits", [8, 4])
def test_every_convolution_of_a_cnn_runs_on_integers(cnn, calibration, weight_bits):
    proto = under(cnn, (weight_bits, 8), calibration)
    weights = [t for t in stored(proto, TensorProto.INT8).values() if len(t.dims) > 1]
    assert len(weights) == {8: 7, 4: 2}[weight_bits]
    executed = executed_operators(serialise(proto, {}))
    assert executed["QLinearConv"] == 6
    assert executed["QGemm"] == 1
    assert not {"Conv", "Gemm", "Relu", "DequantizeLinear", "Cast"} & set(executed)
    assert executed["QuantizeLinear"] == 1  # of the images


def test_a_residual_network_adds_integers():
    model = seeded(lambda: torchvision.models.resnet18(num_classes=CLASSES))
    proto = export_float(model, channels=3, image_size=32)
    images = np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32)
    executed = executed_operators(serialise(under(proto, (8, 8), images), {}))
    assert (executed["QLinearConv"], executed["QLinearAdd"]) == (20, 8)
    assert not {"Conv", "Add", "Relu", "DequantizeLinear"} & set(executed)


def test_a_mobile_network_convolves_and_gates_integers():
    images = np.random.default_rng(0).normal(size=(16, 3, 32, 32)).astype(np.float32)
    model = seeded(lambda: torchvision.models.mobilenet_v3_small(num_classes=CLASSES))
    proto = export_float(fit_norms(model, images), channels=3, image_size=32)
    quantized = under(proto, (8, 8), images)
    executed = executed_operators(serialise(quantized, {}))
    assert (executed["QLinearConv"], executed["QLinearMul"]) == (52, 9)
    assert "Conv" not in executed
    depthwise = next(t for t in quantized.graph.initializer if list(t.dims) == [16, 1, 3, 3])
    scale = next(
        t for t in quantized.graph.initializer if t.name == depthwise.name.replace("int", "scale")
    )
    assert list(scale.dims) == [16]
    expected, got = run(proto, images), run(quantized, images)
    assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.9


def test_integers_are_as_accurate_as_those_of_the_runtimes_own_tool(cnn, calibration, tmp_path):
    class Reader(quantization.CalibrationDataReader):
        batches = iter([{"images": calibration}])

        def get_next(self):
            return next(self.batches, None)

    (tmp_path / "float.onnx").write_bytes(serialise(cnn, {}))
    quantization.quantize_static(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", Reader(), per_channel=True
    )
    images = pictures(300, seed=3)[0]
    expected, ours = run(cnn, images), run(under(cnn, (8, 8), calibration), images)
    theirs = run(onnx.load(tmp_path / "int8.onnx"), images)
    assert np.square(ours - expected).mean() < 1.2 * np.square(theirs - expected).mean()


@pytest.mark.parametrize("clamp", [nn.ReLU, nn.ReLU6])
def test_a_clamp_that_cuts_off_is_part_of_the_integer_convolution(calibration, clamp):
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3), clamp(), nn.Conv2d(16, 16, 3), clamp(), nn.AdaptiveAvgPool2d(1)
        )
    )
    for layer in (model[0], model[2]):
        layer.weight.data *= 20  # most outputs are beyond 6
    model = nn.Sequential(model, nn.Flatten(), nn.Linear(16, CLASSES))
    proto = export_float(model, channels=3, image_size=SIZE)
    quantized = under(proto, (8, 8), calibration)
    executed = executed_operators(serialise(quantized, {}))
    assert executed["QLinearConv"] == 2
    assert not {"Conv", "Relu", "Clip"} & set(executed)
    expected, got = run(proto, calibration), run(quantized, calibration)
    assert np.abs(expected - got).max() < 0.05 * np.abs(expected).max()


class Mixed(nn.Module):
    """What has no integer operator between what has: every border between the two."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.dead = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        x = torch.nn.functional.hardswish(self.stem(x))
        x = torch.cat([x, torch.nn.functional.relu6(self.dead(x))], 1)
        x = torch.nn.functional.avg_pool2d(self.norm(x) + x, 2) * 0.5
        x = torch.tanh(self.hidden(x.mean((2, 3))))
        return self.head(x)


def test_integers_and_floats_can_be_mixed_and_a_dead_channel_keeps_its_bias(calibration):
    model = seeded(Mixed)
    model.dead.weight.data[0] = 0
    model.dead.weight.data[1] = 1e-12
    model.dead.bias.data[:2] = 3.0
    proto = export_float(model, channels=3, image_size=SIZE)
    expected = run(proto, calibration)
    for pair in QUANTIZED:
        got = run(under(proto, pair, calibration), calibration)
        assert np.abs(got - expected).max() < (0.2 if pair[0] == 4 else 0.05)


def test_a_graph_of_the_official_exporter_is_quantized_too(calibration):
    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1),
                nn.PixelShuffle(2),
                nn.Conv2d(4, 16, 3, stride=2),
                nn.ReLU(),
            )
            self.head = nn.Linear(16, CLASSES)

        def forward(self, x):
            return self.head(self.body(x).amax((2, 3)))

    proto = export_float(seeded(Strange), channels=3, image_size=SIZE)
    expected = run(proto, calibration)
    for pair in QUANTIZED:
        got = run(under(proto, pair, calibration), calibration)
        assert np.abs(got - expected).max() < (0.4 if pair[0] == 4 else 0.05)
    executed = executed_operators(serialise(under(proto, (8, 8), calibration), {}))
    assert executed["QLinearConv"] == 3


# --- graphs of other origin ----------------------------------------------------------------------


def graph_of(add_nodes, outputs=CLASSES):
    graph = Graph(
        inputs=[helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        outputs=[helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", outputs])],
    )
    add_nodes(graph, np.random.default_rng(0))
    return graph.proto()


def two_products(graph, rng, first, second, **attributes):
    """Flatten, multiply by (768, 12), clamp, multiply by (12, CLASSES)."""
    shapes = ((3 * SIZE * SIZE, 12), (12, CLASSES))
    for name, shape in zip("ab", shapes, strict=True):
        # Rows and columns of different sizes: a scale along the wrong axis would show.
        weight = rng.normal(size=shape) * np.geomspace(0.01, 1, shape[1]) / shape[0] ** 0.5
        graph.constant(name, (weight.T if attributes.get("transB") else weight).astype("f"))
    graph.add("Flatten", ["images"], "flat", axis=1)
    graph.add(first, ["flat", "a"], "hidden", **attributes)
    graph.add("Relu", ["hidden"], "positive")
    graph.add(second, ["positive", "b"], "logits", **attributes)


@pytest.mark.parametrize("pair", QUANTIZED)
@pytest.mark.parametrize(
    ("operator", "attributes"), [("Gemm", {"transB": 1}), ("Gemm", {}), ("MatMul", {})]
)
def test_matrix_products_are_scaled_by_output(calibration, operator, attributes, pair):
    proto = graph_of(lambda g, rng: two_products(g, rng, operator, operator, **attributes))
    expected = run(proto, calibration)
    got = run(under(proto, pair, calibration), calibration)
    # Relative to each output: the smallest is a hundredth of the largest.
    assert (np.abs(expected - got) < 0.05 * np.abs(expected).max(axis=0)).all()


def test_a_product_that_is_not_plain_stays_float(calibration):
    proto = graph_of(lambda g, rng: two_products(g, rng, "Gemm", "Gemm", alpha=0.5))
    assert not stored(under(proto, (8, 8), calibration), TensorProto.INT8)


def test_a_batch_norm_that_is_left_is_folded_first(calibration):
    def nodes(graph, rng):
        graph.constant("w", rng.normal(size=(CLASSES, 3, 3, 3)).astype("f"))
        for name in "gbmv":
            graph.constant(name, rng.uniform(0.5, 1.5, CLASSES).astype("f"))
        graph.add("Conv", ["images", "w"], "conv")
        graph.add("BatchNormalization", ["conv", *"gbmv"], "norm", epsilon=1e-3)
        graph.add("GlobalAveragePool", ["norm"], "pool")
        graph.add("Flatten", ["pool"], "logits", axis=1)

    proto = graph_of(nodes)
    folded = under(proto, (32, 32), calibration)
    assert [n.op_type for n in folded.graph.node] == ["Conv", "GlobalAveragePool", "Flatten"]
    np.testing.assert_allclose(run(proto, calibration), run(folded, calibration), atol=1e-4)
    assert executed_operators(serialise(under(proto, (8, 8), calibration), {}))["QLinearConv"] == 1


def test_weights_of_two_layers_are_stored_once(calibration):
    def nodes(graph, rng):
        graph.constant("w", rng.normal(size=(3, 3, 3, 3)).astype("f") / 6)
        for i, name in enumerate(["images", "c0", "c1"]):
            graph.add("Conv", [name, "w"], f"c{i}", pads=[1, 1, 1, 1])
        graph.add("GlobalAveragePool", ["c2"], "pool")
        graph.add("Flatten", ["pool"], "logits", axis=1)

    proto = graph_of(nodes, outputs=3)
    expected = run(proto, calibration)
    for pair in QUANTIZED:
        quantized = under(proto, pair, calibration)
        tolerance = 0.3 if pair[0] == 4 else 0.05
        np.testing.assert_allclose(run(quantized, calibration), expected, atol=tolerance)
        if pair == (8, 32):
            assert len(stored(quantized, TensorProto.INT8)) == 1


def test_nodes_need_no_names(cnn, calibration):
    nameless = onnx.ModelProto()
    nameless.CopyFrom(cnn)
    for node in nameless.graph.node:
        node.name = ""
    for pair in QUANTIZED:
        expected = run(under(cnn, pair, calibration), calibration)
        got = run(under(nameless, pair, calibration), calibration)
        np.testing.assert_array_equal(got, expected)


def test_an_old_graph_is_told_which_opset_is_needed(cnn, calibration):
    old = onnx.ModelProto()
    old.CopyFrom(cnn)
    old.opset_import[0].version = 17
    with pytest.raises(ExportError, match="opset 21 or newer, got opset 17"):
        under(old, (4, 8), calibration)


# --- numbers -------------------------------------------------------------------------------------

weights = st.integers(0, 10_000).map(
    lambda seed: (
        np.random.default_rng(seed).standard_t(2, size=(4, 3, 2, 2)).astype(np.float32)
        * np.array([1, 1e-6, 1e3, 0], np.float32).reshape(4, 1, 1, 1)
    )
)


@settings(deadline=None, max_examples=50)
@given(weights, st.integers(0, 3))
def test_eight_bit_weights_are_half_a_step_off_at_most(weight, axis):
    weight = np.moveaxis(weight, 0, axis)
    integers, scale = to_integers(weight, axis, 8)
    assert integers.dtype == np.int8
    assert scale.shape == (4,)
    assert (scale > 0).all()
    assert np.abs(integers.astype(int)).max() <= 127
    steps = along(scale, axis, 4)
    assert (np.abs(integers * steps - weight) <= 0.5001 * steps).all()


def plain_search(row):
    """The slow twin: the least squared error of one channel over all clippings."""
    errors = []
    for share in np.linspace(1.0, 0.5, 11):
        scale = np.float32(np.abs(row).max() * share / 7) or np.float32(1)
        errors.append(np.sum((np.clip(np.rint(row / scale), -7, 7) * scale - row) ** 2))
    return min(errors)


@settings(deadline=None, max_examples=50)
@given(weights)
def test_four_bit_weights_have_the_least_error_over_the_clippings(weight):
    integers, scale = to_integers(weight, 0, 4)
    assert integers.dtype == INT4
    restored = integers.astype(np.float32) * along(scale, 0, 4)
    for row, got in zip(weight.reshape(4, -1), restored.reshape(4, -1), strict=True):
        assert np.sum((got - row) ** 2) <= plain_search(row) * (1 + 1e-4)


@given(st.floats(-1e6, -1e-9) | st.just(0.0), st.floats(1e-9, 1e6) | st.just(0.0))
def test_activations_have_an_integer_for_zero_and_cover_their_range(low, high):
    how = Uint8.of((low, high))
    scale, zero = float(how.scale), int(how.zero)
    assert scale > 0
    assert -zero * scale <= low + 0.51 * scale
    assert (255 - zero) * scale >= high - 0.51 * scale
    if low == 0:
        assert zero == 0  # what lets the runtime drop the Relu


# --- calibration ---------------------------------------------------------------------------------


def test_ranges_span_all_images_and_zero(cnn):
    images = pictures(70, seed=4)[0] + 5
    first = next(n for n in cnn.graph.node if n.op_type == "Conv")
    ranges = activation_ranges(cnn, ["images", first.output[0], "logits"], images)
    assert ranges["images"] == (0.0, pytest.approx(images.max()))
    watched = onnx.ModelProto()
    watched.CopyFrom(cnn)
    watched.graph.output.append(onnx.ValueInfoProto(name=first.output[0]))
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    logits, values = session.run(None, {"images": images})
    assert ranges[first.output[0]] == pytest.approx((min(values.min(), 0), values.max()), rel=1e-4)
    assert ranges["logits"] == pytest.approx((min(logits.min(), 0), logits.max()), rel=1e-4)


def test_calibration_says_what_it_lacks(cnn, calibration):
    with pytest.raises(ExportError, match="at least one image"):
        under(cnn, (8, 8), calibration[:0])
    with pytest.raises(
        ExportError, match=r"one of \['entropy', 'minmax', 'percentile'\], got 'mean'"
    ):
        activation_ranges(cnn, ["images"], calibration, method="mean")
    with pytest.raises(ExportError, match="cannot run the float model"):
        under(cnn, (8, 8), calibration[:, :1])


def test_integers_of_shapes_are_never_quantized(calibration):
    def nodes(graph, rng):
        graph.constant("w", rng.normal(size=(CLASSES, 3, 3, 3)).astype("f"))
        graph.constant("axis", np.array([0]))
        graph.constant("rest", np.array([-1]))
        graph.add("Conv", ["images", "w"], "conv", strides=[14, 14])
        graph.add("Shape", ["images"], "shape", end=1)
        graph.add("Squeeze", ["shape", "axis"], "n")
        graph.add("Unsqueeze", ["n", "axis"], "batch")
        graph.add("Concat", ["batch", "rest"], "target", axis=0)
        graph.add("Reshape", ["conv", "target"], "logits")

    proto = graph_of(nodes)
    expected, got = run(proto, calibration), run(under(proto, (8, 8), calibration), calibration)
    np.testing.assert_allclose(got, expected, atol=0.03 * np.abs(expected).max())


def test_arrays_come_back_as_they_were_stored():
    value = np.arange(-7, 8).astype(INT4).reshape(3, 5)
    graph = Graph()
    graph.constant("x", value)
    np.testing.assert_array_equal(numpy_helper.to_array(graph.tensors["x"]), value)
