"""The objects that run a sweep every night: a CronJob whose pod starts a RayJob and waits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from zoneinfo import available_timezones

from k8s import pods
from k8s.manifests import ground, ray_job
from k8s.pods import Manifest, metadata
from k8s.spec import ClusterSpec
from search.errors import SpecError
from search.spec.spec import SweepSpec

NIGHT_ENTRYPOINT = f"paretune nightly {pods.SWEEP_FILE} --plain --worse-is-ok"
"""What the driver of one night runs. A worse pick is told by the CronJob's pod: here it would
look like a failure that KubeRay starts again."""
START_WINDOW_SECONDS = 3600
"""A night that could not start within the hour is skipped."""
FINISHED_KEPT, FAILED_KEPT = 3, 7
"""Ended Jobs, and with them their RayJobs, that stay for a look."""

_CRON_LETTERS = re.compile(r"[0-9*/,\-A-Za-z ]+")
_ONE_NUMBER = re.compile(r"[0-9]{1,2}")


@dataclass(frozen=True)
class Schedule:
    """When nights start, and how many are kept."""

    cron: str
    """Minute and hour as one number each, then day of month, month and day of week."""
    time_zone: str = "Etc/UTC"
    keep: int = 14
    """Nights whose studies are kept."""

    def __post_init__(self) -> None:
        fields = self.cron.split()
        if len(fields) != 5 or not _CRON_LETTERS.fullmatch(self.cron):
            raise SpecError(
                f"--cron: got {self.cron!r}; allowed: five fields such as '0 2 * * *' "
                "(minute, hour, day of month, month, day of week)"
            )
        if not (_is_below(fields[0], 60) and _is_below(fields[1], 24)):
            raise SpecError(
                f"--cron: got {self.cron!r}; allowed: one minute (0-59) and one hour (0-23), "
                "since a night is named by its date"
            )
        if self.time_zone not in available_timezones():
            raise SpecError(
                f"--time-zone: got {self.time_zone!r}; allowed: a name such as Europe/Paris"
            )
        if self.keep < 1:
            raise SpecError(f"--keep: got {self.keep}; allowed: 1 or more")


def _is_below(field: str, limit: int) -> bool:
    return bool(_ONE_NUMBER.fullmatch(field)) and int(field) < limit


def schedule_manifests(
    spec: SweepSpec, cluster: ClusterSpec, schedule: Schedule
) -> list[Manifest]:
    """Give all objects of a nightly sweep, in the order in which they are sent."""
    nights = spec.nights_location.rpartition("/")[2]
    return [
        *ground(spec, cluster, logs=nights),
        *_rights(spec, cluster),
        _cron_job(spec, cluster, schedule),
    ]


def nightly_name(spec: SweepSpec) -> str:
    """Give the name of the CronJob, of its rights and of its account."""
    return f"{spec.name}-nightly"


def night_job(
    spec: SweepSpec, cluster: ClusterSpec, night: date, *, keep: int, owner: Manifest | None
) -> Manifest:
    """Give the RayJob of one night.

    Args:
        spec: the sweep.
        cluster: its `cluster:` section.
        night: names the study, and so the job.
        keep: nights whose studies are kept.
        owner: reference to the Job that makes it; when that is removed, so is the RayJob.
    """
    environment = {"PARETUNE_NIGHT": night.isoformat(), "PARETUNE_KEEP": str(keep)}
    job = ray_job(
        spec,
        cluster,
        name=f"{spec.name}-{night.isoformat()}",
        entrypoint=NIGHT_ENTRYPOINT,
        environment=environment,
    )
    if owner:
        job["metadata"]["ownerReferences"] = [owner]
    return job


def _rights(spec: SweepSpec, cluster: ClusterSpec) -> list[Manifest]:
    """Let the CronJob's pod make RayJobs and look at them, and nothing else."""
    name, account = nightly_name(spec), _account(spec, cluster)
    own_account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(spec, cluster, account, "nightly"),
        "automountServiceAccountToken": False,
    }
    return [
        *([own_account] if cluster.service_account is None else []),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata(spec, cluster, name, "nightly"),
            "rules": [
                {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata(spec, cluster, name, "nightly"),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account}],
        },
    ]


def _account(spec: SweepSpec, cluster: ClusterSpec) -> str:
    # An account of the user's own has access to the storage, which this pod reads as well.
    return cluster.service_account or nightly_name(spec)


def _cron_job(spec: SweepSpec, cluster: ClusterSpec, schedule: Schedule) -> Manifest:
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": metadata(spec, cluster, nightly_name(spec), "nightly"),
        "spec": {
            "schedule": schedule.cron,
            "timeZone": schedule.time_zone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": START_WINDOW_SECONDS,
            "successfulJobsHistoryLimit": FINISHED_KEPT,
            "failedJobsHistoryLimit": FAILED_KEPT,
            "jobTemplate": {
                "spec": {
                    "backoffLimit": 3,
                    "podFailurePolicy": {
                        "rules": [
                            # Our own exit codes are answers, not accidents.
                            {
                                "action": "FailJob",
                                "onExitCodes": {
                                    "containerName": "nightly",
                                    "operator": "In",
                                    "values": [1, 2, 3],
                                },
                            },
                            {
                                "action": "Ignore",
                                "onPodConditions": [
                                    {"type": "DisruptionTarget", "status": "True"}
                                ],
                            },
                        ]
                    },
                    "template": {
                        "metadata": {"labels": pods.labels(spec, cluster, "nightly")},
                        "spec": _waiting_pod(spec, cluster, schedule),
                    },
                }
            },
        },
    }


def _waiting_pod(spec: SweepSpec, cluster: ClusterSpec, schedule: Schedule) -> Manifest:
    container = {
        "name": "nightly",
        **pods.base_container(cluster, {}),
        "command": ["paretune"],
        "args": [
            "nightly",
            pods.SWEEP_FILE,
            "--on-cluster",
            "--time-zone",
            schedule.time_zone,
            "--keep",
            str(schedule.keep),
        ],
        "resources": pods.small("100m", "1Gi"),
    }
    container["env"] += [
        _from_label("PARETUNE_JOB_NAME", "batch.kubernetes.io/job-name"),
        _from_label("PARETUNE_JOB_UID", "batch.kubernetes.io/controller-uid"),
        {
            "name": "PARETUNE_NAMESPACE",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}},
        },
    ]
    container["volumeMounts"].append(
        {"name": "sweep", "mountPath": pods.SWEEP_FOLDER, "readOnly": True}
    )
    pod = pods.base_pod(cluster, container)
    pod["volumes"].append({"name": "sweep", "configMap": {"name": f"{spec.name}-sweep"}})
    return pod | {
        "serviceAccountName": _account(spec, cluster),
        "automountServiceAccountToken": True,
        "restartPolicy": "Never",
    }


def _from_label(variable: str, label: str) -> Manifest:
    path = f"metadata.labels['{label}']"
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}
