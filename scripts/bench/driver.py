"""What a driver costs: thousands of trials that train nothing, through the real sweep and Ray.

    python scripts/bench/driver.py [--trials 5000] [--search random]

All that watches a sweep by default watches: lines on a console, TensorBoard's logs, the report.
Prints, every 500 trials: memory of the driver, trials and events per second since the last line,
and the driver's own CPU time per trial. All three should stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
EVERY = 500
EPOCHS = 3


def main() -> None:
    """Run the trials and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--search", default="random", help="method that suggests the trials")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        os.environ.update(RAY_TMPDIR=folder, HOME=folder, OMP_NUM_THREADS="1")
        run(Path(folder), options.trials, options.search)


def run(folder: Path, trials: int, method: str) -> None:
    """Run a sweep of trials that train nothing."""
    from ray import tune
    from rich.console import Console

    import trainables.tune_trial
    from paretune.sweeps import records_of, view_of
    from search.observer import SweepObserver
    from search.spec.spec_file import load_sweep
    from search.sweep import run_sweep
    from trainables.config import DeployConfig
    from trainables.contract import Latency, Measurement, Progress, Status, TrialReport
    from trainables.measure import environment

    latency = Latency(0.1, 0.09, 0.11, 1.0, "thread_cpu", 100, 1, 1, "cpu")

    class TrivialTrial(tune.Trainable):
        """Reports three epochs that were never trained, then a measurement of no file."""

        def setup(self, config, *, settings):
            self.reset_config(config)

        def reset_config(self, new_config):
            self.trial, self.epoch = new_config, 0
            return True

        def step(self):
            self.epoch += 1
            accuracy = min(1.0, self.trial["learning_rate"] * 5)
            progress = Progress(self.epoch, accuracy, 0.1, 0.1, 1000, 0.1, 1.0, 0, 1.0, 100)
            result = {**asdict(progress), "done": self.epoch == EPOCHS}
            if self.epoch == EPOCHS:
                size = round(1000 + 1e6 * self.trial["pruning_ratio"])  # a front of many models
                made = Measurement(accuracy, accuracy, size, 900, 100, latency, 1.0, {}, 0.0)
                report = TrialReport(Status.MEASURED, measurement=made, epochs_trained=EPOCHS)
                report.environment = environment(DeployConfig())
                result["reports"] = json.dumps([(self.trial, report.to_dict())])
            return result

    trainables.tune_trial.TuneTrial = TrivialTrial

    class Meter(SweepObserver):
        """Prints a line every so many trials."""

        done, begun = 0, False
        at, cpu = time.monotonic(), time.process_time()

        def trial_started(self, trial_id, config):
            if not self.begun:  # Ray and all libraries are there
                self.begun = True
                self.at, self.cpu = time.monotonic(), time.process_time()
                print(f"{0:6} {memory_mb():10.0f}", flush=True)

        def trial_ended(self, row):
            self.done += 1
            if self.done % EVERY:
                return
            seconds, cpu = time.monotonic() - self.at, time.process_time() - self.cpu
            print(
                f"{self.done:6} {memory_mb():10.0f} {EVERY / seconds:9.1f} "
                f"{EVERY * (EPOCHS + 1) / seconds:9.1f} {1000 * cpu / EVERY:16.2f}",
                flush=True,
            )
            self.at, self.cpu = time.monotonic(), time.process_time()

    file = folder / "sweep.yaml"
    file.write_text(
        f"name: trivial\nstorage: {folder}\ndata: {{name: digits}}\n"
        "space: {learning_rate: {uniform: [0.01, 0.2]}, epochs: 3,\n"
        "  pruning_method: filter, pruning_ratio: {uniform: [0.1, 0.6]}}\n"
        f"search: {{method: {method}, trials: {trials}, siblings: false}}\n"
        "resources: {max_concurrent: 2}\n"
    )
    print("trials  memory MB  trials/s  events/s  CPU ms per trial")
    spec = load_sweep(file)
    with (folder / "lines.txt").open("w") as lines:
        view = view_of(spec, Console(file=lines), plain=True)
        watching = [view, *records_of(spec, "paretune run sweep.yaml"), Meter()]
        outcome = run_sweep(spec, observers=watching)
    print(f"{len(outcome.rows)} rows")


def memory_mb() -> float:
    """Give the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
