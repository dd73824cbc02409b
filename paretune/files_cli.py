"""The commands about model files: benchmark, export."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from search.errors import SpecError, StudyError
from search.study import storage

if TYPE_CHECKING:
    from trainables.benchmark import Benchmark
    from trainables.latency import Ratio

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The file to measure.")]


def benchmark(
    model: ModelFile,
    *,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another file, run in turn with it.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per inference call.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one inference call.")] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where it runs.")] = "cpu",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Measure size and latency of any ONNX file, as a sweep measures its own."""
    from trainables import benchmark as protocol
    from trainables.config import DeployConfig

    deploy = DeployConfig(device=device, batch_size=batch_size, threads=threads)
    files = {str(path): _read(path) for path in (model, baseline) if path is not None}
    found = {name: protocol.benchmark(content, deploy) for name, content in files.items()}
    ratio = None
    if baseline is not None:
        ratio = protocol.against(files[str(model)], files[str(baseline)], deploy)
    if as_json:
        typer.echo(json.dumps(_record(found, ratio), indent=1))
        return
    from paretune.tables import benchmark_table, make_console

    make_console().print(benchmark_table(found))
    if ratio is not None:
        whole = found[str(baseline)].size_bytes
        size = found[str(model)].size_bytes / whole
        half = (ratio.high - ratio.low) / 2
        typer.echo(f"to the baseline: size {size:.3f}, latency {ratio.value:.3f} ± {half:.3f}")


def export(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="The study folder that a run printed.")
    ],
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="Of a model on the front.")],
    to: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it.")],
    kind: Annotated[
        Literal["onnx", "torchscript", "pt2"],
        typer.Option(
            "--format",
            help="onnx: the deployed file. torchscript, pt2: for torch, made from that file; "
            "few bits are then computed, and stored, in float32.",
        ),
    ] = "onnx",
) -> None:
    """Write one model of a study in another format, checked against its ONNX file."""
    from search.study.study import Study
    from trainables.convert import convert

    opened = Study.open(study)
    row = next((row for row in opened.rows() if row.trial_id == trial), None)
    if row is None:
        raise StudyError(f"{opened.location} has no trial {trial!r}")
    if row.artifact is None:
        raise StudyError(
            f"the model file of {trial} ({row.status}) is not kept: it is not on the front"
        )
    storage.write_whole(to, convert(storage.read(opened.artifact_path(row)), kind))
    typer.echo(f"{kind} written to {to}", err=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from error


def _record(found: dict[str, Benchmark], ratio: Ratio | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "models": [{"file": name, **asdict(measured)} for name, measured in found.items()]
    }
    if ratio is not None:
        record["latency_ratio"] = {"value": ratio.value, "low": ratio.low, "high": ratio.high}
    return record
