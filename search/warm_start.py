"""Starting a sweep from what other studies found.

A study *matches* if its numbers can be compared with the new ones: same data, model, deploy
settings and software. The searcher learns from all its rows, does not repeat them, and the best
of its models are copied into the new study. The rows of a study that does not match can be given
as hints: the searcher then trusts its accuracies little and its sizes and latencies not at all.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from search.errors import StorageError, StudyError
from search.front.front import ParetoFront
from search.spec.spec import SweepSpec
from search.study import storage
from search.study.rows import ResultRow
from search.study.study import Study
from trainables.contract import Status
from trainables.data import load_data
from trainables.measure import environment

log = logging.getLogger("paretune")

SOFTWARE = ("paretune", "torch", "onnx", "onnxruntime")
"""Parts of a row's environment that numbers depend on; on one machine, its `cpu` as well."""


@dataclass
class WarmStart:
    """What a sweep starts from."""

    rows: dict[str, tuple[ResultRow, Study]] = field(default_factory=dict)
    """Rows that count as if they were this study's, by trial id, each with its own study."""
    hints: list[ResultRow] = field(default_factory=list)
    """Rows of studies that do not match."""
    studies: list[str] = field(default_factory=list)
    """Locations of all of them."""

    @property
    def told(self) -> list[ResultRow]:
        """Give the rows that count."""
        return [row for row, _ in self.rows.values()]


def read_parents(spec: SweepSpec, locations: Iterable[str], *, anyway: bool) -> WarmStart:
    """Read the studies that a sweep is to start from; of equal configs the first one counts.

    Args:
        spec: the sweep.
        locations: of the studies.
        anyway: take rows of studies that do not match as hints.

    Raises:
        StudyError: there is no such study, or one does not match: the message says why.
        DataError: the sweep's data cannot be read.
        StorageError: the storage refused.
    """
    start, refused = WarmStart(), []
    fingerprint = load_data(spec.data).fingerprint
    for study in [Study.open(location) for location in locations]:
        start.studies.append(study.location)
        rows = study.rows()
        reasons = differences(spec, study.spec(), rows, fingerprint)
        if not reasons:
            add_rows(start, spec, study, rows)
        elif anyway:
            start.hints += [row for row in rows if spec.space.contains(row.config)]
        else:
            refused += [f"{study.location}: {reason}" for reason in reasons]
    if refused:
        raise StudyError(
            "cannot start from rows whose numbers cannot be compared:\n  "
            + "\n  ".join(refused)
            + "\nLeave these studies out, or add --from-anyway to take their rows as hints."
        )
    return start


def differences(
    spec: SweepSpec, then: SweepSpec, rows: Sequence[ResultRow], fingerprint: str
) -> list[str]:
    """Say why the rows of another study cannot be compared with those of a sweep.

    Args:
        spec: the sweep.
        then: the other study's sweep.
        rows: its rows.
        fingerprint: of the sweep's data.
    """
    found = [
        f"its `{key}` is {getattr(then, key)!r}, not {getattr(spec, key)!r}"
        for key in ("data", "model", "deploy")
        if getattr(then, key) != getattr(spec, key)
    ]
    here = environment(spec.deploy) | {"data_fingerprint": fingerprint}
    # On a cluster the driver's machine is not the one that measures.
    keys = (*SOFTWARE, "data_fingerprint", *(() if os.environ.get("RAY_ADDRESS") else ("cpu",)))
    for key in keys:
        others = {row.environment[key] for row in rows if key in row.environment} - {here[key]}
        found += [
            f"measured with {key} {other}, here it is {here[key]}" for other in sorted(others)
        ]
    return found


def add_rows(start: WarmStart, spec: SweepSpec, study: Study, rows: Iterable[ResultRow]) -> None:
    """Let the rows of a matching study count, unless they failed: that may work now."""
    for row in rows:
        if row.status is not Status.FAILED and spec.space.contains(row.config):
            start.rows.setdefault(row.trial_id, (row, study))


def begin(spec: SweepSpec, study: Study, start: WarmStart | None) -> WarmStart:
    """Let a study begin with what is known: the best models are copied, their studies noted.

    Args:
        spec: the sweep.
        study: its own study, whose lease is held.
        start: what it starts from; None: the same as last time, as far as it is still there.

    Returns:
        What it starts from.

    Raises:
        StorageError: the storage refused.
    """
    if start is None:
        start = _as_last_time(spec, study)
    else:
        study.write_parents(start.studies)
    copy_front(spec, study, start)
    return start


def _as_last_time(spec: SweepSpec, study: Study) -> WarmStart:
    """Read again the studies that a study was begun from; one that is gone counts no more."""
    start = WarmStart()
    for location in study.parents():
        try:
            found = read_parents(spec, [location], anyway=True)
        except (StudyError, StorageError) as error:
            log.warning("goes on without the rows of an earlier study: %s", error)
            continue
        for trial_id, row in found.rows.items():
            start.rows.setdefault(trial_id, row)
        start.hints += found.hints
        start.studies.append(location)
    return start


def copy_front(spec: SweepSpec, study: Study, start: WarmStart) -> None:
    """Copy the best models that a sweep starts from, with their files, into its study."""
    here = {row.trial_id for row in study.rows()}
    found = start.rows
    rows = [row for row, source in found.values() if row.artifact and _has_file(row, source)]
    front = ParetoFront.of(rows, spec.objective_list, spec.constraint_list)
    for number, row in enumerate(front.rows, start=1):
        if row.trial_id in here:
            continue
        source = found[row.trial_id][1]
        # The file first: a row says that its file is there.
        storage.write_whole(study.artifact_path(row), storage.read(source.artifact_path(row)))
        study.write_row(row.model_copy(update={"origin": "copied", "number": number}))


def _has_file(row: ResultRow, study: Study) -> bool:
    return storage.exists(study.artifact_path(row))
