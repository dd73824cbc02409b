"""Train every network of `space.yaml` once and keep its learning curve and its files' numbers.

Goes on where it was interrupted: what is recorded stands, a line per network, in a working file.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from search.spec.spec import SweepSpec
from search.spec.spec_file import load_sweep
from trainables.artifact import (
    QUANTIZED_TOLERANCE,
    TrainedNetwork,
    export_network,
    forecast_file,
    make_file,
)
from trainables.compress import prune_untrained
from trainables.config import TrialConfig
from trainables.contract import Status, TrialReport
from trainables.errors import DisagreementError
from trainables.measure import disagreement, environment, open_session, score
from trainables.trial import Trial, TrialSettings

HERE = Path(__file__).parent
SPACE = HERE / "space.yaml"
TABLE = HERE / "table.json.gz"
LINES = HERE.parents[1] / "build" / "bench" / "networks.jsonl"


def main() -> None:
    """Record what is not recorded yet, then write the table."""
    spec = load_sweep(SPACE)
    LINES.parent.mkdir(parents=True, exist_ok=True)
    known = read_lines()
    space = list(shuffled_networks(spec))
    networks = [config for config in space if config.trial_id not in known]
    structures = {line["structure"]: line["forecasts"] for line in known.values()}
    for number, config in enumerate(networks, 1):
        line = record(config, spec, structures)
        with LINES.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{number}/{len(networks)} {line['id']} {line['curve'][-1:]}", flush=True)
    lines = read_lines()
    write_table(spec, [lines[config.trial_id] for config in space])


def read_lines() -> dict[str, dict[str, Any]]:
    """Give the recorded networks by id."""
    text = LINES.read_text() if LINES.exists() else ""
    return {line["id"]: line for line in map(json.loads, text.splitlines())}


def shuffled_networks(spec: SweepSpec) -> Iterator[TrialConfig]:
    """Give each network once, under float bits, in random order."""
    configs = {c.trial_id: c for c in map(unquantized, spec.space.grid())}
    for index in np.random.default_rng(0).permutation(len(configs)):
        yield list(configs.values())[index]


def unquantized(config: TrialConfig) -> TrialConfig:
    """Give the trained network of a config: the same under float bits."""
    return config.model_copy(update={"weight_bits": 32, "activation_bits": 32})


def record(
    config: TrialConfig, spec: SweepSpec, structures: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Train one network and score its file under each pair of bits."""
    trial = RecordedTrial(config, spec)
    curve, seconds = [], []
    while True:
        started = time.process_time()
        progress, ended = trial.step()
        seconds.append(round(time.process_time() - started, 4))
        if progress:
            curve.append(progress.accuracy)
        if ended:
            break
    key = json.dumps(config.structure_part(), sort_keys=True)
    if key not in structures:
        structures[key] = trial.forecasts()
    return {
        "id": config.trial_id,
        "config": config.model_dump(),
        "structure": key,
        "forecasts": structures[key],
        "curve": curve,
        "cpu_seconds": seconds[1:-1],  # the first and last step also forecast and export
        "files": trial.scores,
    }


class RecordedTrial(Trial):
    """A trial whose files are scored, but timed once per structure rather than once per file."""

    def __init__(self, config: TrialConfig, spec: SweepSpec):
        settings = TrialSettings(
            data=spec.data,
            deploy=spec.deploy,
            artifacts_location="",
            bounds={},
            sibling_bits=tuple(spec.space.bits_pairs),
        )
        super().__init__(config, settings)
        self.scores: dict[str, list[float]] = {}

    def measure(self, config: TrialConfig, network: TrainedNetwork, report: TrialReport) -> None:
        """Score one file on the validation and the test images."""
        file = make_file(network, config, self.data)
        session = open_session(file, threads=1)
        tolerance = QUANTIZED_TOLERANCE[config.weight_bits, config.activation_bits]
        if disagreement(session, network.outputs, network.images) > tolerance:
            raise DisagreementError(f"the file of {config.trial_id} differs from the model")
        self.scores[bits_name(config)] = [
            round(score(session, self.data.normalised(split.images), split.labels), 5)
            for split in (self.data.val, self.data.test)
        ]
        report.status = Status.MEASURED

    def forecasts(self) -> dict[str, list[float]]:
        """Measure size (bytes) and latency (ms) of this structure under each pair of bits."""
        model = self.build()
        prune_untrained(model, self.config, self.data)
        network = export_network(model, self.data)
        found = {}
        for config in self.own_and_siblings():
            forecast = forecast_file(network, config, self.data, self.settings.deploy)
            found[bits_name(config)] = [forecast.size_bytes, round(forecast.latency.ms, 6)]
        return found


def bits_name(config: TrialConfig) -> str:
    """Give `W8A32`."""
    return f"W{config.weight_bits}A{config.activation_bits}"


def write_table(spec: SweepSpec, lines: list[dict[str, Any]]) -> None:
    """Write the table: what varies of each network, its curve, its files; and the structures."""
    names = [name for name in spec.space.dimensions if len(spec.space.values(name)) > 1]
    structures = {line["structure"]: line["forecasts"] for line in lines}
    places = {key: place for place, key in enumerate(structures)}
    networks = [
        {
            "config": {name: _value(line["config"], name) for name in names},
            "structure": places[line["structure"]],
            "curve": [round(accuracy, 5) for accuracy in line["curve"]],
            "cpu_seconds": round(float(np.mean(line["cpu_seconds"])), 4),
            "files": line["files"],
        }
        for line in lines
    ]
    about = environment(spec.deploy) | {"networks": len(networks)}
    table = {"about": about, "structures": list(structures.values()), "networks": networks}
    text = json.dumps(table, separators=(",", ":")).encode()
    TABLE.write_bytes(gzip.compress(text, mtime=0))


def _value(config: dict[str, Any], name: str) -> Any:
    return config.get(name, config["model_args"].get(name))


if __name__ == "__main__":
    main()
