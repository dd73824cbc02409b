"""Real sweeps on digits in folders of their own, and what a fault left of one."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainables.checkpoint import read_head

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_SECONDS = 900
Row = dict[str, Any]


class CaseError(Exception):
    """A case did not come about, or the sweep ended otherwise than it should."""


@dataclass(frozen=True)
class Result:
    """What a fault cost."""

    done: str
    """What was done to the sweep."""
    lost: int
    """Rows that were there before the fault and not after, or changed."""
    from_zero: int
    """Trials that began again, or from an earlier epoch than that of their checkpoint."""
    rows: int
    asked: int
    other_accuracies: int
    """Trials with accuracies other than in the undisturbed sweep, in any epoch or of the file."""
    said: str = ""

    @property
    def is_harmless(self) -> bool:
        """Whether the sweep ended as if nothing had happened."""
        bad = self.lost or self.from_zero or self.other_accuracies
        return not bad and self.rows == self.asked


class Bench:
    """Runs sweeps as a user does, one folder for all."""

    def __init__(self, folder: Path, trials: int, kills: int, seed: int) -> None:
        self.folder, self.trials, self.kills = folder, trials, kills
        self.random = random.Random(seed)  # noqa: S311 - moments of kills
        self.undisturbed: dict[int, dict[str, Row]] = {}

    # --- sweeps ------------------------------------------------------------------------------

    def sweep(
        self, name: str, *, seed: int = 0, storage: str | None = None, **resources: Any
    ) -> Path:
        """Write a sweep file."""
        spec = {
            "name": name,
            "seed": seed,
            "storage": storage or str(self.folder),
            "data": {"name": "digits"},
            "model": {"factory": "faulty_models:net"},
            "import_paths": [str(Path(__file__).parent)],
            "space": {
                "learning_rate": {"log_uniform": [0.02, 0.2]},
                "batch_size": 64,
                "epochs": 24,
                "pruning_method": "filter",
                "pruning_ratio": {"uniform": [0.1, 0.6]},
                "weight_bits": 8,
            },
            "search": {"method": "random", "trials": self.trials},
            "resources": {"max_concurrent": 2, **resources},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec, sort_keys=False))
        return path

    @property
    def environment(self) -> dict[str, str]:
        """Give what keeps a process inside the folder."""
        return {
            "TMPDIR": str(self.folder / "tmp"),  # and in it the lock of measurements
            "PARETUNE_CACHE": str(self.folder / "cache"),
            "RAY_TMPDIR": str(self.folder / "ray"),
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, sweep: Path, **environment: str) -> subprocess.Popen[str]:
        """Start a driver."""
        for name in ("ray", "tmp"):
            (self.folder / name).mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "paretune", "run", str(sweep), "--plain"],
            env={**os.environ, **self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )

    def run(self, sweep: Path, **environment: str) -> tuple[int, str]:
        """Run a driver to its end."""
        driver = self.start(sweep, **environment)
        output, _ = driver.communicate(timeout=PATIENCE_SECONDS)
        return driver.returncode, output

    def finish(self, sweep: Path, **environment: str) -> None:
        """Run a driver to its end, which should be a good one."""
        code, output = self.run(sweep, **environment)
        if code:
            raise CaseError(f"{sweep.name} ended with {code}:\n{output}")

    def reference(self, seed: int = 0) -> dict[str, Row]:
        """Give the rows of the undisturbed sweep of a seed."""
        if seed not in self.undisturbed:
            name = f"undisturbed-{seed}"
            self.finish(self.sweep(name, seed=seed))
            self.undisturbed[seed] = rows_of(self.folder / name)
        return self.undisturbed[seed]

    def result(
        self, done: str, study: Path, *, lost: int = 0, from_zero: int = 0, seed: int = 0,
        said: str = "",
    ) -> Result:  # fmt: skip
        """Compare a study with the undisturbed one of its seed."""
        rows, whole = rows_of(study), self.reference(seed)
        measured = {i: row for i, row in rows.items() if row["status"] == "measured"}
        other = sum(
            i not in whole or accuracies(row) != accuracies(whole[i])
            for i, row in measured.items()
        )
        return Result(done, lost, from_zero, len(rows), self.trials, other, said)

    def planted(
        self, kind: str, times: int, *, environment: dict[str, str] | None = None,
        **resources: Any,
    ) -> tuple[Path, str]:  # fmt: skip
        """Run a sweep with a fault planted in its workers; give study and output."""
        marks = self.folder / f"marks-{kind}"
        marks.mkdir()
        fault = {"PARETUNE_FAULT": f"{kind}:{marks}:{times}", **(environment or {})}
        code, output = self.run(self.sweep(kind, **resources), **fault)
        happened = len(list(marks.iterdir()))
        if code or happened != times:
            raise CaseError(f"exit {code}, the fault happened {happened} times\n{output}")
        return self.folder / kind, output


def rows_of(study: Path) -> dict[str, Row]:
    """Give the rows of a study in a folder, by trial id."""
    return {path.stem: json.loads(path.read_text()) for path in (study / "rows").glob("*.json")}


def accuracies(row: Row) -> list[float]:
    """Give all accuracies of a trial: of each epoch, and of its file."""
    curve = [point["accuracy"] for point in row["curve"]]
    return [*curve, row["metrics"]["accuracy"], row["test_accuracy"]]


def under_way(study: Path) -> dict[str, int]:
    """Give the epochs in the checkpoints of a study, by trial id."""
    heads = {path.stem: read_head(str(path)) for path in (study / "running").glob("*.ckpt")}
    return {trial_id: len(head["curve"]) for trial_id, head in heads.items() if head}


def lost(before: dict[str, Row], after: dict[str, Row]) -> int:
    """Count rows that are gone or changed."""
    return sum(numbers(after.get(i)) != numbers(row) for i, row in before.items())


def from_zero(rows: dict[str, Row], left: dict[str, int]) -> int:
    """Count trials that had a checkpoint and yet began again, or from an earlier epoch."""
    return sum(
        max(rows[i]["resumed_from"], default=0) < epochs for i, epochs in left.items() if i in rows
    )


def wait_until(condition: Callable[[], bool], driver: subprocess.Popen[str]) -> None:
    """Wait for something that a driver does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if driver.poll() is not None:
            raise CaseError(f"the driver ended early:\n{driver.communicate()[0]}")
        if time.monotonic() > deadline:
            driver.kill()
            raise CaseError("nothing happened")
        time.sleep(0.1)


def end_of(driver: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the end of a driver; give what it said."""
    output, _ = driver.communicate(timeout=PATIENCE_SECONDS)
    if driver.returncode != code:
        raise CaseError(f"exit {driver.returncode} instead of {code}:\n{output}")
    return output


def line_with(output: str, words: str) -> str:
    """Give the first line that has some words; nothing if none has."""
    return next((line.strip() for line in output.splitlines() if words in line), "")


def numbers(row: Row | None) -> Row | None:
    """Give a row without what the end of a sweep changes in it.

    The file of a model that leaves the front goes; that of one that stays is measured again.
    """
    if row is None:
        return None
    kept = {k: v for k, v in row.items() if k not in ("artifact", "latency", "measured_alone")}
    return {**kept, "metrics": {k: v for k, v in row["metrics"].items() if k != "latency_ms"}}
