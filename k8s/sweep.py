"""A sweep file with its `cluster:` section, and what only the two together can show."""

from __future__ import annotations

import os

from k8s import names
from k8s.spec import ClusterSpec, WorkersSpec
from search.errors import SpecError
from search.spec.mistakes import shown
from search.spec.spec import SweepSpec
from search.spec.spec_file import load_sweep_as


class ClusterSweep(SweepSpec):
    """A sweep file whose `cluster:` section is checked as well."""

    cluster: ClusterSpec | None = None
    """Where it runs on Kubernetes. Null: on this machine alone."""


def load_cluster_sweep(path: str | os.PathLike[str]) -> ClusterSweep:
    """Read and check a sweep file with its `cluster:` section, as `load_sweep` does."""
    return load_sweep_as(ClusterSweep, path)


def cluster_section(spec: ClusterSweep) -> ClusterSpec:
    """Give the `cluster:` section.

    Raises:
        SpecError: there is none.
    """
    if spec.cluster is None:
        raise SpecError("the sweep file has no `cluster:` section; it needs `image` and `storage`")
    return spec.cluster


def check_cluster(spec: SweepSpec, cluster: ClusterSpec) -> None:
    """Check what only the two together can show.

    Raises:
        SpecError: with one line per mistake.
    """
    problems = []
    try:
        names.check_sweep_name(spec.name)
    except ValueError as error:
        problems.append(f"name: got {shown(spec.name)}; {error}")
    need = spec.resources
    if not any(
        _slots(group, need.cpus_per_trial, need.gpus_per_trial) for group in cluster.workers
    ):
        sizes = ", ".join(f"{g.name} {g.cpus} CPUs, {g.gpus} GPUs" for g in cluster.workers)
        problems.append(
            f"cluster.workers: a trial takes {need.cpus_per_trial} CPUs and "
            f"{need.gpus_per_trial:g} GPUs (resources), more than any pod has: {sizes}"
        )
    if problems:
        raise SpecError("\n".join(problems))


def trial_slots(spec: SweepSpec, cluster: ClusterSpec) -> int:
    """Give how many trials fit on the cluster when all its groups are full."""
    need = spec.resources
    return sum(
        group.max_workers * _slots(group, need.cpus_per_trial, need.gpus_per_trial)
        for group in cluster.workers
    )


def _slots(group: WorkersSpec, cpus: int, gpus: float) -> int:
    by_cpu = group.cpus // cpus
    return min(by_cpu, int(group.gpus / gpus)) if gpus else by_cpu
