"""One trial: forecast, train, prune, go on training, quantize, export, measure the file.

The recipe knows nothing of Ray: see `tune_trial.py`.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from trainables import storage
from trainables.artifact import (
    TrainedNetwork,
    export_network,
    forecast_file,
    make_file,
    measure_file,
    write_and_read_back,
)
from trainables.compress import Compression, prune_untrained
from trainables.config import DataConfig, DeployConfig, TrialConfig
from trainables.contract import Forecast, Latency, Progress, Status, TrialReport
from trainables.data import load_data
from trainables.errors import DivergedError, StorageRefusedError, TrialError
from trainables.export import count_parameters
from trainables.measure import environment
from trainables.models import build_model
from trainables.running import RunningFile
from trainables.shared import SharedNetwork
from trainables.train import Training

log = logging.getLogger("paretune")

Ended = list[tuple[TrialConfig, TrialReport]]
"""Reports of an ended trial: its own first, then one per sibling."""


@dataclass(frozen=True)
class TrialSettings:
    """What all trials of a sweep share."""

    data: DataConfig
    deploy: DeployConfig
    artifacts_location: str
    """Folder for the artifacts: any fsspec location that every node reaches."""
    bounds: dict[str, tuple[float, float]]
    """Hard (low, high) by metric name, for metrics that the forecast knows."""
    running_location: str | None = None
    """Folder for checkpoints of trials under way; None: a trial that is lost begins again."""
    keep_every_epoch: bool = False
    """Whether each epoch leaves a checkpoint: a stopped trial may have to go on from it."""
    sibling_bits: tuple[tuple[int, int], ...] = ()
    """(weight_bits, activation_bits) under which each trained network is measured as well."""
    shared_location: str | None = None
    """Folder for trained networks from which trials that train alike go on; None: nobody does."""
    threads: int = 1
    """CPU threads of training and scoring."""
    gpu: bool = False
    import_paths: tuple[str, ...] = ()
    """Put in front of `sys.path` in the worker, so that a model factory is found."""


_data = lru_cache(maxsize=2)(load_data)
"""A worker serves many trials of one sweep: it opens the data once."""
_forecasts: dict[str, Forecast] = {}
"""By structure: trials that differ only in training share one forecast per worker."""
_uncompressed: dict[str, Forecast] = {}
"""The same by model, of networks neither pruned nor quantized."""


class Trial:
    """One run of one config; every `step` is one epoch, the first begins with the forecast."""

    def __init__(self, config: TrialConfig, settings: TrialSettings):
        self.config = config
        self.settings = settings
        self.report = TrialReport(Status.FAILED)
        self.skipped_steps = 0
        self.train_seconds = 0.0
        self.training: Training | None = None
        self.curve: list[Progress] = []
        self.running = RunningFile(
            settings.running_location, config.trial_id, always=settings.keep_every_epoch
        )
        self.peak_memory_bytes = 0
        with self.phase("load"):
            self.data = _data(settings.data)
        self.shared = SharedNetwork(settings.shared_location, config, self.data.fingerprint)
        self.compression = Compression(config, self.data, self.shared.name)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Add the time of the block to the seconds of a phase."""
        return phase(self.report, name)

    def step(self) -> tuple[Progress | None, Ended]:
        """Run one epoch; give its progress (None if the trial never trained) and how it ended.

        A trial's own fault ends the trial with a reason.

        Raises:
            StorageRefusedError: the model file cannot be written; no trial's fault.
        """
        try:
            return self._step()
        except StorageRefusedError:
            raise
        except DivergedError as error:
            return None, self.end(Status.DIVERGED, str(error))
        except TrialError as error:
            return None, self.end(Status.FAILED, str(error))
        except (MemoryError, torch.OutOfMemoryError) as error:
            self.training = None  # the next trial in this worker needs the memory
            return None, self.end(Status.FAILED, out_of_memory(error, gpu=self.settings.gpu))
        except Exception as error:
            log.exception("trial %s failed", self.config.trial_id)
            return None, self.end(Status.FAILED, f"{type(error).__name__}: {error}")

    def _step(self) -> tuple[Progress | None, Ended]:
        if self.training is None:
            self.training = self.go_on()
        if self.training is None:
            with self.phase("forecast"):
                self.report.forecast = self.forecast()
            if reason := broken_bounds(self.report.forecast, self.settings.bounds):
                return None, self.end(Status.INFEASIBLE, reason)
            with self.phase("build"):
                self.training = self.start_training()
                self.continue_shared(self.training)
        if self.training.epoch >= self.config.epochs:
            return None, self.finish(self.training)
        self.compress(self.training)
        progress = self.train_epoch(self.training, self.report.forecast)
        self.curve.append(progress)
        self.leave_checkpoint(self.training)
        if self.training.epoch < self.config.epochs:
            return progress, []
        return progress, self.finish(self.training)

    def end(self, status: Status, reason: str) -> Ended:
        """End the trial without a measurement."""
        self.report.status, self.report.reason = status, reason
        self.report.environment = self.environment()
        return [(self.config, self.report)]

    # --- going on elsewhere ----------------------------------------------------------------

    def leave_checkpoint(self, training: Training) -> None:
        """Leave in the study what another worker needs to go on bit for bit."""
        report = asdict(self.report)
        head = {
            "config": self.config.model_dump(),
            "curve": [asdict(progress) for progress in self.curve],
            "report": {name: report[name] for name in KEPT_OF_REPORT},
            "train_seconds": self.train_seconds,
        }
        with self.phase("checkpoint"):
            self.running.save(head, training.state_dict)

    def go_on(self) -> Training | None:
        """Take up the trial where a lost worker or a dead driver left it; None if it is new."""
        saved = self.running.load()
        if saved is None:
            return None
        head, state = saved
        with self.phase("build"):
            training = self.start_training()
            self.compression.restore(training, head["report"]["pruning"], epoch=state["epoch"])
            training.load_state_dict(state)
        self.curve = [Progress(**progress) for progress in head["curve"]]
        self.train_seconds = head["train_seconds"]
        self.peak_memory_bytes = self.curve[-1].peak_memory_bytes if self.curve else 0
        self._restore_report(head["report"], training.epoch)
        return training

    def _restore_report(self, kept: dict[str, Any], epoch: int) -> None:
        seconds = self.report.seconds
        for name in KEPT_OF_REPORT:
            setattr(self.report, name, kept[name])
        forecast = kept["forecast"]
        self.report.forecast = Forecast(**forecast | {"latency": Latency(**forecast["latency"])})
        for name, more in seconds.items():
            self.report.seconds[name] = self.report.seconds.get(name, 0.0) + more
        self.report.resumed_from.append(epoch)
        self.skipped_steps = self.report.skipped_steps

    # --- forecast --------------------------------------------------------------------------

    def forecast(self) -> Forecast:
        """Measure size and latency of what the trial will export, on initial weights."""
        config = self.config
        key = repr((config.structure_part(), self.settings.data, self.settings.deploy))
        if key not in _forecasts:
            model = self.build()
            prune_untrained(model, config, self.data)
            network = export_network(model, self.data)
            _forecasts[key] = forecast_file(network, config, self.data, self.settings.deploy)
        return replace(_forecasts[key], exact=config.fixed_structure)

    # --- training --------------------------------------------------------------------------

    def build(self) -> torch.nn.Module:
        """Build the model with its initial weights."""
        return build_model(
            self.config.model,
            self.config.model_args,
            in_channels=self.data.channels,
            image_size=self.data.image_size,
            classes=len(self.data.classes),
            seed=self.config.seed,
        )

    def start_training(self) -> Training:
        """Put a fresh model on the device."""
        torch.set_num_threads(self.settings.threads)
        device = torch.device("cuda" if self.settings.gpu else "cpu")
        return Training(self.config, self.build(), self.data, device=device)

    def continue_shared(self, training: Training) -> None:
        """Take over what a trial that trains alike has left, if one has."""
        if found := self.shared.load():
            head, state = found
            training.load_state_dict(state)
            self.report.continued_from = head["trial_id"]
            self.train_seconds = head["train_seconds"]
            self.skipped_steps = head["skipped_steps"]
            self.peak_memory_bytes = head["peak_memory_bytes"]

    def share(self, training: Training) -> None:
        """Keep the network for trials that train alike up to here."""
        if self.report.continued_from:
            return
        head = {
            "trial_id": self.config.trial_id,
            "train_seconds": self.train_seconds,
            "skipped_steps": self.skipped_steps,
            "peak_memory_bytes": self.peak_memory_bytes,
        }
        with self.phase("checkpoint"):
            self.shared.save(head, training.state_dict)

    def compress(self, training: Training) -> None:
        """Do what is due before the next epoch; the epochs that follow are its fine-tuning."""
        if training.epoch == self.config.shared_epochs:
            self.share(training)
        with self.phase("compress"):
            self.report.pruning = self.compression.prepare(training) or self.report.pruning

    def train_epoch(self, training: Training, forecast: Forecast) -> Progress:
        """Train one epoch and evaluate the model in memory on the validation images."""
        with self.phase("train"):
            stats = training.train_epoch()
        with self.phase("evaluate"):
            accuracy = training.evaluate(self.data.val)
        self.skipped_steps += stats.skipped_steps
        self.train_seconds += stats.seconds
        self.peak_memory_bytes = max(self.peak_memory_bytes, stats.peak_memory_bytes)
        self.report.epochs_trained = training.epoch
        self.report.epochs_spent += 1
        self.report.skipped_steps = self.skipped_steps
        return Progress(
            epoch=training.epoch,
            accuracy=accuracy,
            loss=stats.loss,
            learning_rate=stats.learning_rate,
            size_bytes=forecast.size_bytes,
            latency_ms=forecast.latency.ms,
            train_seconds=self.train_seconds,
            skipped_steps=self.skipped_steps,
            loss_scale=stats.loss_scale,
            parameters=count_parameters(training.model),
            sparsity=self.sparsity(),
            peak_memory_bytes=self.peak_memory_bytes,
        )

    def sparsity(self) -> float:
        """Give the share of the parameters that pruning has taken so far."""
        pruned = self.report.pruning
        return 1 - pruned["parameters_after"] / pruned["parameters_before"] if pruned else 0.0

    # --- from weights to numbers -----------------------------------------------------------

    def finish(self, training: Training) -> Ended:
        """Export once, then measure under the trial's own bits and under its siblings'."""
        self.report.environment = self.environment()
        with self.phase("export"):
            network = export_network(copy.deepcopy(training.model), self.data)
        ended: Ended = []
        for config in self.own_and_siblings():
            own = config == self.config
            report = self.report if own else self.report.for_sibling()
            try:
                self.measure(config, network, report)
            except StorageRefusedError:
                raise
            except TrialError as error:
                report.status, report.reason = Status.FAILED, str(error)
            ended.append((config, report))
        return ended

    def own_and_siblings(self) -> list[TrialConfig]:
        """Give the trial's own config, then the same network under every other pair of bits."""
        # Quantization-aware training was for the trial's own bits.
        pairs = () if self.config.quantization == "qat" else self.settings.sibling_bits
        found = [self.config]
        for weight, activation in pairs:
            bits = {"weight_bits": weight, "activation_bits": activation}
            sibling = self.config.model_copy(update=bits).canonical()
            if sibling not in found:
                found.append(sibling)
        return found

    def uncompressed(self) -> Forecast:
        """Measure the network neither pruned nor quantized, on initial weights."""
        config = self.config
        key = repr((config.model, config.model_args, self.settings.data, self.settings.deploy))
        if key not in _uncompressed:
            network = export_network(self.build(), self.data)
            plain = TrialConfig(model=config.model, model_args=config.model_args)
            _uncompressed[key] = forecast_file(network, plain, self.data, self.settings.deploy)
        return _uncompressed[key]

    def measure(self, config: TrialConfig, network: TrainedNetwork, report: TrialReport) -> None:
        """Make one file and measure it into the report."""
        with phase(report, "quantize"):
            file = make_file(network, config, self.data)
        with phase(report, "write"):
            report.artifact = f"{config.trial_id}.onnx"
            location = f"{self.settings.artifacts_location}/{report.artifact}"
            try:
                file = write_and_read_back(file, location)
            except OSError as error:
                text = f"cannot write {location}: {storage.refusal(error)}"
                raise StorageRefusedError(text) from error
        with phase(report, "measure"):
            report.measurement = measure_file(
                file,
                network,
                config,
                self.data,
                self.settings.deploy,
                threads=self.settings.threads,
                train_seconds=self.train_seconds,
                peak_memory_bytes=self.peak_memory_bytes,
                uncompressed=self.uncompressed(),
            )
            if config.compressed:
                report.without_payoff = report.measurement.without_payoff()
        report.status = Status.MEASURED

    def environment(self) -> dict[str, Any]:
        """Say what the numbers were made with."""
        found = {**environment(self.settings.deploy), "data_fingerprint": self.data.fingerprint}
        if self.settings.gpu:
            found["training_device"] = torch.cuda.get_device_name()
        return found


KEPT_OF_REPORT = (
    "forecast",
    "epochs_trained",
    "epochs_spent",
    "continued_from",
    "skipped_steps",
    "pruning",
    "seconds",
    "resumed_from",
)
"""What of a report a checkpoint keeps: all that is known before the end."""


def out_of_memory(error: BaseException, *, gpu: bool) -> str:
    """Say what a trial lacked, and what helps."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    where = "GPU memory" if gpu else "memory"
    return f"out of {where}: {lines[0]}; try a smaller batch_size or network"


@contextmanager
def phase(report: TrialReport, name: str) -> Iterator[None]:
    """Add the time of the block to the report's seconds of a phase."""
    started = time.perf_counter()
    try:
        yield
    finally:
        report.seconds[name] = report.seconds.get(name, 0.0) + time.perf_counter() - started


def broken_bounds(forecast: Forecast, bounds: Mapping[str, tuple[float, float]]) -> str:
    """Say which hard bound the forecast surely breaks; empty if none.

    A latency breaks a bound only with its whole confidence interval. Where trained weights will
    decide the structure, nothing is sure yet.
    """
    if not forecast.exact:
        return ""
    ranges = {
        "size_bytes": (forecast.size_bytes, forecast.size_bytes),
        "parameters": (forecast.parameters, forecast.parameters),
        "latency_ms": (forecast.latency.low_ms, forecast.latency.high_ms),
    }
    for name, (low, high) in bounds.items():
        least, most = ranges[name]
        if least > high:
            return f"forecast {name} {least:g} is above the bound {high:g}"
        if most < low:
            return f"forecast {name} {most:g} is below the bound {low:g}"
    return ""
