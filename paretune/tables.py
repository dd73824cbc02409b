"""How numbers look to people: sizes, times, settings, and the table of the front."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.front.front import ParetoFront
from search.front.picks import bytes_text, ms_text
from search.space.settings import bits_name, settings, varying
from search.study.rows import ResultRow
from search.study.study import flat
from trainables.config import PRUNING_FIELDS, TrialConfig
from trainables.contract import Status

if TYPE_CHECKING:
    from trainables.benchmark import Benchmark

SHORT_NAMES = {
    "learning_rate": "lr",
    "batch_size": "batch",
    "weight_decay": "decay",
    "label_smoothing": "smoothing",
    "warmup_share": "warmup",
    "kernel_size": "kernel",
    "pruning_method": "prune",
    "pruning_ratio": "pruned",
}
"""Names of dimensions in lines where room is scarce; others are shown as they are."""


PIPE_WIDTH = 1000
"""Columns where there is no terminal: enough that nothing is cut or wrapped."""


def make_console() -> Console:
    """Give the console for stdout: as wide as the terminal, or unlimited in a pipe or a file."""
    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, markup=False, width=PIPE_WIDTH)


def seconds_text(seconds: float) -> str:
    """Give a duration for people.

    >>> seconds_text(7.4), seconds_text(200), seconds_text(7500)
    ('7 s', '3 min 20 s', '2 h 05 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def metric_text(name: str, value: float) -> str:
    """Give a metric's value with its unit, as short as it can be told."""
    if name.endswith("_bytes"):
        return bytes_text(value)
    if name.endswith("_ms"):
        return ms_text(value)
    if name.endswith("_seconds"):
        return seconds_text(value)
    return f"{value:.3f}" if name == "accuracy" else f"{value:,.0f}"


def metrics_text(row: ResultRow) -> str:
    """Give a row's accuracy, size and latency, as far as known."""
    known = row.metrics
    parts = [f"acc {known['accuracy']:.3f}"] if "accuracy" in known else []
    parts += [metric_text(n, known[n]) for n in ("size_bytes", "latency_ms") if n in known]
    return "  ".join(parts)


def latency_text(row: ResultRow) -> str:
    """Give a row's latency and half the width of its 95 % interval in percent."""
    ms = row.metrics.get("latency_ms")
    if ms is None:
        return ""
    low, high = ((row.latency or {}).get(name) for name in ("low_ms", "high_ms"))
    if low is None or high is None or not ms:
        return ms_text(ms)
    return f"{ms_text(ms)} ± {50 * (high - low) / ms:.1f} %"


# --- settings of a trial -------------------------------------------------------------------------


def settings_text(config: TrialConfig, names: Sequence[str]) -> str:
    """Give the named settings in one line; what cannot matter in this config is left out.

    >>> settings_text(TrialConfig(learning_rate=0.03), ["learning_rate", "weight_bits"])
    'lr=0.03 W32A32'
    """
    values = settings(config)
    bits = {"weight_bits", "activation_bits"}
    left_out = bits | _without_effect(config)
    parts = [
        f"{SHORT_NAMES.get(name, name)}={_value_text(values[name])}"
        for name in names
        if name in values and name not in left_out
    ]
    if bits & set(names):
        parts.append(bits_name(config))
    return " ".join(parts)


def _without_effect(config: TrialConfig) -> set[str]:
    """Give the names of settings that change nothing beside the config's other settings."""
    names: set[str] = set()
    if not config.pruning_ratio:
        names |= PRUNING_FIELDS - {"pruning_ratio"}
    if config.activation_bits == 32:
        names |= {"calibration", "calibration_images"}
    if config.quantization == "ptq":
        names |= {"quantization", "qat_at"}
    return names


def _value_text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# --- the front -----------------------------------------------------------------------------------


def front_table(front: ParetoFront, names: Sequence[str] | None = None) -> Table:
    """Give the front's members as a table, with the named settings (None: those that differ)."""
    if names is None:
        names = varying(row.config for row in front.rows)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("trial", no_wrap=True)
    for heading in ("accuracy", "test", "size", "of largest", "latency"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("settings", overflow="fold")
    largest = max((row.metrics.get("size_bytes", 0.0) for row in front.rows), default=0.0)
    for row in front.rows:
        size = row.metrics.get("size_bytes")
        table.add_row(
            row.trial_id,
            _number_text(row.metrics.get("accuracy")),
            _number_text(row.test_accuracy),
            "" if size is None else bytes_text(size),
            "" if size is None or not largest else f"{100 * size / largest:.0f} %",
            latency_text(row),
            Text(settings_text(row.config, names) + _payoff_text(row)),
        )
    return table


def _payoff_text(row: ResultRow) -> str:
    """Say in what a compressed model is no better than its own uncompressed self."""
    flags = [text.partition(":")[0] for text in row.without_payoff]
    return f"  ({', '.join(flags)} than uncompressed)" if flags else ""


def counts_text(front: ParetoFront) -> str:
    """Give how the study's trials ended, and what the front is worth."""
    parts = [f"{front.counts[s]} {s.value}" for s in Status if front.counts.get(s)]
    broken = front.infeasible - front.counts.get(Status.INFEASIBLE, 0)
    if broken:
        parts.append(f"{broken} of the measured break a constraint")
    return (
        f"{', '.join(parts) or 'no trials yet'}; front of {len(front.rows)}, "
        f"hypervolume {front.hypervolume:.4f}"
    )


def _number_text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Give the front's records as CSV, nested parts as dotted columns such as `config.epochs`.

    Without records there are no columns, and the text is empty.
    """
    if not records:
        return ""
    rows = [flat(record) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


# --- one row -------------------------------------------------------------------------------------


def pick_text(row: ResultRow, artifact: str) -> str:
    """Give all that matters of one chosen model, one fact a line."""
    known = row.metrics
    compressed = known.get("compressed_bytes")
    facts = {
        "trial": row.trial_id,
        "accuracy": f"{_number_text(known.get('accuracy'))} on validation images, "
        f"{_number_text(row.test_accuracy)} on test images",
        "size": bytes_text(known["size_bytes"])
        + ("" if compressed is None else f" ({bytes_text(compressed)} deflated)"),
        "latency": latency_text(row),
        "settings": settings_text(row.config, list(settings(row.config))),
        "model": artifact,
    }
    return "\n".join(f"{name:<9} {fact}" for name, fact in facts.items())


# --- any file ------------------------------------------------------------------------------------


def benchmark_table(found: Mapping[str, Benchmark]) -> Table:
    """Give size, latency and executed operators of files by name."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("file", overflow="fold")
    for heading in ("size", "latency", "runs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("executed", overflow="fold")
    for name, measured in found.items():
        latency = measured.latency
        half = 50 * (latency.high_ms - latency.low_ms) / latency.ms
        operators = ", ".join(f"{n} {o}" for o, n in measured.operators.items())
        table.add_row(
            name,
            bytes_text(measured.size_bytes),
            f"{ms_text(latency.ms)} ± {half:.1f} %",
            str(latency.runs),
            operators,
        )
    return table
