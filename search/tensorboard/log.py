"""A watcher that writes TensorBoard logs beside the rows.

```
<study>/tensorboard/
├── experiment/         the schema of HParams
├── trials/<trial_id>/  curves, final metrics and the HParams session of one trial
└── sweep/              hypervolume, front, best accuracy per device profile, trials by status
```

Logs are a view of the rows: what is missing is written again from them when a sweep goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from search.front.front import ParetoFront
from search.front.growing import GrowingFront
from search.front.picks import PROFILES, NoModelFits
from search.observer import SweepObserver, SweepPlan
from search.spec.spec import SweepSpec
from search.study import storage
from search.study.rows import ResultRow
from search.study.study import Study
from search.tensorboard.events import EventLog
from search.tensorboard.hparams import final_metrics, write_end, write_experiment, write_start
from search.tensorboard.image import SIZE, front_png
from trainables.config import TrialConfig
from trainables.contract import Progress, Status

FOLDER = "tensorboard"
IMAGE_EVERY_SECONDS = 10.0
"""A picture has some 8 kB: one per trial of a long sweep would be most of the log."""


def logs_location(study_location: str) -> str:
    """Give where the logs of a study are."""
    return storage.join(study_location, FOLDER)


def write_logs(study: Study) -> str:
    """Write the logs that a study lacks, from its rows; give their location."""
    spec, rows = study.spec(), study.rows()
    log = TensorBoardLog(spec)
    log.sweep_started(
        SweepPlan(spec.name, study.location, None, rows, spec.objective_list, spec.max_concurrent)
    )
    log.sweep_ended(interrupted=False)
    return logs_location(study.location)


class TensorBoardLog(SweepObserver):
    """Writes what happens in a sweep, readable at once."""

    def __init__(self, spec: SweepSpec) -> None:
        self.spec = spec
        self.location = ""
        self.found = GrowingFront(spec.objective_list, spec.constraint_list)
        self.on_front: set[str] = set()
        self._running: dict[str, EventLog] = {}
        self._sweep: EventLog | None = None
        self._last_image = 0.0

    # --- the sweep -------------------------------------------------------------------------

    def sweep_started(self, plan: SweepPlan) -> None:
        """Write the schema, and whatever earlier rows have no log of their own."""
        self.location = logs_location(plan.location)
        logged = set(storage.list_names(storage.join(self.location, "trials")))
        if not storage.list_names(storage.join(self.location, "experiment")):
            with EventLog(storage.join(self.location, "experiment")) as log:
                write_experiment(log, self.spec, time.time())
        self._sweep = EventLog(storage.join(self.location, "sweep"))
        earlier = plan.earlier_rows
        self.found = GrowingFront(self.found.objectives, self.found.constraints, earlier)
        fresh = [row for row in earlier if row.trial_id not in logged]
        for row in fresh:
            self._write_whole(row)
        if earlier:
            self._write_front(fresh)

    def sweep_ended(self, *, interrupted: bool) -> None:
        """Write the last state and close all files."""
        for log in self._running.values():
            log.close()
        self._running.clear()
        if self._sweep is not None:
            if self.found.rows:
                self._write_image(self._sweep)
            self._sweep.close()
            self._sweep = None

    # --- trials ----------------------------------------------------------------------------

    def trial_started(self, trial_id: str, config: TrialConfig) -> None:
        """Begin a session; until it ends, TensorBoard shows its status as unknown."""
        log = self._running[trial_id] = EventLog(self._trial_location(trial_id))
        write_start(log, self.spec, config, time.time())
        log.flush()

    def epoch_ended(self, trial_id: str, progress: Progress) -> None:
        """Write the curves."""
        if (log := self._running.get(trial_id)) is None:
            return
        log.scalars(
            {
                "epoch/accuracy": progress.accuracy,
                "epoch/loss": progress.loss,
                "epoch/learning_rate": progress.learning_rate,
                "epoch/loss_scale": progress.loss_scale,
                "epoch/sparsity": progress.sparsity,
                "forecast/size_bytes": progress.size_bytes,
                "forecast/latency_ms": progress.latency_ms,
            },
            progress.epoch,
        )
        log.flush()

    def trial_ended(self, row: ResultRow) -> None:
        """End the session; write what it changed about the front."""
        self.found.put(row)
        if (log := self._running.pop(row.trial_id, None)) is not None:
            write_end(log, row, time.time())
            log.close()
        else:
            self._write_whole(row)
        self._write_front([row])

    def row_changed(self, row: ResultRow) -> None:
        """Write the final metrics again; TensorBoard shows the latest."""
        self.found.put(row)
        with EventLog(self._trial_location(row.trial_id)) as log:
            log.scalars(final_metrics(row), row.epochs_trained)
        self._write_front([row])

    def _trial_location(self, trial_id: str) -> str:
        return storage.join(self.location, "trials", trial_id)

    def _write_whole(self, row: ResultRow) -> None:
        """Write a trial that was not watched: a sibling, or one of an earlier run."""
        ended = _seconds(row.finished_at)
        with EventLog(self._trial_location(row.trial_id)) as log:
            write_start(log, self.spec, row.config, ended - row.seconds.get("wall", 0.0))
            for point in row.curve:
                names = ("accuracy", "loss", "learning_rate", "loss_scale")
                known = {f"epoch/{name}": point[name] for name in names if name in point}
                log.scalars(known, int(point["epoch"]))
            write_end(log, row, ended)

    # --- the front -------------------------------------------------------------------------

    def _write_front(self, fresh: Sequence[ResultRow]) -> None:
        front, step = self.found.front, len(self.found.rows)
        members = {row.trial_id for row in front.rows}
        changed = members ^ self.on_front
        changed |= {row.trial_id for row in fresh if row.status is Status.MEASURED}
        for trial_id in sorted(changed):
            with EventLog(self._trial_location(trial_id)) as log:
                log.scalars({"final/on_front": float(trial_id in members)}, step)
        self.on_front = members
        if self._sweep is not None:
            self._sweep.scalars(sweep_scalars(front), step)
            if time.monotonic() - self._last_image > IMAGE_EVERY_SECONDS:
                self._write_image(self._sweep)
            self._sweep.flush()

    def _write_image(self, log: EventLog) -> None:
        rows = self.found.rows
        log.image("front/accuracy_over_size", front_png(rows, self.found.front), SIZE, len(rows))
        self._last_image = time.monotonic()


def sweep_scalars(front: ParetoFront) -> dict[str, float]:
    """Give what is known of a sweep as a whole, by tag."""
    values = {"front/hypervolume": front.hypervolume, "front/size": float(len(front.rows))}
    values |= {f"trials/{status.value}": float(front.counts.get(status, 0)) for status in Status}
    for name, profile in PROFILES.items():
        try:
            values[f"best_accuracy/{name}"] = profile.pick(front).metrics["accuracy"]
        except NoModelFits:
            continue
    return values


def _seconds(moment: str) -> float:
    return (datetime.fromisoformat(moment) if moment else datetime.now(UTC)).timestamp()
