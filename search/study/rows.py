"""The record of one trial. Stored rows tolerate unknown keys: older code reads newer rows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trainables.config import TrialConfig
from trainables.contract import Status


class ResultRow(BaseModel):
    """One trial: what was asked, how it ended, what was measured."""

    # JSON has no NaN; as strings, the losses of a diverged trial read back as they were.
    model_config = ConfigDict(extra="ignore", frozen=True, ser_json_inf_nan="strings")

    trial_id: str
    number: int
    """Place in the order of finishing, from 1."""
    status: Status
    reason: str = ""
    """Why it ended so, for every status but `measured`."""
    config: TrialConfig
    origin: Literal["trained", "continued", "sibling", "copied"] = "trained"
    """`continued`: a trial that began with the network that `parent` had trained up to pruning;
    `sibling`: measured on the network that `parent` trained, under other bits."""
    parent: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    """Values by metric name. A `measured` row has them all; a stopped one those of its last epoch;
    an infeasible one those of its forecast."""
    test_accuracy: float | None = None
    latency: dict[str, Any] | None = None
    """The measurement's `Latency`: interval, clock, runs, threads, device."""
    measured_alone: bool = False
    """Whether `latency` was measured at the end of the sweep, with no trial beside it."""
    forecast: dict[str, Any] | None = None
    artifact: str | None = None
    """File name inside the study's artifact folder; None once a dominated model was removed."""
    operators: dict[str, int] = Field(default_factory=dict)
    max_disagreement: float | None = None
    pruning: dict[str, Any] | None = None
    epochs_trained: int = 0
    """Of the network, by whomever."""
    epochs_spent: int | None = None
    """Trained for this row: over all rows, the cost of the study. None in older rows."""
    without_payoff: list[str] = Field(default_factory=list)
    """In what the file is no better than its own uncompressed self, beyond the interval."""
    uncompressed: dict[str, Any] | None = None
    """Size and latency of the network neither pruned nor quantized, of the same session."""
    skipped_steps: int = 0
    curve: list[dict[str, float]] = Field(default_factory=list)
    """One entry per epoch: `Progress` without size and latency, which are those of `forecast`."""
    environment: dict[str, Any] = Field(default_factory=dict)
    resumed_from: list[int] = Field(default_factory=list)
    """Epochs after which it went on from a checkpoint: a worker, node or driver had been lost, or
    it had been stopped and was good enough later."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """Seconds by phase, and `wall`: from the driver's start of the trial to its end."""
    finished_at: str = ""
    """UTC, ISO 8601."""

    @property
    def is_trial(self) -> bool:
        """Whether the study ran a trial for it; siblings and copies are extra."""
        return self.origin in ("trained", "continued")


def put(rows: list[ResultRow], row: ResultRow) -> None:
    """Put a row in the place of the one of the same trial, or at the end."""
    for place, other in enumerate(rows):
        if other.trial_id == row.trial_id:
            rows[place] = row
            return
    rows.append(row)
