"""Writing a study's report: when asked, and while a sweep runs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping

from search.front.compare import Comparison, compare
from search.front.picks import PROFILES, Profile
from search.observer import SweepObserver, SweepPlan
from search.report.page import Report, render
from search.spec.spec import SweepSpec
from search.study import storage
from search.study.rows import ResultRow
from search.study.study import Study

FILE = "report.html"
REFRESH_SECONDS = 30.0
"""Between two writings while a sweep runs. One takes about 0.1 s with a few hundred rows, and the
driver waits for it; a file of 2 MB more often than this would be most of a slow storage's work."""
SHARE = 0.02
"""Of the driver's time that writing may take: with thousands of rows it is done less often."""


def report_location(study_location: str) -> str:
    """Give where the report of a study is."""
    return storage.join(study_location, FILE)


def write_report(
    study: Study,
    *,
    then: Study | None = None,
    profiles: Mapping[str, Profile] = PROFILES,
    to: str | None = None,
) -> str:
    """Write the report of a study as it is now; give its location.

    Args:
        study: to report on.
        then: an earlier study to compare with.
        profiles: of devices.
        to: where to write; None: into the study.

    Raises:
        StudyError: a study is damaged.
        StorageError: the storage refused.
    """
    spec, rows = study.spec(), tuple(study.rows())
    report = Report(
        spec,
        study.location,
        rows,
        command=_command(study),
        profiles=profiles,
        compared=_compared(then, study, profiles),
    )
    location = to or report_location(study.location)
    storage.write_whole(location, render(report).encode())
    return location


def _command(study: Study) -> str:
    """Give the latest command that worked on the study, as one would type it."""
    words = study.environment().get("command")
    if not isinstance(words, list) or not words:
        return ""
    program, *arguments = map(str, words)
    return shlex.join([program.rpartition("/")[2], *arguments])


def _compared(
    then: Study | None, now: Study, profiles: Mapping[str, Profile]
) -> Comparison | None:
    if then is None:
        return None
    before, after = (Report(s.spec(), s.location, tuple(s.rows())).front for s in (then, now))
    return compare(before, after, profiles=profiles)


class ReportWriter(SweepObserver):
    """Keeps the report of a sweep under way fresh, and writes the last one at its end."""

    def __init__(self, spec: SweepSpec, command: str, every_seconds: float = REFRESH_SECONDS):
        self.spec = spec
        self.command = command
        self.every_seconds = every_seconds
        self.location = ""
        self.rows: dict[str, ResultRow] = {}
        """By trial id: a row may be put in the place of an earlier one."""
        self._next_at = float("-inf")

    def sweep_started(self, plan: SweepPlan) -> None:
        """Take the earlier rows in."""
        self.location = plan.location
        self.rows = {row.trial_id: row for row in plan.earlier_rows}

    def trial_ended(self, row: ResultRow) -> None:
        """Write, unless that was done a short while ago."""
        self.rows[row.trial_id] = row
        started = time.monotonic()
        if started >= self._next_at:
            self._write(running=True)
            ended = time.monotonic()
            self._next_at = ended + max(self.every_seconds, (ended - started) / SHARE)

    def row_changed(self, row: ResultRow) -> None:
        """Keep the newer numbers for the next writing."""
        self.rows[row.trial_id] = row

    def sweep_ended(self, *, interrupted: bool) -> None:
        """Write the whole report."""
        if self.rows:
            self._write(running=False)

    def _write(self, *, running: bool) -> None:
        report = Report(
            self.spec,
            self.location,
            tuple(self.rows.values()),
            running=running,
            command=self.command,
        )
        storage.write_whole(report_location(self.location), render(report).encode())
