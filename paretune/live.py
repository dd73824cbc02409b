"""Watching a sweep: a live view for terminals, plain lines for logs and pipes."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from paretune.tables import metric_text, metrics_text, seconds_text, settings_text
from search.front.front import ParetoFront
from search.front.growing import GrowingFront
from search.objectives import Constraint, broken, losses
from search.observer import SweepObserver, SweepPlan
from search.study.rows import ResultRow
from trainables.config import TrialConfig
from trainables.contract import Progress, Status

REFRESHES_PER_SECOND = 4
BAR_WIDTH = 40
RECENT_TRIALS = 100
"""From whose median the time that is left is foretold."""

STYLES = {
    Status.MEASURED: "green",
    Status.STOPPED: "yellow",
    Status.INFEASIBLE: "yellow",
    Status.DIVERGED: "red",
    Status.FAILED: "red",
}


class _Watcher(SweepObserver):
    """Keeps what both views show. Siblings are extra rows, they are no trials."""

    def __init__(
        self,
        console: Console,
        *,
        names: Sequence[str] = (),
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self.console = console
        self.names = tuple(names)
        """Dimensions to show: those that vary in the sweep."""
        self.constraints = tuple(constraints)
        self.plan: SweepPlan | None = None
        self.found: GrowingFront | None = None
        self._ended: set[str] = set()
        """Trials that have ended, of earlier runs too; a stopped one may go on and end again."""
        self.running: dict[str, tuple[TrialConfig, Progress | None]] = {}
        # Of this run alone: an earlier one may have had another machine.
        self._walls: deque[float] = deque(maxlen=RECENT_TRIALS)

    def sweep_started(self, plan: SweepPlan) -> None:
        self.plan = plan
        self.found = GrowingFront(plan.objectives, self.constraints, plan.earlier_rows)
        self._ended = {row.trial_id for row in plan.earlier_rows if row.is_trial}

    @property
    def done(self) -> int:
        return len(self._ended)

    @property
    def front(self) -> ParetoFront | None:
        return self.found.front if self.found else None

    def trial_started(self, trial_id: str, config: TrialConfig) -> None:
        self.running[trial_id] = (config, None)

    def epoch_ended(self, trial_id: str, progress: Progress) -> None:
        if trial_id in self.running:
            self.running[trial_id] = (self.running[trial_id][0], progress)

    def trial_ended(self, row: ResultRow) -> None:
        self.running.pop(row.trial_id, None)
        if row.is_trial:
            self._ended.add(row.trial_id)
            if "wall" in row.seconds:
                self._walls.append(row.seconds["wall"])
        if self.found:
            self.found.put(row)

    def row_changed(self, row: ResultRow) -> None:
        if self.found:
            self.found.put(row)

    def seconds_left(self) -> float | None:
        """Give the time that the remaining trials take, None before the first has ended."""
        if self.plan is None or self.plan.trials is None:
            return None
        left, walls = self.plan.trials - self.done, list(self._walls)
        if not walls or left <= 0:
            return None if left > 0 else 0.0
        return left * statistics.median(walls) / max(1, min(self.plan.max_concurrent, left))


class LiveView(_Watcher):
    """A view that redraws itself in place, at most four times a second."""

    _live: Live | None = None
    _starting = False
    """Until the first trial: a Ray cluster takes seconds to start."""

    def sweep_started(self, plan: SweepPlan) -> None:
        """Begin to draw."""
        super().sweep_started(plan)
        self._starting = True
        self._live = Live(
            get_renderable=self.render,
            console=self.console,
            refresh_per_second=REFRESHES_PER_SECOND,
        )
        self._live.start()

    def trial_started(self, trial_id: str, config: TrialConfig) -> None:
        """Take the trial in."""
        super().trial_started(trial_id, config)
        self._starting = False

    def sweep_ended(self, *, interrupted: bool) -> None:
        """Draw the last state and leave it on the screen."""
        self.running.clear()
        self._starting = False
        if self._live is not None:
            self._live.stop()
            self._live = None

    # --- drawing -----------------------------------------------------------------------------

    def render(self) -> RenderableType:
        """Draw the sweep as it is now.

        rich calls this from a thread of its own, between and during the calls of the driver: what
        changes is copied before it is walked through.
        """
        if self.plan is None:
            return Text("")
        running = list(self.running.items())[: max(1, self.plan.max_concurrent)]
        front = self.front
        return Group(
            self._bar(self.plan),
            self._counts(front),
            *_best(front),
            *(self._trial(trial_id, *state) for trial_id, state in running),
        )

    def _bar(self, plan: SweepPlan) -> RenderableType:
        left = self.seconds_left()
        total = "?" if plan.trials is None else str(plan.trials)
        line = Table.grid(padding=(0, 1))
        line.add_row(
            Text(plan.name, style="bold"),
            ProgressBar(
                total=plan.trials, completed=self.done, width=BAR_WIDTH, pulse=plan.trials is None
            ),
            f"{self.done}/{total} trials",
            "" if not left or not self.running else f"about {seconds_text(left)} left",
        )
        return line

    def _counts(self, front: ParetoFront | None) -> Text:
        counts = front.counts if front else {}
        line = Text("starting" if self._starting else f"{len(self.running)} running")
        for status in Status:
            if count := counts.get(status):
                line.append(", ").append(f"{count} {status.value}", STYLES[status])
        if front is not None and front.rows:
            line.append(f"; front of {len(front.rows)}, hypervolume {front.hypervolume:.4f}")
        return line

    def _trial(self, trial_id: str, config: TrialConfig, progress: Progress | None) -> Text:
        accuracy = "-" if progress is None else f"{progress.accuracy:.3f}"
        return Text(
            f"  {trial_id}  epoch {progress.epoch if progress else 0}/{config.epochs}  "
            f"acc {accuracy:5}  {settings_text(config, self.names)}",
            style="dim",
            overflow="ellipsis",
            no_wrap=True,
        )


def _best(front: ParetoFront | None) -> list[Text]:
    """Give the best value of each objective, and whose it is: nothing while the front is empty."""
    if front is None or not front.rows:
        return []
    best = losses([row.metrics for row in front.rows], front.objectives).argmin(axis=0)
    parts = []
    for objective, place in zip(front.objectives, best, strict=True):
        row, name = front.rows[place], objective.metric.name
        parts.append(f"{name} {metric_text(name, row.metrics[name])} ({row.trial_id})")
    return [Text("best: " + ", ".join(parts))]


class PlainLines(_Watcher):
    """One line per ended trial, and one when it joins the front."""

    def sweep_started(self, plan: SweepPlan) -> None:
        """Print what is about to run."""
        super().sweep_started(plan)
        total = (
            "trials until the space is covered" if plan.trials is None else f"{plan.trials} trials"
        )
        earlier = f", {self.done} of them done before" if self.done else ""
        self._print(f"{plan.name}: {total}{earlier}, {plan.max_concurrent} at a time")

    def trial_ended(self, row: ResultRow) -> None:
        """Print the row, and the front if the row joined it."""
        before = self.front.hypervolume if self.front else 0.0
        super().trial_ended(row)
        self._print(self._line(row), STYLES[row.status] if row.status != Status.MEASURED else "")
        if self.front is not None and row in self.front.rows:
            self._print(
                f"        front of {len(self.front.rows)}, "
                f"hypervolume {self.front.hypervolume:.4f} "
                f"(+{self.front.hypervolume - before:.4f})"
            )

    def trial_interrupted(self, trial_id: str, reason: str) -> None:
        """Print why, and that it goes on."""
        self._print(f"        {trial_id} goes on from its last checkpoint: {reason}", "yellow")

    def _line(self, row: ResultRow) -> str:
        total = "?" if self.plan is None or self.plan.trials is None else str(self.plan.trials)
        head = f"[{self.done:>{len(total)}}/{total}] {row.trial_id} {row.status.value:<8}"
        parts = [head, metrics_text(row), settings_text(row.config, self.names)]
        if row.origin != "trained" and row.parent:
            parts.append(f"({row.origin} of {row.parent})")
        if row.reason:
            parts.append(f"- {row.reason}")
        elif row.status == Status.MEASURED and (bad := broken(row.metrics, self.constraints)):
            parts.append(f"- breaks {', '.join(map(str, bad))}")
        return "  ".join(part for part in parts if part)

    def _print(self, line: str, style: str = "") -> None:
        # Never wrapped: one trial, one line, whatever the width.
        self.console.print(Text(line, style=style), soft_wrap=True, highlight=False)
