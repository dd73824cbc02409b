"""A sweep in the terms of TensorBoard's HParams plugin: one experiment, one session per trial."""

from __future__ import annotations

from typing import Any

from google.protobuf import struct_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from search.space.dimensions import Choice, Dimension, Scalar, is_number
from search.space.settings import settings
from search.spec.spec import SweepSpec
from search.study.rows import ResultRow
from search.tensorboard.events import EventLog
from trainables.config import TrialConfig
from trainables.contract import METRICS, Status

FINAL_TAGS = {
    "final/accuracy": "on validation images, by the exported file",
    "final/test_accuracy": "on test images, which nothing optimised",
    "final/size_bytes": "of the exported file",
    "final/latency_ms": "of one inference call with the exported file",
    "final/compressed_bytes": "of the exported file, deflated",
    "final/train_seconds": "spent in training steps",
    "final/on_front": "1: on the Pareto front at that step, 0: not",
}
"""Metrics of a session: scalars of the trial's run, once it was measured."""

SESSION_STATUS = {
    Status.MEASURED: api_pb2.STATUS_SUCCESS,
    # Ended as planned, though without a model.
    Status.STOPPED: api_pb2.STATUS_SUCCESS,
    Status.INFEASIBLE: api_pb2.STATUS_SUCCESS,
    Status.DIVERGED: api_pb2.STATUS_FAILURE,
    Status.FAILED: api_pb2.STATUS_FAILURE,
}
"""The plugin knows no more than success and failure; the trial's text says the rest. A session
that runs has no end: TensorBoard keeps the first record of a kind, so a status cannot change."""

_NOT_PRUNED: dict[str, Scalar] = {"pruning_method": "none", "pruning_ratio": 0.0}
"""What canonical configs take where no channel goes, whether or not the sweep file names it."""


def write_experiment(log: EventLog, spec: SweepSpec, created: float) -> None:
    """Write every dimension with its domain and every metric, before any trial has run."""
    infos = [_hparam_info(name, d) for name, d in spec.space.dimensions.items()]
    metrics = [
        api_pb2.MetricInfo(
            name=api_pb2.MetricName(tag=tag),
            display_name=tag.removeprefix("final/"),
            description=about,
        )
        for tag, about in FINAL_TAGS.items()
    ]
    experiment = api_pb2.Experiment(
        description=f"paretune sweep {spec.name}",
        hparam_infos=infos,
        metric_infos=metrics,
        time_created_secs=created,
    )
    log.hparams(metadata.EXPERIMENT_TAG, experiment=experiment)


def write_start(log: EventLog, spec: SweepSpec, config: TrialConfig, started: float) -> None:
    """Write that a trial runs, and with which values."""
    info = plugin_data_pb2.SessionStartInfo(
        group_name=config.trial_id, start_time_secs=started, model_uri=config.trial_id
    )
    values = settings(config)
    for name, dimension in spec.space.dimensions.items():
        if name in values:  # an argument of another model has no value here
            _set_value(info.hparams[name], values[name], numeric=_is_numeric(dimension))
    log.hparams(metadata.SESSION_START_INFO_TAG, session_start_info=info)


def write_end(log: EventLog, row: ResultRow, ended: float) -> None:
    """Write how a trial ended, with its final metrics if it was measured."""
    if row.status is Status.MEASURED:
        log.scalars(final_metrics(row), row.epochs_trained)
    reason = f": {row.reason}" if row.reason else ""
    log.text("outcome", f"{row.status.value} ({row.origin}){reason}")
    info = plugin_data_pb2.SessionEndInfo(status=SESSION_STATUS[row.status], end_time_secs=ended)
    log.hparams(metadata.SESSION_END_INFO_TAG, session_end_info=info)


def final_metrics(row: ResultRow) -> dict[str, float]:
    """Give the final metrics of a measured row by tag, but for `on_front`."""
    values = {f"final/{name}": row.metrics[name] for name in METRICS if name in row.metrics}
    if row.test_accuracy is not None:
        values["final/test_accuracy"] = row.test_accuracy
    return {tag: value for tag, value in values.items() if tag in FINAL_TAGS}


# --- inside --------------------------------------------------------------------------------------


def _is_numeric(dimension: Dimension) -> bool:
    return not isinstance(dimension, Choice) or dimension.ordered


def _hparam_info(name: str, dimension: Dimension) -> api_pb2.HParamInfo:
    numeric = _is_numeric(dimension)
    kind = api_pb2.DATA_TYPE_FLOAT64 if numeric else api_pb2.DATA_TYPE_STRING
    info = api_pb2.HParamInfo(name=name, type=kind)
    if not isinstance(dimension, Choice):
        low = 0.0 if name == "pruning_ratio" else dimension.low
        info.domain_interval.min_value, info.domain_interval.max_value = low, dimension.high
        return info
    values = [*dimension.values]
    if name in _NOT_PRUNED and _NOT_PRUNED[name] not in values:
        values.append(_NOT_PRUNED[name])
    for value in values:
        _set_value(info.domain_discrete.values.add(), value, numeric=numeric)
    return info


def _set_value(target: struct_pb2.Value, value: Any, *, numeric: bool) -> None:
    if numeric and is_number(value):
        target.number_value = float(value)
    else:
        target.string_value = str(value)
