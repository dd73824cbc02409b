"""What can be known to go wrong before a sweep starts, found in well under a second."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

from search.errors import SpecError
from search.space.space import FACTORY_PREFIX, bits_names
from search.spec.mistakes import did_you_mean, listed, shown
from search.spec.model_lookup import factory_problem, torchvision_names
from search.spec.spec import SweepSpec
from trainables.contract import METRICS, Progress

PER_EPOCH = [name for name in METRICS if name in {field.name for field in fields(Progress)}]
"""Metrics that a trial reports after each epoch."""


def preflight(spec: SweepSpec, *, elsewhere: bool = False) -> list[str]:
    """Check a sweep against this machine; give notes on what is allowed but worth knowing.

    Neither torch nor ray is imported, and no foreign code is run. What depends on the machine
    is checked only where trials run on this one: not `elsewhere`, nor if RAY_ADDRESS names a
    cluster.

    Raises:
        SpecError: with one line `key: what is wrong; allowed: ...` per mistake.
    """
    mistakes = [*_search_mistakes(spec), *_model_mistakes(spec)]
    if not elsewhere and not os.environ.get("RAY_ADDRESS"):
        mistakes += [*_data_mistakes(spec), *_machine_mistakes(spec)]
    if mistakes:
        raise SpecError("\n".join(mistakes))
    return [*_space_notes(spec), *_sweep_notes(spec)]


# --- mistakes --------------------------------------------------------------------------------


def _search_mistakes(spec: SweepSpec) -> list[str]:
    found = []
    if spec.search.method == "grid":
        found += [
            f"space.{name}: got {shown(spec.space.dimensions[name].to_yaml())}, a continuous "
            "dimension; allowed with grid search: a list of values (or search: {method: random})"
            for name in spec.space.continuous
        ]
    if spec.stop.method == "asha" and spec.stop.metric not in PER_EPOCH:
        found.append(
            f"stop.metric: {spec.stop.metric} is known only at the end of a trial; "
            f"allowed: {listed(PER_EPOCH)}"
        )
    return found


def _model_mistakes(spec: SweepSpec) -> list[str]:
    space, found = spec.space, []
    key = "space.model" if "model" in space.dimensions else "model"
    dimensions = {n.removeprefix(FACTORY_PREFIX) for n in space.dimensions if FACTORY_PREFIX in n}
    for model in space.models:
        if ":" in model:
            arguments = dimensions | space.base.model_args.keys()
            if problem := factory_problem(model, arguments, spec.import_paths):
                found.append(f"{key}: {model}: {problem}")
        elif model != "cnn" and model not in (known := torchvision_names()):
            hint = did_you_mean(model, ["cnn", *known])
            allowed = "cnn, a torchvision classifier (resnet18), or package.module:function"
            found.append(f"{key}: there is no model '{model}'; {hint}allowed: {allowed}")
    return found


def _data_mistakes(spec: SweepSpec) -> list[str]:
    if spec.data.name != "image_folder":
        return []
    folder = Path(str(spec.data.path)).expanduser()
    try:
        classes = [entry for entry in folder.iterdir() if entry.is_dir()]
    except OSError as error:
        return [f"data.path: cannot read the folder {folder.absolute()}: {error.strerror}"]
    if len(classes) < 2:
        return [f"data.path: {folder.absolute()} has no subfolders; allowed: one per class"]
    return []


def _machine_mistakes(spec: SweepSpec) -> list[str]:
    resources, found = spec.resources, []
    cpus, gpus = os.cpu_count() or 1, _gpu_count()
    if resources.cpus_per_trial > cpus:
        found.append(
            f"resources.cpus_per_trial: got {resources.cpus_per_trial}; this machine has {cpus}"
        )
    if resources.gpus_per_trial > gpus:
        found.append(
            f"resources.gpus_per_trial: got {resources.gpus_per_trial:g}; this machine has {gpus}"
        )
    elif spec.deploy.device == "cuda" and not resources.gpus_per_trial:
        found.append(
            "deploy.device: cuda needs a GPU in every trial; resources.gpus_per_trial is 0"
        )
    return found


def _gpu_count() -> int:
    """Count the GPUs that Ray would see, from the device files of NVIDIA's driver."""
    devices = len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not devices:
        return devices
    # Parts of one GPU (MIG) are listed one by one; everything after a -1 is hidden.
    return len([name for name in visible.split("-1")[0].split(",") if name.strip()])


# --- notes -----------------------------------------------------------------------------------


def _space_notes(spec: SweepSpec) -> list[str]:
    notes, space = [], spec.space
    if space.excluded_bits:
        notes.append(
            "bits that are left out, because the runtime would not really execute them: "
            + bits_names(space.excluded_bits)
        )
    if "fp16" in space.values("amp") and not spec.resources.gpus_per_trial:
        notes.append("amp fp16 on a CPU trains many times slower than none; bf16 does not")
    size = space.size()
    if size is not None and size < spec.search.trials:
        notes.append(f"the space has {size} configurations, so there will be no more trials")
    return notes


def _sweep_notes(spec: SweepSpec) -> list[str]:
    notes = []
    if spec.stop.method != "none" and spec.stop.grace_epochs >= spec.space.max_epochs:
        notes.append(
            f"stop.grace_epochs {spec.stop.grace_epochs} is not below the epochs of any trial "
            f"({spec.space.max_epochs}), so none will be stopped"
        )
    if os.environ.get("RAY_ADDRESS") and spec.resources.max_concurrent is None:
        notes.append(
            f"resources.max_concurrent is null, so {spec.max_concurrent} trials run at once: as "
            "many as this machine, not the cluster, has room for"
        )
    return notes
