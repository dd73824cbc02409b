"""Rows as a sweep would write them, with numbers made up by the test."""

import onnx

from search.objectives import Objective, objective
from search.study.rows import ResultRow
from trainables.config import TrialConfig
from trainables.contract import Status


def made_row(
    number: int,
    accuracy: float | None = None,
    size_bytes: float | None = None,
    latency_ms: float | None = None,
    *,
    status: Status = Status.MEASURED,
    config: TrialConfig | None = None,
    **more,
) -> ResultRow:
    """Give a row whose config, and so whose trial id, is its own by its seed."""
    config = config or TrialConfig(seed=number)
    metrics = {"accuracy": accuracy, "size_bytes": size_bytes, "latency_ms": latency_ms}
    return ResultRow(
        trial_id=config.trial_id,
        number=number,
        status=status,
        config=config,
        metrics={name: value for name, value in metrics.items() if value is not None},
        **more,
    )


def tiny_onnx(doc: str) -> bytes:
    """Give a real model file that hands its input on; `doc` tells it from others."""
    ends = [onnx.helper.make_tensor_value_info(n, 1, ["N", 2]) for n in ("images", "logits")]
    node = onnx.helper.make_node("Identity", ["images"], ["logits"])
    graph = onnx.helper.make_graph([node], "tiny", [ends[0]], [ends[1]])
    model = onnx.helper.make_model(graph, doc_string=doc, ir_version=10)
    onnx.helper.set_model_props(model, {"classes": "[]"})
    return model.SerializeToString()


def default_objectives() -> list[Objective]:
    """Give accuracy, size and latency with their default references."""
    return [objective(name) for name in ("accuracy", "size_bytes", "latency_ms")]
