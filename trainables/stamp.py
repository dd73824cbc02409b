"""Facts inside a model file, for whoever has nothing but the file. No torch here."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from google.protobuf.message import DecodeError

from trainables.errors import ExportError


def stamped(file: bytes, facts: Mapping[str, str]) -> bytes:
    """Give an ONNX file with `facts` added to its metadata; graph and weights stay as they are.

    Raises:
        ExportError: the file is not ONNX.
    """
    try:
        model = onnx.load_from_string(file)
    except DecodeError as error:
        raise ExportError("the model file is damaged: it is not ONNX") from error
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, known | dict(facts))
    return bytes(model.SerializeToString())
