"""Files for torch, made from the deployed file; the latency protocol for any file."""

import io

import numpy as np
import pytest
import torch

from trainables.benchmark import against, benchmark
from trainables.config import DeployConfig
from trainables.convert import FORMATS, convert
from trainables.errors import ExportError
from trainables.export import export_float, serialise
from trainables.measure import open_session, predict
from trainables.models import build_model
from trainables.quantize import quantize

IMAGES = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)


def file(weight_bits=32, activation_bits=32, width=8) -> bytes:
    args = {"width": width, "depth": 2}
    model = build_model("cnn", args, in_channels=3, image_size=16, classes=10, seed=0)
    proto = export_float(model.eval(), channels=3, image_size=16)
    bits = {"weight_bits": weight_bits, "activation_bits": activation_bits}
    return serialise(quantize(proto, **bits, calibration=IMAGES), {})


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch announces the end of TorchScript
@pytest.mark.parametrize("bits", [(32, 32), (4, 8)])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_converted_file_answers_like_the_deployed_one(kind, bits):
    content = file(*bits)
    buffer = io.BytesIO(convert(content, kind))
    model = torch.jit.load(buffer) if kind == "torchscript" else torch.export.load(buffer).module()
    for count in (1, 8):
        answers = model(torch.from_numpy(IMAGES[:count])).numpy()
        expected = predict(open_session(content), IMAGES[:count])
        assert np.abs(answers - expected).max() < 0.02 * np.abs(expected).max()


def test_onnx_is_the_file_itself_and_other_names_are_refused():
    content = file()
    assert convert(content, "onnx") is content
    with pytest.raises(ExportError, match="formats are onnx, torchscript, pt2"):
        convert(content, "tflite")


def test_a_benchmark_compares_two_files():
    small, large = file(), file(width=64)
    assert benchmark(small, DeployConfig()).size_bytes == len(small)
    ratio = against(small, large, DeployConfig())
    assert ratio.low <= ratio.value <= ratio.high < 0.5


def test_a_file_that_is_no_model_is_named():
    with pytest.raises(ExportError, match="cannot open"):
        benchmark(b"no model", DeployConfig())
