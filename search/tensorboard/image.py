"""The front as a picture for TensorBoard's image page: accuracy above size, latency as colour."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from search.front.front import ParetoFront
from search.front.picks import bytes_text, ms_text
from search.study.rows import ResultRow
from trainables.contract import Status

SIZE = (640, 400)
"""Pixels: width, height."""
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 20, 620, 350

FAST, SLOW = (0, 114, 178), (230, 159, 0)
"""Blue to orange of Okabe and Ito's palette, which colour-blind people can tell apart."""


def front_png(rows: Sequence[ResultRow], front: ParetoFront) -> bytes:
    """Draw all measured rows pale and the front's members on top; PNG of SIZE pixels."""
    measured = [row for row in rows if row.status is Status.MEASURED and _has_place(row)]
    picture = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((_LEFT, _TOP, _RIGHT, _BOTTOM), outline="#999999")
    if measured:
        _draw_rows(draw, measured, [row for row in front.rows if _has_place(row)])
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _has_place(row: ResultRow) -> bool:
    return row.metrics.get("size_bytes", 0) > 0 and "accuracy" in row.metrics


def _draw_rows(
    draw: ImageDraw.ImageDraw, measured: list[ResultRow], members: list[ResultRow]
) -> None:
    sizes = [math.log10(row.metrics["size_bytes"]) for row in measured]
    accuracies = [row.metrics["accuracy"] for row in measured]
    x_span, y_span = _span(sizes), _span(accuracies)
    latencies = [math.log10(row.metrics.get("latency_ms", 1)) for row in members] or [0.0]
    colours = (min(latencies), max(latencies))

    def place(row: ResultRow) -> tuple[float, float]:
        x = _share(math.log10(row.metrics["size_bytes"]), x_span)
        y = _share(row.metrics["accuracy"], y_span)
        return _LEFT + 10 + x * (_RIGHT - _LEFT - 20), _BOTTOM - 10 - y * (_BOTTOM - _TOP - 20)

    for row in measured:
        draw.circle(place(row), 3, fill="#d5d5d5")
    for row in members:
        share = _share(math.log10(row.metrics.get("latency_ms", 1)), colours)
        mixed = tuple(round(a + share * (b - a)) for a, b in zip(FAST, SLOW, strict=True))
        draw.circle(place(row), 5, fill=mixed, outline="black")
    draw.text((_LEFT, _BOTTOM + 6), bytes_text(10 ** x_span[0]), fill="black")
    draw.text((_RIGHT, _BOTTOM + 6), bytes_text(10 ** x_span[1]), fill="black", anchor="ra")
    draw.text((_LEFT - 6, _TOP + 4), f"{y_span[1]:.3f}", fill="black", anchor="ra")
    draw.text((_LEFT - 6, _BOTTOM - 14), f"{y_span[0]:.3f}", fill="black", anchor="ra")
    title = f"accuracy above size; {len(members)} models on the front"
    fast, slow = (ms_text(10**ends) for ends in colours)
    draw.text((_LEFT, _BOTTOM + 22), f"{title}, blue {fast} to orange {slow}", fill="black")


def _span(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _share(value: float, span: tuple[float, float]) -> float:
    low, high = span
    return (value - low) / (high - low) if high > low else 0.5
