"""Every quantization scheme by the contract; how ranges are chosen."""

import numpy as np
import pytest
import torch
from onnx import TensorProto
from onnxruntime import get_available_providers

from contracts.scheme_contract import IMAGES, SchemeContract
from trainables.calibrate import BINS, CALIBRATION, Histogram
from trainables.export import export_float
from trainables.measure import disagreement, executed_operators, open_session
from trainables.models import build_model
from trainables.quantize import SCHEMES, quantize


@pytest.mark.parametrize("bits", SCHEMES)
class TestSchemes(SchemeContract):
    pass


def test_float16_files_take_and_give_float32_and_hold_nothing_wider():
    model = build_model("mobilenet_v3_small", {}, in_channels=3, image_size=32, classes=10, seed=0)
    proto = export_float(model.eval(), channels=3, image_size=32)
    half = quantize(proto, weight_bits=16, activation_bits=16, calibration=IMAGES)
    ends = [half.graph.input[0], half.graph.output[0]]
    assert [end.type.tensor_type.elem_type for end in ends] == [TensorProto.FLOAT] * 2
    assert TensorProto.FLOAT not in {t.data_type for t in half.graph.initializer}
    assert [n.op_type for n in half.graph.node].count("Cast") == 2


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in get_available_providers(), reason="no ONNX Runtime for CUDA"
)
def test_a_gpu_computes_in_float16():
    model = build_model("resnet18", {}, in_channels=3, image_size=64, classes=10, seed=0).eval()
    proto = export_float(model, channels=3, image_size=64)
    images = np.random.default_rng(0).normal(size=(8, 3, 64, 64)).astype(np.float32)
    file = quantize(proto, weight_bits=16, activation_bits=16, calibration=images)
    content = file.SerializeToString()
    with torch.no_grad():
        answers = model(torch.from_numpy(images)).numpy()
    assert disagreement(open_session(content, device="cuda"), answers, images) < 0.05
    # Where the provider lacked a kernel, more casts would stand in the graph that it runs.
    assert executed_operators(content, device="cuda")["Cast"] <= 2


def seen(values) -> Histogram:
    low, high = min(0.0, values.min()), max(0.0, values.max())
    return Histogram(low, high, np.histogram(values, BINS, (low, high))[0])


BELL = np.random.default_rng(0).normal(size=100_000)


@pytest.mark.parametrize("method", CALIBRATION)
@pytest.mark.parametrize(
    "values", [BELL, np.abs(BELL), -np.abs(BELL), BELL + 5, np.zeros(10), np.ones(3)]
)
def test_a_range_holds_zero_and_no_more_than_was_seen(method, values):
    if not values.any():
        values = np.array([0.0, 1e-3])
    histogram = seen(values)
    low, high = CALIBRATION[method](histogram)
    assert histogram.low <= low <= 0 <= high <= histogram.high
    assert high > low


def test_minmax_holds_all_and_percentile_leaves_out_the_rarest():
    outlier = np.append(BELL, 100.0)
    assert CALIBRATION["minmax"](seen(outlier))[1] == 100.0
    low, high = CALIBRATION["percentile"](seen(outlier))
    assert 3 < high < 6
    assert -6 < low < -3


def test_entropy_clips_a_long_tail_and_keeps_a_flat_range():
    flat = np.random.default_rng(0).uniform(0, 1, 100_000)
    assert CALIBRATION["entropy"](seen(flat))[1] > 0.9
    tailed = np.append(flat, [3.0])
    assert CALIBRATION["entropy"](seen(tailed))[1] < 2.0
