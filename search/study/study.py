"""The folder that a sweep writes: the sweep file as run, one row per trial, the models.

```
<storage>/<name>/
├── sweep.yaml         the sweep file as run, every default written out
├── environment.json   versions and machine of the latest run
├── parents.json       studies whose rows it started from
├── rows/<trial_id>.json
├── running/<trial_id>.ckpt   trials under way: progress and last checkpoint
├── networks/          trained up to pruning, where trials share a training
├── artifacts/<model files>
└── lease/             who writes the study
```

Rows are the truth: everything else (searcher state, front, pick) is worked out from them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from pydantic import ValidationError

from search.errors import SpecError, StudyError
from search.study import storage
from search.study.rows import ResultRow
from trainables.checkpoint import read_head
from trainables.config import TrialConfig
from trainables.contract import Progress
from trainables.running import checkpoint_name
from trainables.storage import PATIENCE_SECONDS

if TYPE_CHECKING:
    from search.spec.spec import SweepSpec

SPEC_FILE = "sweep.yaml"
ENVIRONMENT_FILE = "environment.json"
PARENTS_FILE = "parents.json"
LEASE_FOLDER = "lease"
COMPARABLE_KEYS = ("data", "model", "objectives", "deploy", "seed")
"""Parts of the sweep file that must not change within a study: the rows would no longer be
comparable."""

_TRIAL_ID = re.compile(r"[0-9a-f]{8}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class RunningTrial(NamedTuple):
    """A trial that an earlier driver left under way."""

    config: TrialConfig
    curve: list[Progress]
    """Up to its last checkpoint."""


class Study:
    """One study folder, in any storage. Holds nothing in memory: every call reads the folder."""

    def __init__(self, location: str) -> None:
        self.location = storage.absolute(location)
        self.skipped_files: list[str] = []
        """Names in `rows/` that the latest `rows()` could not use: torn or foreign."""
        self.fence: Callable[[], None] = lambda: None
        """Called before a row is written; raises if another driver writes the study now."""

    @classmethod
    def check(cls, spec: SweepSpec) -> None:
        """Make sure that the folder of a sweep is free, or a study to go on with.

        Raises:
            StudyError: the folder holds something else, or a study whose rows could not be
                compared with the new ones.
            StorageError: the storage refused.
        """
        study = cls(spec.study_location)
        if storage.exists(study._path(SPEC_FILE)):
            study._refuse_other_rows(spec)
        elif names := set(storage.list_names(study.location)) - {LEASE_FOLDER}:
            raise StudyError(
                f"{study.location} is not empty ({', '.join(sorted(names)[:3])}, ...) and is not "
                f"a study: it has no {SPEC_FILE}. Choose another `name` or `storage`."
            )

    @classmethod
    def create(cls, spec: SweepSpec) -> Study:
        """Make the folder of a sweep, or go on with the one that it already has.

        Raises:
            StudyError: the folder holds something else, or a study whose rows could not be
                compared with the new ones.
            StorageError: the storage refused.
        """
        cls.check(spec)
        study = cls(spec.study_location)
        # The sweep file comes first: with it the folder is a study, whatever happens next.
        storage.write_whole(study._path(SPEC_FILE), spec.to_yaml().encode())
        storage.make_folder(study._path("rows"))
        storage.make_folder(study.artifacts_location)
        return study

    @classmethod
    def open(cls, location: str) -> Study:
        """Open a study that exists.

        Raises:
            StudyError: there is none; the message says where some are, if near.
            StorageError: the storage refused.
        """
        study = cls(location)
        if not storage.exists(study._path(SPEC_FILE)):
            raise StudyError(f"there is no study at {study.location}{_hint(study.location)}")
        return study

    def spec(self) -> SweepSpec:
        """Give the sweep file as last run.

        Raises:
            StudyError: the file was damaged or is of another version.
        """
        from search.spec.spec_file import load_sweep

        try:
            return load_sweep(self._path(SPEC_FILE))
        except SpecError as error:
            raise StudyError(f"the sweep file inside the study is not usable: {error}") from error

    # --- rows --------------------------------------------------------------------------------

    def rows(self) -> list[ResultRow]:
        """Give all rows, in the order of finishing. Updates `skipped_files`."""
        names = storage.list_names(self._path("rows"))
        contents = storage.read_several(self._path("rows"), names)
        found = {name: _row(name, content) for name, content in contents.items()}
        self.skipped_files = [name for name, row in found.items() if row is None]
        rows = [row for row in found.values() if row is not None]
        return sorted(rows, key=lambda row: (row.number, row.trial_id))

    def write_row(self, row: ResultRow) -> None:
        """Write one row whole, in place of an earlier one of the same trial."""
        if not _TRIAL_ID.fullmatch(row.trial_id):
            raise StudyError(f"a trial id is eight hexadecimal digits, got {row.trial_id!r}")
        self.fence()
        storage.write_whole(
            self._path("rows", f"{row.trial_id}.json"),
            row.model_dump_json(indent=1).encode(),
            patience_seconds=PATIENCE_SECONDS,
        )

    # --- trials under way --------------------------------------------------------------------

    @property
    def running_location(self) -> str:
        """Where trials under way leave checkpoints."""
        return self._path("running")

    @property
    def lease_location(self) -> str:
        """Where drivers claim the study."""
        return self._path(LEASE_FOLDER)

    def running(self) -> list[RunningTrial]:
        """Give the trials that an earlier driver left under way, the furthest first.

        Torn and foreign files are left out.
        """
        found = []
        for name in storage.list_names(self.running_location):
            trial = _running(storage.join(self.running_location, name))
            if trial and name == checkpoint_name(trial.config.trial_id):
                found.append(trial)
        return sorted(found, key=lambda trial: -len(trial.curve))

    def remove_running(self, trial_id: str) -> None:
        """Remove the checkpoint of a trial that has its row."""
        storage.remove(storage.join(self.running_location, checkpoint_name(trial_id)))

    # --- artifacts ---------------------------------------------------------------------------

    @property
    def artifacts_location(self) -> str:
        """Where trials put their model files."""
        return self._path("artifacts")

    @property
    def networks_location(self) -> str:
        """Where trials leave networks for others that train alike."""
        return self._path("networks")

    def artifact_path(self, row: ResultRow) -> str:
        """Give the absolute location of a row's model file, whether or not it still exists.

        Raises:
            StudyError: the row has no model file, or names one outside the study.
        """
        if row.artifact is None:
            raise StudyError(f"trial {row.trial_id} ({row.status}) has no model file")
        if not _PLAIN_NAME.fullmatch(row.artifact):
            raise StudyError(
                f"trial {row.trial_id} names the model file {row.artifact!r}; "
                "a plain file name inside the study is allowed"
            )
        return storage.join(self.artifacts_location, row.artifact)

    def remove_artifacts(self, keep: set[str]) -> None:
        """Remove the model files of all trials but those in `keep`, and say so in their rows.

        Files that belong to no row stay: a running trial may be writing them.
        """
        for row in self.rows():
            if row.artifact is not None and row.trial_id not in keep:
                # The file first: a crash in between leaves a row that the next call repairs,
                # not a file that nobody knows of.
                storage.remove(self.artifact_path(row))
                self.write_row(row.model_copy(update={"artifact": None}))

    # --- the rest ----------------------------------------------------------------------------

    def environment(self) -> dict[str, Any]:
        """Give what `write_environment` noted; empty if nothing was."""
        found = self._read_json(ENVIRONMENT_FILE)
        return found if isinstance(found, dict) else {}

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Note versions and machine of this run."""
        content = json.dumps(environment, indent=1, sort_keys=True, default=str).encode()
        storage.write_whole(self._path(ENVIRONMENT_FILE), content)

    def parents(self) -> list[str]:
        """Give the locations that `write_parents` noted; none if nothing was."""
        found = self._read_json(PARENTS_FILE)
        return [str(location) for location in found] if isinstance(found, list) else []

    def write_parents(self, locations: Sequence[str]) -> None:
        """Note the studies that this one starts from."""
        storage.write_whole(self._path(PARENTS_FILE), json.dumps(locations, indent=1).encode())

    def _read_json(self, name: str) -> Any:
        """Read a file of the study; None if there is none, or if it is damaged."""
        path = self._path(name)
        if not storage.exists(path):
            return None
        try:
            return json.loads(storage.read(path))
        except (ValueError, RecursionError):
            return None

    def _path(self, *names: str) -> str:
        return storage.join(self.location, *names)

    def _refuse_other_rows(self, spec: SweepSpec) -> None:
        then, now = (_comparable(s.to_yaml()) for s in (self.spec(), spec))
        changes = [
            f"  {key}: {_shown(then.get(key))} -> {_shown(now.get(key))}"
            for key in sorted(then.keys() | now.keys())
            if then.get(key) != now.get(key)
        ]
        if changes:
            raise StudyError(
                f"{self.location} was made with other settings, so its numbers could not be "
                "compared with new ones:\n" + "\n".join(changes) + "\n"
                "Give the sweep another `name`, or set these back."
            )


def _running(location: str) -> RunningTrial | None:
    try:
        head = read_head(location) or {}
        config = TrialConfig.model_validate(head["config"])
        return RunningTrial(config, [Progress(**progress) for progress in head["curve"]])
    except (OSError, ValueError, KeyError, TypeError):  # ValidationError is a ValueError
        return None


def _row(name: str, content: bytes | None) -> ResultRow | None:
    stem, _, suffix = name.partition(".")
    if content is None or suffix != "json" or not _TRIAL_ID.fullmatch(stem):
        return None
    try:
        row = ResultRow.model_validate_json(content)
    except ValidationError:
        return None
    plain = row.artifact is None or _PLAIN_NAME.fullmatch(row.artifact)
    return row if row.trial_id == stem and plain else None


def _hint(location: str) -> str:
    if location.endswith((".yaml", ".yml")):
        return ": that looks like a sweep file; give the folder that its run printed"
    names = storage.list_names(location) if storage.exists(location) else []
    studies = [name for name in names if storage.exists(storage.join(location, name, SPEC_FILE))]
    return f"; inside it: {', '.join(studies)}" if studies else f": no {SPEC_FILE} there"


def _comparable(text: str) -> dict[str, Any]:
    spec = yaml.safe_load(text)
    return flat({key: spec.get(key) for key in COMPARABLE_KEYS})


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Give nested mappings as one, with dotted keys.

    >>> flat({"data": {"name": "digits"}, "seed": 0})
    {'data.name': 'digits', 'seed': 0}
    """
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{above}{key}.")
        else:
            out[f"{above}{key}"] = value
    return out


def _shown(value: Any) -> str:
    return "(not set)" if value is None else json.dumps(value, default=str)
