"""The `cluster:` section of a sweep file.

Every field says its unit, what null means, and why its default: with an image and a storage
alone, a sweep runs on a plain cluster that has KubeRay and the NVIDIA device plugin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from k8s import names
from search.spec.mistakes import Mistakes, shown
from search.spec.quantities import parse_quantity
from search.spec.sections import Section

RAY_VERSION = "2.60.0"
"""Of the image that `scripts/image` builds. KubeRay needs it to switch token authentication on."""


class HeadSpec(Section):
    """The pod that runs the driver, the dashboard and the autoscaler; no trials run there."""

    cpus: int = Field(default=2, ge=1)
    """One for the driver and its searcher, one for Ray."""
    memory_gib: float = Field(default=8.0, ge=2)
    """GiB. Ray's own services and the driver take about 3; the data of a sweep come on top."""


class TolerationSpec(Section):
    """One taint that a node may have."""

    key: str
    """Of the taint."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """`Equal` compares the value as well."""
    value: str | None = None
    """Of the taint, for `Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Null: every effect."""

    @field_validator("key")
    @classmethod
    def _is_key(cls, key: str) -> str:
        return names.check_key(key)

    @field_validator("value")
    @classmethod
    def _is_value(cls, value: str | None) -> str | None:
        return None if value is None else names.check_label_value(value)

    @model_validator(mode="after")
    def _fits_operator(self) -> TolerationSpec:
        if (self.value is not None) != (self.operator == "Equal"):
            raise ValueError("allowed: a `value` with operator Equal, and none with Exists")
        return self


class WorkersSpec(Section):
    """A group of equal pods that run trials, made when trials wait and removed when idle."""

    name: str = "workers"
    """Of the group."""
    cpus: int = Field(default=4, ge=1)
    """CPU cores of one pod."""
    memory_gib: float = Field(default=16.0, ge=1)
    """GiB of one pod, its memory-backed object store included."""
    gpus: int = Field(default=1, ge=0)
    """GPUs of one pod; 0: none."""
    gpu_resource: str = "nvidia.com/gpu"
    """What the device plugin calls one: for a slice of a GPU, such as nvidia.com/mig-1g.10gb."""
    min_workers: int = Field(default=0, ge=0)
    """Pods that are kept even when idle. None: an idle group costs nothing."""
    max_workers: int = Field(default=4, ge=1, le=1000)
    """Pods at most."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have; any node by default."""
    tolerations: list[TolerationSpec] | None = None
    """Taints that a node may have. Null: nvidia.com/gpu where the group has GPUs, which is what
    GPU nodes are usually tainted with."""
    spot: bool = False
    """Whether the pods go to nodes that the provider may take back (GKE, EKS, AKS, Karpenter). A
    trial that loses its node is run again."""

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        return names.check_label(name)

    @field_validator("gpu_resource")
    @classmethod
    def _is_resource(cls, resource: str) -> str:
        if "/" not in names.check_key(resource):
            raise ValueError("allowed: a name with a prefix, such as nvidia.com/gpu")
        return resource

    @field_validator("node_selector")
    @classmethod
    def _are_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        return _checked_map(labels, names.check_key, names.check_label_value)

    @model_validator(mode="after")
    def _is_range(self) -> WorkersSpec:
        if self.min_workers > self.max_workers:
            raise ValueError(
                f"got min_workers {self.min_workers} above max_workers {self.max_workers}"
            )
        return self


class StorageSpec(Section):
    """Where studies are kept: a volume that all pods mount, or an object store."""

    claim: str | None = None
    """Existing PersistentVolumeClaim; more than one node needs access mode ReadWriteMany."""
    mount: str = "/studies"
    """Where the pods see the claim. Data sets on it are given as paths below it."""
    url: str | None = None
    """Object store, such as s3://bucket/prefix, in place of a claim."""
    secret: str | None = None
    """Secret whose keys become environment variables, such as AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY. Null: the pods' service account has access by itself."""

    @field_validator("claim", "secret")
    @classmethod
    def _is_object(cls, name: str | None) -> str | None:
        return None if name is None else names.check_object_name(name)

    @field_validator("mount")
    @classmethod
    def _is_mount(cls, mount: str) -> str:
        return names.check_mount(mount)

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        return None if url is None else names.check_bucket(url)

    @model_validator(mode="after")
    def _is_one(self) -> StorageSpec:
        if (self.claim is None) == (self.url is None):
            raise ValueError("allowed: either `claim` or `url`")
        return self

    @property
    def location(self) -> str:
        """Give the folder of all studies, as the pods see it."""
        return (self.url or self.mount).rstrip("/")


class ClusterSpec(Section):
    """Where a sweep runs on Kubernetes."""

    image: str
    """With paretune in it: see scripts/image."""
    storage: StorageSpec
    """Where studies are kept; it outlives every pod."""
    namespace: str | None = None
    """Null: the one of the kubeconfig context. It must exist."""
    image_pull_secret: str | None = None
    """Secret with the registry's credentials. Null: the registry is open to the nodes."""
    head: HeadSpec = Field(default_factory=HeadSpec)
    """The pod of the driver."""
    workers: list[WorkersSpec] = Field(default_factory=lambda: [WorkersSpec()])
    """Groups of pods that run trials: one group of GPU pods by default."""
    service_account: str | None = None
    """Existing account that all pods use, where access to the storage hangs on it. Null: accounts
    without any rights are made."""
    queue: str | None = None
    """Kueue LocalQueue that admits the job. Null: no Kueue."""
    deadline_seconds: int | None = None
    """Longest time of one attempt, as seconds or with a unit (`8h`). Null: none."""
    retries: int = Field(default=2, ge=0, le=100)
    """Times a failed driver is started again; finished trials are not repeated."""
    keep_seconds: int = 600
    """Time that the pods stay after the end, for a look at the dashboard; may have a unit."""
    tensorboard: bool = True
    """Whether a TensorBoard over the study is set up beside the job."""
    submission: Literal["HTTPMode", "K8sJobMode"] = "HTTPMode"
    """How KubeRay starts the driver: by a request to the head, or from a pod of its own."""
    ray_version: str = RAY_VERSION
    """Of the image."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of all pods; none by default. For secrets use `storage.secret`."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of all objects, such as a cost centre; none by default."""

    @field_validator("image")
    @classmethod
    def _is_image(cls, image: str) -> str:
        return names.check_image(image)

    @field_validator("namespace")
    @classmethod
    def _is_namespace(cls, name: str | None) -> str | None:
        return None if name is None else names.check_label(name)

    @field_validator("image_pull_secret", "service_account", "queue")
    @classmethod
    def _is_object(cls, name: str | None) -> str | None:
        return None if name is None else names.check_object_name(name)

    @field_validator("workers")
    @classmethod
    def _are_groups(cls, groups: list[WorkersSpec]) -> list[WorkersSpec]:
        if not groups:
            raise ValueError("is empty; allowed: at least one group")
        seen = [group.name for group in groups]
        if len(set(seen)) < len(seen):
            raise ValueError(f"allowed: groups with different names, got {', '.join(seen)}")
        return groups

    @field_validator("deadline_seconds", "keep_seconds", mode="before")
    @classmethod
    def _is_duration(cls, value: Any, info: ValidationInfo) -> int | None:
        if value is None and info.field_name == "deadline_seconds":
            return None
        seconds = parse_quantity(value, "s")
        least = 60 if info.field_name == "deadline_seconds" else 0
        # int32 in the RayJob's definition
        if not least <= seconds < 2**31:
            raise ValueError(f"allowed: from {least} seconds on, or with a unit such as 8h")
        return round(seconds)

    @field_validator("ray_version")
    @classmethod
    def _is_version(cls, version: str) -> str:
        parts = version.split(".")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError(f"allowed: a version such as {RAY_VERSION}")
        return version

    @field_validator("env")
    @classmethod
    def _are_variables(cls, env: dict[str, str]) -> dict[str, str]:
        return _checked_map(env, names.check_variable, _without_null)

    @field_validator("labels")
    @classmethod
    def _are_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        return _checked_map(labels, names.check_own_label, names.check_label_value)


def _without_null(value: str) -> str:
    if "\0" in value:
        raise ValueError("allowed: text without null characters")
    return value


def _checked_map(
    values: dict[str, str], key_check: Callable[[str], str], value_check: Callable[[str], str]
) -> dict[str, str]:
    mistakes = Mistakes()
    for key, value in values.items():
        for check, text in ((key_check, key), (value_check, value)):
            try:
                check(text)
            except ValueError as error:
                mistakes.add((key,), f"got {shown(text)}; {error}")
    if mistakes:
        raise mistakes.error()
    return values
