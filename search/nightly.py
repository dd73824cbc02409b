"""A sweep every night: each a new study that starts from what earlier nights found.

```
<storage>/<name>-nights/
├── <name>-2026-11-23/                   a study
└── <name>-2026-11-24/                   a study, with the best models of earlier nights in it
    ├── comparison.json                  what changed since the night before
    └── report.html                      the same at its end
```
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from search.errors import SpecError, StudyError
from search.front.compare import Comparison, compare, comparison_text
from search.front.front import read_front
from search.observer import SweepObserver
from search.report.writer import write_report
from search.spec.spec import SweepSpec
from search.study import storage
from search.study.rows import ResultRow
from search.study.study import Study
from search.sweep import SweepOutcome, run_sweep
from search.warm_start import WarmStart, add_rows
from trainables.data import load_data

COMPARISON_FILE = "comparison.json"
KEPT_NIGHTS = 14
"""Two weeks: enough to see a trend, and all that the searcher learns from."""
MAX_NAME = 52
"""A study's name has at most 63 characters; a night adds its date."""


@dataclass(frozen=True)
class Night:
    """What one night left behind."""

    outcome: SweepOutcome
    told: int
    """Rows of earlier nights that the searcher learnt from."""
    comparison: Comparison | None
    """With the latest earlier night; None if there is none, or the night was interrupted."""
    removed: tuple[str, ...]
    """Studies that were older than the kept nights."""


def night_spec(spec: SweepSpec, night: date) -> SweepSpec:
    """Give the sweep of one night: the same, in a study of its own.

    Raises:
        SpecError: the name leaves no room for a date.
    """
    if len(spec.name) > MAX_NAME:
        raise SpecError(f"name: has {len(spec.name)} characters; allowed at night: {MAX_NAME}")
    name = f"{spec.name}-{night.isoformat()}"
    return spec.model_copy(update={"storage": spec.nights_location, "name": name})


def run_night(
    spec: SweepSpec,
    night: date,
    *,
    keep: int = KEPT_NIGHTS,
    observers: Sequence[SweepObserver] = (),
) -> Night:
    """Run the sweep of one night, or go on with it; then compare it and remove old nights.

    The searcher is told all rows of kept nights that were measured on the same data, model and
    deploy settings, and the best of those models are copied into the new study: its front is
    never worse for having started anew.

    Args:
        spec: the sweep; every night spends its whole number of trials.
        night: names the study.
        keep: nights, this one included, whose studies are kept.
        observers: hear of what happens.

    Raises:
        SearchError: as `run_sweep`.
    """
    tonight = night_spec(spec, night)
    earlier = list(_earlier_nights(spec, night))
    start = _matching_rows(tonight, earlier)
    told = len(start.told)
    outcome = run_sweep(tonight, observers=observers, start=start)
    if outcome.interrupted:
        return Night(outcome, told, None, ())
    before = next((study for study in earlier if study.rows()), None)
    comparison = compare(read_front(before.location), outcome.front) if before else None
    if comparison:
        _write(outcome.study, comparison)
        write_report(outcome.study, then=before)
    return Night(outcome, told, comparison, tuple(_remove_old(spec, night, keep)))


def read_comparison(spec: SweepSpec, night: date) -> dict[str, Any] | None:
    """Read what a night found to have changed; None if it had nothing to compare with.

    Raises:
        StudyError: the night has no study.
        StorageError: the storage refused.
    """
    study = Study.open(night_spec(spec, night).study_location)
    path = storage.join(study.location, COMPARISON_FILE)
    if not storage.exists(path):
        return None
    found: dict[str, Any] = json.loads(storage.read(path))
    return found


# --- earlier nights ------------------------------------------------------------------------------


def _earlier_nights(spec: SweepSpec, night: date) -> Iterator[Study]:
    """Give the studies of earlier nights, the latest first."""
    folder = storage.absolute(spec.nights_location)
    for name in reversed(storage.list_names(folder)):
        day = _date_of(spec, name)
        if day and day < night and _is_study(folder, name):
            yield Study(storage.join(folder, name))


def _date_of(spec: SweepSpec, name: str) -> date | None:
    prefix, day = name[:-10], name[-10:]
    if prefix != f"{spec.name}-" or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", day):
        return None
    try:
        return date.fromisoformat(day)
    except ValueError:
        return None


def _is_study(folder: str, name: str) -> bool:
    try:
        Study.open(storage.join(folder, name))
    except StudyError:
        return False
    return True


def _matching_rows(spec: SweepSpec, earlier: Sequence[Study]) -> WarmStart:
    """Give the rows that count tonight; of equal configs the latest counts."""
    start = WarmStart()
    fingerprint = load_data(spec.data).fingerprint if earlier else ""
    for study in earlier:
        rows = study.rows()
        if _same_settings(study.spec(), spec) and _same_data(rows, fingerprint):
            add_rows(start, spec, study, rows)
            start.studies.append(study.location)
    return start


def _same_settings(then: SweepSpec, now: SweepSpec) -> bool:
    return (then.data, then.model, then.deploy) == (now.data, now.model, now.deploy)


def _same_data(rows: Sequence[ResultRow], fingerprint: str) -> bool:
    seen = {row.environment.get("data_fingerprint", fingerprint) for row in rows}
    return seen <= {fingerprint}


# --- the end of a night --------------------------------------------------------------------------


def _write(study: Study, comparison: Comparison) -> None:
    record = {**comparison.to_dict(), "text": comparison_text(comparison)}
    content = json.dumps(record, indent=1).encode()
    storage.write_whole(storage.join(study.location, COMPARISON_FILE), content)


def _remove_old(spec: SweepSpec, night: date, keep: int) -> Iterator[str]:
    for study in list(_earlier_nights(spec, night))[max(keep - 1, 0) :]:
        storage.remove_folder(study.location)
        yield study.location
