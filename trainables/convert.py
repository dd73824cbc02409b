"""A deployable ONNX file as a file of torch, for those who run torch.

The graph itself is run by torch, so the result answers like the file. Few bits are computed in
float32: the numbers are those of the quantized file, its size and speed are not.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import torch

from trainables.benchmark import example_of
from trainables.errors import DisagreementError, ExportError
from trainables.graph import Graph
from trainables.graph_module import GraphModule
from trainables.measure import open_session, predict

TOLERANCE = 0.02
"""Largest difference of an answer, relative to the largest: integer kernels round sums as they
come. Measured: below .005 with 8-bit activations, below 1e-5 without."""
COMPARED_IMAGES = 8


def convert(file: bytes, kind: str) -> bytes:
    """Give the model as a file of another kind, compared with the original on random images.

    Args:
        file: An ONNX file that this package wrote.
        kind: `onnx`, or a name in `FORMATS`.

    Raises:
        ExportError: the kind is unknown, or torch lacks an operator of the file.
        DisagreementError: the result answers otherwise.
    """
    if kind == "onnx":
        return file
    if kind not in FORMATS:
        raise ExportError(f"formats are onnx, {', '.join(FORMATS)}; got {kind!r}")
    example = example_of(file)
    module = GraphModule(Graph.read(onnx.load_from_string(file))).eval()
    module.requires_grad_(False)
    images = np.random.default_rng(1).normal(size=(COMPARED_IMAGES, *example.shape[1:]))
    images = images.astype(np.float32)
    written, answers = FORMATS[kind](module, torch.from_numpy(images))
    expected = predict(open_session(file), images)
    difference = float(np.abs(answers.numpy() - expected).max() / np.abs(expected).max())
    if not difference <= TOLERANCE:
        raise DisagreementError(
            f"as {kind} the model differs from its ONNX file by {difference:.3g}, "
            f"allowed {TOLERANCE:g}"
        )
    return written


Written = tuple[bytes, torch.Tensor]
"""The file, and what it answers when it is read back."""


def _torchscript(module: GraphModule, images: torch.Tensor) -> Written:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces its end
        torch.jit.save(torch.jit.trace(module, images[:2]), buffer)
        buffer.seek(0)
        return buffer.getvalue(), torch.jit.load(buffer)(images)


def _pt2(module: GraphModule, images: torch.Tensor) -> Written:
    any_batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(module, (images[:2],), dynamic_shapes=any_batch)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    return buffer.getvalue(), torch.export.load(buffer).module()(images)


FORMATS: dict[str, Callable[[GraphModule, torch.Tensor], Written]] = {
    "torchscript": _torchscript,
    "pt2": _pt2,
}
"""Beside `onnx`, which is the file as it is."""
