"""Parts that all pods share.

Every pod passes the restricted Pod Security Standard: non-root, no privilege escalation, no
capabilities, RuntimeDefault seccomp; on top of it, the root file system is read-only.
"""

from __future__ import annotations

from typing import Any

from k8s.spec import ClusterSpec, TolerationSpec, WorkersSpec
from search.spec.spec import SweepSpec

Manifest = dict[str, Any]

USER_ID = 1000
"""Of the user `paretune` in the image."""
SWEEP_FOLDER = "/etc/paretune"
SWEEP_FILE = f"{SWEEP_FOLDER}/sweep.yaml"
INSTANCE_LABEL = "app.kubernetes.io/instance"
COMPONENT_LABEL = "app.kubernetes.io/component"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
TOKEN_KEY = "auth_token"  # noqa: S105 - KubeRay's name of the key, not a token
SPOT_LABELS = {
    # each provider's own documentation of spot nodes
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}


def labels(spec: SweepSpec, cluster: ClusterSpec, component: str) -> dict[str, str]:
    """Give the labels of an object or pod of a sweep."""
    return {
        **cluster.labels,
        "app.kubernetes.io/name": "paretune",
        INSTANCE_LABEL: spec.name,
        COMPONENT_LABEL: component,
        MANAGED_BY_LABEL: "paretune",
    }


def metadata(spec: SweepSpec, cluster: ClusterSpec, name: str, component: str) -> Manifest:
    """Give an object's metadata; without a namespace unless the sweep file names one."""
    found: Manifest = {"name": name, "labels": labels(spec, cluster, component)}
    if cluster.namespace:
        found["namespace"] = cluster.namespace
    return found


def ray_template(
    spec: SweepSpec,
    cluster: ClusterSpec,
    *,
    component: str,
    cpus: int,
    memory_gib: float,
    gpus: dict[str, int],
    environment: dict[str, str],
) -> Manifest:
    """Give the pod template of the head or of a group of workers."""
    head = component == "head"
    amounts: dict[str, str] = {"cpu": str(cpus), "memory": gib(memory_gib)}
    amounts |= {resource: str(count) for resource, count in gpus.items()}
    container = {
        "name": f"ray-{'head' if head else 'worker'}",
        **base_container(cluster, environment),
        # Equal: Ray counts on what the limits say, and such pods are evicted last.
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
    }
    pod = base_pod(cluster, container)
    pod["serviceAccountName"] = cluster.service_account or f"{spec.name}-{component}"
    # The autoscaler in the head pod talks to the API server; nothing else needs to.
    pod["automountServiceAccountToken"] = head
    # A pod is one Ray node: the autoscaler (v2) counts on a lost one to come back as another.
    pod["restartPolicy"] = "Never"
    if head:
        container["volumeMounts"].append(
            {"name": "sweep", "mountPath": SWEEP_FOLDER, "readOnly": True}
        )
        pod["volumes"].append({"name": "sweep", "configMap": {"name": f"{spec.name}-sweep"}})
    annotations = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"} if head else {}
    return {
        "metadata": {
            "labels": labels(spec, cluster, component),
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": pod,
    }


def base_pod(cluster: ClusterSpec, container: Manifest) -> Manifest:
    """Give a pod of one container that passes restricted Pod Security, with the storage in it."""
    volumes: list[Manifest] = [{"name": "tmp", "emptyDir": {}}, {"name": "cache", "emptyDir": {}}]
    if cluster.storage.claim:
        volumes.append(
            {"name": "studies", "persistentVolumeClaim": {"claimName": cluster.storage.claim}}
        )
    pod: Manifest = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # A claim with many files would otherwise be walked through at every start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if cluster.image_pull_secret:
        pod["imagePullSecrets"] = [{"name": cluster.image_pull_secret}]
    return pod


def base_container(cluster: ClusterSpec, environment: dict[str, str]) -> Manifest:
    """Give what all containers share.

    Root is read-only: what is written goes to /tmp, the cache and the storage.
    """
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "cache", "mountPath": "/cache"}]  # noqa: S108
    if cluster.storage.claim:
        mounts.append({"name": "studies", "mountPath": cluster.storage.mount})
    ours = {
        "HOME": "/tmp",  # noqa: S108 - an emptyDir of this pod
        "PARETUNE_CACHE": "/cache",
        "PYTHONUNBUFFERED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    container: Manifest = {
        "image": cluster.image,
        "env": [
            {"name": name, "value": literal(value)}
            for name, value in {**ours, **cluster.env, **environment}.items()
        ],
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }
    if cluster.storage.secret:
        container["envFrom"] = [{"secretRef": {"name": cluster.storage.secret}}]
    return container


def container_security() -> Manifest:
    """Give what restricted Pod Security asks of a container, and a read-only root."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def literal(text: str) -> str:
    """Give what Kubernetes reads back as the text: it expands $(NAME) in variables and arguments.

    >>> literal("cost $(HOME) $5")
    'cost $$(HOME) $$5'
    """
    return text.replace("$", "$$")


def gib(amount: float) -> str:
    """Give a memory quantity.

    >>> gib(16.0), gib(2.5)
    ('16Gi', '2560Mi')
    """
    return f"{int(amount)}Gi" if amount == int(amount) else f"{round(amount * 1024)}Mi"


def small(cpu: str, memory: str) -> Manifest:
    """Give the resources of a helper container; it may use more CPU when there is some."""
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}


# --- nodes ---------------------------------------------------------------------------------------


def place(pod: Manifest, group: WorkersSpec) -> None:
    """Say to which nodes the pods of a group may go."""
    if group.node_selector:
        pod["nodeSelector"] = dict(group.node_selector)
    if tolerations := _tolerations(group):
        pod["tolerations"] = tolerations
    if group.spot:
        terms = [
            {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}
            for key, value in SPOT_LABELS.items()
        ]
        pod["affinity"] = {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
            }
        }


def _tolerations(group: WorkersSpec) -> list[Manifest]:
    asked = group.tolerations
    if asked is None:
        asked = [TolerationSpec(key="nvidia.com/gpu", effect="NoSchedule")] if group.gpus else []
    found = [taint.model_dump(exclude_none=True) for taint in asked]
    if group.spot:
        found += [
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
            for key, value in SPOT_LABELS.items()
        ]
    return found
