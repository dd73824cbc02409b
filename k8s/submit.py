"""Sending the objects of a sweep, following its job, and taking them away again."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date

from k8s.client import Cluster
from k8s.errors import NoCluster, ObjectRefused, SweepFailed
from k8s.manifests import sweep_manifests, token_secret_name
from k8s.pods import INSTANCE_LABEL, MANAGED_BY_LABEL, TOKEN_KEY, Manifest, metadata
from k8s.schedule import Schedule, night_job, nightly_name, schedule_manifests
from k8s.spec import ClusterSpec
from k8s.status import STOPPED, SweepProgress, SweepStatus, driver_log, observe, progress
from k8s.sweep import ClusterSweep, cluster_section
from search.errors import SweepError

POLL_SECONDS = 3.0
PATIENCE_SECONDS = 300.0
"""How long a command that waits bears a cluster that cannot be reached or does not answer."""
GONE_SECONDS = 120.0
"""How long a job may take to go: KubeRay stops its driver first."""
KINDS_OF_A_SWEEP = (
    "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount", "Secret",
    "ConfigMap",
)  # fmt: skip

Say = Callable[[str], None]


# --- start and stop ------------------------------------------------------------------------------


def submit(cluster: Cluster, spec: ClusterSweep) -> bool:
    """Send a sweep; tell False if its job is there already, which is then left as it is.

    All objects are tried without effect first, so that a refusal leaves nothing behind.

    Raises:
        ClusterError: the cluster refused, or cannot be reached.
    """
    section = cluster_section(spec)
    if cluster.get("RayJob", spec.name):
        return False
    *ground, job = sweep_manifests(spec, section)
    _try(cluster, spec, ground, job)
    _send_ground(cluster, spec, section, ground)
    return cluster.create(job)


def stop(cluster: Cluster, name: str, *, everything: bool = False) -> bool:
    """End the job of a sweep, tell False if there was none. The study stays.

    Args:
        cluster: where.
        name: of the sweep.
        everything: also remove what stands beside the job: TensorBoard, accounts, ...
    """
    stopped = cluster.delete("RayJob", name)
    if everything:
        selector = f"{MANAGED_BY_LABEL}=paretune,{INSTANCE_LABEL}={name}"
        for kind in KINDS_OF_A_SWEEP:
            for found in cluster.list(kind, selector=selector):
                stopped = cluster.delete(kind, found["metadata"]["name"]) or stopped
    return stopped


def resume(cluster: Cluster, spec: ClusterSweep, *, pause_seconds: float = POLL_SECONDS) -> bool:
    """Send a sweep that was stopped or has ended again, on the same study.

    Tell False if its job still runs, which is then left as it is.

    Raises:
        ClusterError: the cluster refused, or an ended job does not go.
    """
    status = observe(cluster, spec.name)
    if not status.ended:
        return False
    if status.phase != STOPPED:
        cluster.delete("RayJob", spec.name)
        _wait_until_gone(cluster, spec.name, pause_seconds)
    return submit(cluster, spec)


def _wait_until_gone(cluster: Cluster, name: str, pause_seconds: float) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while cluster.get("RayJob", name):
        if time.monotonic() > deadline:
            raise ObjectRefused(
                f"the ended job {name} in {cluster} does not go; is KubeRay's operator running?"
            )
        time.sleep(pause_seconds)


# --- nights --------------------------------------------------------------------------------------


def schedule(cluster: Cluster, spec: ClusterSweep, when: Schedule) -> bool:
    """Set up a nightly sweep, or change the one that is; tell whether it is new."""
    manifests = schedule_manifests(spec, cluster_section(spec), when)
    job = night_job(spec, cluster_section(spec), date(2000, 1, 1), keep=when.keep, owner=None)
    new = cluster.get("CronJob", nightly_name(spec)) is None
    _try(cluster, spec, manifests, job)
    _send_ground(cluster, spec, cluster_section(spec), manifests)
    return new


def unschedule(cluster: Cluster, name: str) -> bool:
    """End a nightly sweep, a night under way as well; tell False if there was none."""
    nightly = f"{name}-nightly"
    removed = cluster.delete("CronJob", nightly)
    for kind in ("RoleBinding", "Role"):
        cluster.delete(kind, nightly)
    return removed


def submit_night(
    cluster: Cluster, spec: ClusterSweep, night: date, *, keep: int, owner: Manifest | None
) -> str:
    """Start the job of one night, or leave the one that is there; give its name."""
    job = night_job(spec, cluster_section(spec), night, keep=keep, owner=owner)
    cluster.create(job)
    return str(job["metadata"]["name"])


# --- following -----------------------------------------------------------------------------------


@dataclass
class _Told:
    """What a waiting person was told last."""

    phase: str = "?"
    problems: tuple[str, ...] = ()
    progress: SweepProgress | None = None

    def news(self, status: SweepStatus, far: SweepProgress | None) -> list[str]:
        lines = []
        if str(status) != self.phase:
            lines.append(str(status))
        lines += [problem for problem in status.problems if problem not in self.problems]
        if far and far != self.progress:
            lines.append(str(far))
        self.phase, self.problems = str(status), status.problems
        self.progress = far or self.progress
        return lines


def wait(
    cluster: Cluster, name: str, say: Say, *, pause_seconds: float = POLL_SECONDS
) -> SweepStatus:
    """Follow a job to its end, telling every change.

    Raises:
        SweepError: the driver failed.
        SweepFailed: the job ended for another reason, or was stopped.
        NoCluster: the cluster did not answer for long.
    """
    told = _Told()
    for status in _statuses(cluster, name, say, pause_seconds):
        for line in told.news(status, progress(cluster, status, None)):
            say(line)
    return _judged(cluster, status)


def _judged(cluster: Cluster, status: SweepStatus) -> SweepStatus:
    if status.phase == "Complete" and status.job_status in ("SUCCEEDED", ""):
        return status
    if status.phase == STOPPED:
        raise SweepFailed(f"{status.name} was stopped; its study is kept, and can be resumed")
    if status.reason == "AppFailed":
        log = driver_log(cluster, status) or ""
        last = "\n".join(log.strip().splitlines()[-3:])
        raise SweepError(f"the driver of {status.name} failed: {last or status.message}")
    raise SweepFailed(f"{status.name} ended without success: {status}")


def follow_log(
    cluster: Cluster, name: str, write: Say, say: Say, *, pause_seconds: float = POLL_SECONDS
) -> None:
    """Write what the driver prints until its job ends; a driver started again begins anew."""
    written = ""
    for status in _statuses(cluster, name, say, pause_seconds):
        log = driver_log(cluster, status)
        if log is not None and log != written:
            write(log[len(written) :] if log.startswith(written) else log)
            written = log


def _statuses(
    cluster: Cluster, name: str, say: Say, pause_seconds: float
) -> Iterator[SweepStatus]:
    """Look at a job again and again until it has ended, bearing a cluster that is away."""
    silent_since = None
    while True:
        try:
            status = observe(cluster, name)
        except NoCluster as error:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > PATIENCE_SECONDS:
                raise
            say(f"{error}; trying again")
        else:
            silent_since = None
            yield status
            if status.ended:
                return
        time.sleep(pause_seconds)


# --- sending -------------------------------------------------------------------------------------


def _try(cluster: Cluster, spec: ClusterSweep, ground: Iterable[Manifest], job: Manifest) -> None:
    for manifest in ground:
        _refuse_foreign(cluster, spec, manifest)
        cluster.apply(manifest, dry_run=True)
    cluster.create(job, dry_run=True)


def _send_ground(
    cluster: Cluster, spec: ClusterSweep, section: ClusterSpec, ground: Iterable[Manifest]
) -> None:
    # Only ever made, never changed: running pods have the old token.
    cluster.create(_token_secret(spec, section))
    for manifest in ground:
        cluster.apply(manifest)


def _refuse_foreign(cluster: Cluster, spec: ClusterSweep, manifest: Manifest) -> None:
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    there = cluster.get(kind, name)
    if there is None:
        return
    found = there["metadata"].get("labels") or {}
    if (found.get(MANAGED_BY_LABEL), found.get(INSTANCE_LABEL)) != ("paretune", spec.name):
        raise ObjectRefused(
            f"there is a {kind} {name} in {cluster} that does not belong to this sweep; "
            "give the sweep another name"
        )


def _token_secret(spec: ClusterSweep, section: ClusterSpec) -> Manifest:
    token = base64.b64encode(secrets.token_hex(32).encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(spec, section, token_secret_name(spec), "token"),
        "type": "Opaque",
        "data": {TOKEN_KEY: token},
    }
