"""The objects of a sweep, as plain dicts: a spec in, manifests out; nothing is sent from here.

The entrypoint is constant and the sweep travels in a ConfigMap: nothing that a person typed
reaches a shell.
"""

from __future__ import annotations

from k8s import pods
from k8s.pods import Manifest, metadata
from k8s.spec import ClusterSpec, WorkersSpec
from k8s.sweep import trial_slots
from search.spec.spec import SweepSpec

ENTRYPOINT = f"paretune run {pods.SWEEP_FILE} --plain"
DASHBOARD_PORT = 8265
AGENT_PORT = 52365
TENSORBOARD_PORT = 6006
IDLE_SECONDS = 120
"""Time after which a worker without trials is given back: longer than between two trials."""
OPERATOR_LABELS = {"app.kubernetes.io/name": "kuberay-operator"}
"""Of KubeRay's operator pod, as its Helm chart sets them."""


def sweep_manifests(spec: SweepSpec, cluster: ClusterSpec) -> list[Manifest]:
    """Give all objects of one sweep, in the order in which they are sent: the job last."""
    return [*ground(spec, cluster, logs=f"{spec.name}/tensorboard"), ray_job(spec, cluster)]


def ground(spec: SweepSpec, cluster: ClusterSpec, *, logs: str) -> list[Manifest]:
    """Give what a job stands on; `logs` is what TensorBoard shows, a folder in the storage."""
    objects = [_sweep_file(spec, cluster)]
    if cluster.service_account is None:
        objects += [_service_account(spec, cluster, part) for part in ("head", "worker")]
    objects += [_network_policy(spec, cluster), _disruption_budget(spec, cluster)]
    if cluster.tensorboard:
        objects += [_tensorboard(spec, cluster, logs), _tensorboard_service(spec, cluster)]
    return objects


def token_secret_name(spec: SweepSpec) -> str:
    """Give the name of the Secret with Ray's token.

    It is no manifest: `submit` makes it with a random token, which is never shown.
    """
    return f"{spec.name}-token"


def on_cluster(spec: SweepSpec, cluster: ClusterSpec) -> SweepSpec:
    """Give the sweep as the driver in the cluster reads it."""
    resources = spec.resources
    if resources.max_concurrent is None:
        # The driver's own CPUs say nothing of the workers'.
        slots = trial_slots(spec, cluster)
        resources = resources.model_copy(update={"max_concurrent": slots})
    return spec.model_copy(
        update={
            "storage": cluster.storage.location,
            "resources": resources,
            # A folder of the machine that submits; in the image, factories are on Python's path.
            "import_paths": [],
        }
    )


# --- the job -------------------------------------------------------------------------------------


def ray_job(
    spec: SweepSpec,
    cluster: ClusterSpec,
    *,
    name: str | None = None,
    entrypoint: str = ENTRYPOINT,
    environment: dict[str, str] | None = None,
) -> Manifest:
    """Give the RayJob.

    Args:
        spec: the sweep.
        cluster: its `cluster:` section.
        name: of the job; None: that of the sweep.
        entrypoint: a constant command; KubeRay's submitter hands it to a shell.
        environment: variables of the driver, made by us.
    """
    meta = metadata(spec, cluster, name or spec.name, "job")
    if cluster.queue:
        meta["labels"]["kueue.x-k8s.io/queue-name"] = cluster.queue
        if _scales(cluster):
            meta["annotations"] = {"kueue.x-k8s.io/elastic-job": "true"}
    body: Manifest = {
        "submissionMode": cluster.submission,
        "entrypoint": entrypoint,
        "backoffLimit": cluster.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": cluster.keep_seconds,
        "rayClusterSpec": _ray_cluster(spec, cluster, environment or {}),
    }
    if cluster.deadline_seconds is not None:
        body["activeDeadlineSeconds"] = cluster.deadline_seconds
    if cluster.submission == "K8sJobMode":
        body["submitterPodTemplate"] = _submitter(spec, cluster)
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": meta, "spec": body}


def _ray_cluster(spec: SweepSpec, cluster: ClusterSpec, environment: dict[str, str]) -> Manifest:
    found: Manifest = {
        "rayVersion": cluster.ray_version,
        "authOptions": {"mode": "token", "secretName": token_secret_name(spec)},
        "headGroupSpec": {
            "rayStartParams": {
                "dashboard-host": "0.0.0.0",  # noqa: S104 - inside the NetworkPolicy
                # No trial may run beside the driver.
                "num-cpus": "0",
                "num-gpus": "0",
            },
            "template": pods.ray_template(
                spec,
                cluster,
                component="head",
                cpus=cluster.head.cpus,
                memory_gib=cluster.head.memory_gib,
                gpus={},
                environment=environment,
            ),
        },
        "workerGroupSpecs": [_worker_group(spec, cluster, group) for group in cluster.workers],
    }
    if _scales(cluster):
        found["enableInTreeAutoscaling"] = True
        found["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": IDLE_SECONDS,
            "securityContext": pods.container_security(),
            "resources": pods.small("200m", "512Mi"),
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
        }
    return found


def _scales(cluster: ClusterSpec) -> bool:
    return any(group.min_workers < group.max_workers for group in cluster.workers)


def _worker_group(spec: SweepSpec, cluster: ClusterSpec, group: WorkersSpec) -> Manifest:
    template = pods.ray_template(
        spec,
        cluster,
        component="worker",
        cpus=group.cpus,
        memory_gib=group.memory_gib,
        gpus={group.gpu_resource: group.gpus} if group.gpus else {},
        environment={},
    )
    pods.place(template["spec"], group)
    return {
        "groupName": group.name,
        "replicas": group.min_workers,
        "minReplicas": group.min_workers,
        "maxReplicas": group.max_workers,
        # Said outright: KubeRay knows only some resource names as GPUs.
        "rayStartParams": {"num-gpus": str(group.gpus)},
        "template": template,
    }


def _submitter(spec: SweepSpec, cluster: ClusterSpec) -> Manifest:
    container = {
        "name": "ray-job-submitter",
        **pods.base_container(cluster, {}),
        "resources": pods.small("200m", "512Mi"),
    }
    pod = pods.base_pod(cluster, container)
    pod |= {
        "serviceAccountName": cluster.service_account or f"{spec.name}-worker",
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
    }
    return {"metadata": {"labels": pods.labels(spec, cluster, "submitter")}, "spec": pod}


# --- what it stands on ---------------------------------------------------------------------------


def _sweep_file(spec: SweepSpec, cluster: ClusterSpec) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(spec, cluster, f"{spec.name}-sweep", "sweep"),
        "data": {"sweep.yaml": on_cluster(spec, cluster).to_yaml()},
    }


def _service_account(spec: SweepSpec, cluster: ClusterSpec, part: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(spec, cluster, f"{spec.name}-{part}", part),
        # Pods that need the token ask for it.
        "automountServiceAccountToken": False,
    }


def _network_policy(spec: SweepSpec, cluster: ClusterSpec) -> Manifest:
    """Let only the sweep's own pods and KubeRay's operator in.

    What goes out is not restricted: storage and data sets may be anywhere.
    """
    own = {"matchLabels": {pods.INSTANCE_LABEL: spec.name}}
    operator = {
        "namespaceSelector": {},  # the operator may live in any namespace
        "podSelector": {"matchLabels": OPERATOR_LABELS},
    }
    ports = [{"protocol": "TCP", "port": port} for port in (DASHBOARD_PORT, AGENT_PORT)]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(spec, cluster, spec.name, "network"),
        "spec": {
            "podSelector": own,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": own}]},
                {"from": [operator], "ports": ports},
            ],
        },
    }


def _disruption_budget(spec: SweepSpec, cluster: ClusterSpec) -> Manifest:
    """Keep the driver where it is while nodes are drained."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(spec, cluster, f"{spec.name}-head", "head"),
        "spec": {
            # A share would need a controller that says how many pods there should be.
            "minAvailable": 1,
            "selector": {
                "matchLabels": {pods.INSTANCE_LABEL: spec.name, pods.COMPONENT_LABEL: "head"}
            },
        },
    }


def _tensorboard(spec: SweepSpec, cluster: ClusterSpec, logs: str) -> Manifest:
    selected = {pods.INSTANCE_LABEL: spec.name, pods.COMPONENT_LABEL: "tensorboard"}
    container = {
        "name": "tensorboard",
        **pods.base_container(cluster, {}),
        # TensorBoard's own command cannot read from S3 without further packages.
        "command": ["python", "-m", "search.tensorboard"],
        "args": [
            f"--logdir={cluster.storage.location}/{logs}",
            "--host=0.0.0.0",
            f"--port={TENSORBOARD_PORT}",
        ],
        "ports": [{"name": "http", "containerPort": TENSORBOARD_PORT}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
        "resources": pods.small("100m", "2Gi"),
    }
    pod = pods.base_pod(cluster, container)
    pod |= {
        "serviceAccountName": cluster.service_account or f"{spec.name}-worker",
        "automountServiceAccountToken": False,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(spec, cluster, f"{spec.name}-tensorboard", "tensorboard"),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": selected},
            "template": {
                "metadata": {"labels": pods.labels(spec, cluster, "tensorboard")},
                "spec": pod,
            },
        },
    }


def _tensorboard_service(spec: SweepSpec, cluster: ClusterSpec) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(spec, cluster, f"{spec.name}-tensorboard", "tensorboard"),
        "spec": {
            "selector": {pods.INSTANCE_LABEL: spec.name, pods.COMPONENT_LABEL: "tensorboard"},
            "ports": [{"name": "http", "port": TENSORBOARD_PORT, "targetPort": "http"}],
        },
    }
