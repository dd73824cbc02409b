"""How a sweep on a cluster is doing: its phase, what holds it up, how far it is."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from k8s.client import Cluster
from k8s.errors import AccessRefused, NoCluster
from k8s.manifests import DASHBOARD_PORT
from k8s.pods import INSTANCE_LABEL, MANAGED_BY_LABEL, TOKEN_KEY, Manifest
from search.errors import SearchError
from search.front.front import read_front

RAY_HEADER = "X-Ray-Authorization"
"""Where Ray looks for its token when the API server has used up `Authorization`."""
ENDED = ("Complete", "Failed", "ValidationFailed")
STOPPED = "Stopped"
"""Of a sweep without a job: it was stopped, and can be resumed."""
_IN_WORDS = {
    "": "submitted, KubeRay has not taken it up yet",
    "Initializing": "its pods are starting",
    "Running": "the driver is running",
    "Complete": "done",
    "Failed": "failed",
    "ValidationFailed": "KubeRay does not take the job",
    "Retrying": "the driver failed and is started again",
    "Suspended": "waits to be admitted",
    "Suspending": "waits to be admitted",
    "Waiting": "waits for the driver to be submitted",
    STOPPED: "there is no job; its study is kept",
}
_WAITING_FOR_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName")
_BROKEN = (
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)
_TRIAL = re.compile(r"^\[ *(\d+)/(\d+|\?)\]", re.MULTILINE)
_FRONT = re.compile(r"front of (\d+), hypervolume ([0-9.]+)")


@dataclass(frozen=True)
class SweepProgress:
    """How far a sweep is."""

    trials: int
    asked: int | None
    """None: until the space is covered."""
    front: int
    hypervolume: float

    def __str__(self) -> str:
        total = "?" if self.asked is None else str(self.asked)
        return (
            f"{self.trials}/{total} trials, front of {self.front}, "
            f"hypervolume {self.hypervolume:.4f}"
        )


@dataclass(frozen=True)
class SweepStatus:
    """What the cluster says of a sweep at one moment."""

    name: str
    phase: str
    """KubeRay's `jobDeploymentStatus`, or Stopped."""
    job_status: str = ""
    reason: str = ""
    message: str = ""
    started_at: str = ""
    ended_at: str = ""
    workers: int = 0
    """Pods of workers that are ready."""
    problems: tuple[str, ...] = ()
    """What holds it up, one sentence each."""
    job_id: str = ""
    head_service: str = ""
    token_secret: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.phase in (*ENDED, STOPPED)

    def __str__(self) -> str:
        words = _IN_WORDS.get(self.phase, "")
        text = f"{self.phase or 'New'}: {words}" if words else self.phase
        if self.phase == "Running" and self.job_status == "PENDING":
            text = "Running: the driver is starting"
        details = ": ".join(part for part in (self.reason, self.message) if part)
        # Of a finished driver, Ray says at length that it finished.
        return f"{text} ({details})" if details and self.phase != "Complete" else text


def observe(cluster: Cluster, name: str) -> SweepStatus:
    """Look at the job of a sweep.

    Raises:
        ClusterError: the cluster refused, or cannot be reached.
    """
    job = cluster.get("RayJob", name)
    if job is None:
        return SweepStatus(name, STOPPED)
    found = _of_job(name, job)
    if found.ended:
        return found
    problems = [*_queue_problems(job, found), *_held_up(cluster, job)]
    return SweepStatus(**{**found.__dict__, "problems": tuple(dict.fromkeys(problems))})


def observe_all(cluster: Cluster) -> list[SweepStatus]:
    """Look at all sweeps of the namespace, those without a job as well."""
    ours = f"{MANAGED_BY_LABEL}=paretune"
    jobs = {j["metadata"]["name"]: j for j in cluster.list("RayJob", selector=ours)}
    found = {name: _of_job(name, job) for name, job in jobs.items()}
    for sweep in cluster.list("ConfigMap", selector=ours):
        name = sweep["metadata"]["labels"].get(INSTANCE_LABEL, "")
        found.setdefault(name, SweepStatus(name, STOPPED))
    return [found[name] for name in sorted(found)]


def _of_job(name: str, job: Manifest) -> SweepStatus:
    status: dict[str, Any] = job.get("status") or {}
    return SweepStatus(
        name=name,
        phase=status.get("jobDeploymentStatus") or "",
        job_status=status.get("jobStatus") or "",
        reason=status.get("reason") or "",
        message=" ".join((status.get("message") or "").split())[:500],
        started_at=status.get("startTime") or "",
        ended_at=status.get("endTime") or "",
        workers=(status.get("rayClusterStatus") or {}).get("readyWorkerReplicas") or 0,
        job_id=status.get("jobId") or "",
        # NAME-head-svc.NAMESPACE.svc.cluster.local:8265
        head_service=(status.get("dashboardURL") or "").partition(".")[0],
        token_secret=job["spec"]["rayClusterSpec"].get("authOptions", {}).get("secretName", ""),
    )


# --- what holds it up ----------------------------------------------------------------------------


def _queue_problems(job: Manifest, status: SweepStatus) -> Iterator[str]:
    queue = job["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
    if queue and status.phase in ("", "Suspended", "Suspending"):
        yield f"waits in the Kueue queue {queue} to be admitted"


def _held_up(cluster: Cluster, job: Manifest) -> list[str]:
    """Say what pods and events complain of; nothing where one may not look at them."""
    sweep = (job["metadata"].get("labels") or {}).get(INSTANCE_LABEL, "")
    try:
        pods = cluster.list("Pod", selector=f"{INSTANCE_LABEL}={sweep}")
        events = cluster.list("Event", fields="type=Warning")
    except AccessRefused:
        return []
    ray_cluster = (job.get("status") or {}).get("rayClusterName")
    objects = {job["metadata"]["name"], ray_cluster}
    return [
        *(problem for pod in pods for problem in _pod_problems(pod)),
        *_event_problems(events, objects),
    ]


def _pod_problems(pod: Manifest) -> Iterator[str]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("reason") == "Unschedulable":
            yield f"pod {name} fits on no node: {condition.get('message', '')}"
    containers = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _WAITING_FOR_IMAGE:
            image = container.get("image", "its image")
            yield f"pod {name} cannot pull {image}: {message or reason}"
        elif reason in _BROKEN:
            yield f"pod {name} does not start: {reason}: {message}"


def _event_problems(events: Iterable[Manifest], objects: set[str | None]) -> Iterator[str]:
    for event in events:
        text = " ".join((event.get("message") or "").split())
        if (event.get("involvedObject") or {}).get("name") not in objects:
            continue
        if "exceeded quota" in text:
            yield f"the namespace's quota does not allow a pod: {text}"
        elif "violates PodSecurity" in text:
            yield f"the namespace's Pod Security does not allow a pod: {text}"
        elif event.get("reason", "").startswith("Failed"):
            yield f"{event['reason']}: {text}"


# --- how far it is -------------------------------------------------------------------------------


def progress(cluster: Cluster, status: SweepStatus, location: str | None) -> SweepProgress | None:
    """Say how far a sweep is: by its driver's log, else by its study; None if neither is there.

    `location` is the study's, None if unknown. A study on a claim can be read only where the
    claim is mounted at the same path.
    """
    log = driver_log(cluster, status)
    return (log and progress_in(log)) or (_in_study(location) if location else None) or None


def study_location(cluster: Cluster, name: str) -> str | None:
    """Give where a sweep keeps its study, as the pods see it; None if there is no such sweep."""
    sweep = cluster.get("ConfigMap", f"{name}-sweep")
    text = ((sweep or {}).get("data") or {}).get("sweep.yaml")
    if text is None:
        return None
    found = yaml.safe_load(text)
    return f"{found['storage'].rstrip('/')}/{found['name']}"


def progress_in(log: str) -> SweepProgress | None:
    """Read the progress off the lines that `paretune run --plain` prints."""
    trials, fronts = _TRIAL.findall(log), _FRONT.findall(log)
    if not trials:
        return None
    done, asked = trials[-1]
    size, volume = fronts[-1] if fronts else ("0", "0")
    return SweepProgress(int(done), None if asked == "?" else int(asked), int(size), float(volume))


def _in_study(location: str) -> SweepProgress | None:
    from search.study.study import Study

    try:
        study = Study.open(location)
        spec, rows, front = study.spec(), study.rows(), read_front(location)
    except SearchError:
        return None
    trained = sum(row.origin == "trained" for row in rows)
    return SweepProgress(trained, spec.search.trials, len(front.rows), front.hypervolume)


def driver_log(cluster: Cluster, status: SweepStatus) -> str | None:
    """Read what the driver has printed so far; None where its pod cannot be asked."""
    if not status.job_id or not status.head_service:
        return None
    path = f"api/jobs/{status.job_id}/logs"
    try:
        headers = {RAY_HEADER: f"Bearer {_token(cluster, status.token_secret)}"}
        page = cluster.read_service(status.head_service, DASHBOARD_PORT, path, headers)
        return None if page is None else str(json.loads(page)["logs"])
    except (AccessRefused, NoCluster, ValueError, KeyError):
        return None


def _token(cluster: Cluster, secret_name: str) -> str:
    secret = cluster.get("Secret", secret_name) if secret_name else None
    data = (secret or {}).get("data") or {}
    return base64.b64decode(data.get(TOKEN_KEY, "")).decode()
