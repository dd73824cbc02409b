"""What every quantization scheme must keep."""

import numpy as np
import onnx
import pytest
import torch

from trainables.artifact import QUANTIZED_TOLERANCE
from trainables.config import BITS_ON
from trainables.export import export_float
from trainables.measure import disagreement, open_session
from trainables.models import build_model
from trainables.quantize import quantize

IMAGES = np.random.default_rng(0).normal(size=(16, 3, 16, 16)).astype(np.float32)


class SchemeContract:
    """Inherit, and give the fixture `bits`: (weight_bits, activation_bits)."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        args = {"width": 16, "depth": 2}
        model = build_model("cnn", args, in_channels=3, image_size=16, classes=10, seed=0)
        model(torch.from_numpy(IMAGES))
        return model.eval()

    @pytest.fixture(scope="class")
    @classmethod
    def proto(cls, model):
        return export_float(model, channels=3, image_size=16)

    @pytest.fixture(params=["minmax", "percentile", "entropy"])
    def method(self, request) -> str:
        return request.param

    def quantized(self, proto, bits, method="minmax") -> onnx.ModelProto:
        return quantize(
            proto,
            weight_bits=bits[0],
            activation_bits=bits[1],
            calibration=IMAGES,
            method=method,
        )

    def test_answers_like_the_model(self, model, proto, bits, method):
        with torch.no_grad():
            answers = model(torch.from_numpy(IMAGES)).numpy()
        file = self.quantized(proto, bits, method).SerializeToString()
        tolerance = QUANTIZED_TOLERANCE[bits]
        assert disagreement(open_session(file), answers, IMAGES) < tolerance

    def test_the_file_shrinks_with_the_bits_of_the_weights(self, proto, bits):
        file = self.quantized(proto, bits).SerializeToString()
        assert len(file) < (bits[0] / 32 + 0.12) * len(proto.SerializeToString())

    def test_is_valid_and_repeats(self, proto, bits, method):
        first, second = (self.quantized(proto, bits, method) for _ in range(2))
        onnx.checker.check_model(first, full_check=True)
        assert first == second

    def test_leaves_the_given_model_alone(self, proto, bits):
        before = proto.SerializeToString()
        self.quantized(proto, bits)
        assert proto.SerializeToString() == before

    def test_is_listed_where_spaces_look(self, bits):
        assert any(bits in pairs for pairs in BITS_ON.values())
