"""What Kubernetes and KubeRay take as names, labels and images.

Checked before anything is sent: their own refusals come late, and some never come.
"""

from __future__ import annotations

import re

MAX_SWEEP_NAME = 36
"""KubeRay refuses RayJob names over 47 characters; a night's adds `-2026-11-24` to the sweep's."""

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SWEEP_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(
    # registry and path, tag, digest: as the distribution specification has them
    r"[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
_MOUNT = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+")
_BUCKET_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9_.=-]+)*/?")

OURS = ("app.kubernetes.io/", "batch.kubernetes.io/", "kueue.x-k8s.io/", "ray.io/")
"""Prefixes of labels that we, Ray and Kueue set."""


def check_sweep_name(name: str) -> str:
    """Give the name if a RayJob may have it.

    Raises:
        ValueError: says what is allowed, as all checks here do.
    """
    if len(name) > MAX_SWEEP_NAME or not _SWEEP_NAME.fullmatch(name):
        raise ValueError(
            "allowed on a cluster: lower-case letters, digits and '-', a letter first, "
            f"at most {MAX_SWEEP_NAME} of them"
        )
    return name


def check_label(name: str) -> str:
    """Give the name of a namespace, container or worker group."""
    return _checked(name, _DNS_LABEL, "lower-case letters, digits and '-', at most 63", 63)


def check_object_name(name: str) -> str:
    """Give the name of a Secret, claim, service account or queue."""
    allowed = "lower-case letters, digits, '-' and '.', at most 253"
    return _checked(name, _DNS_NAME, allowed, 253)


def check_key(key: str) -> str:
    """Give the key of a label, taint or resource: a name after an optional DNS prefix."""
    prefix, slash, name = key.rpartition("/")
    if not _QUALIFIED.fullmatch(name) or (slash and not _is_prefix(prefix)):
        raise ValueError(
            "allowed: letters, digits, '-', '_' and '.', at most 63, "
            "after an optional prefix such as example.com/"
        )
    return key


def check_own_label(key: str) -> str:
    """Give the key of a label that a person may set."""
    if check_key(key).startswith(OURS):
        raise ValueError(f"allowed: any but {', '.join(OURS)}, which are set for you")
    return key


def check_label_value(value: str) -> str:
    """Give the value of a label; it may be empty."""
    if value:
        _checked(value, _QUALIFIED, "letters, digits, '-', '_' and '.', at most 63", 63)
    return value


def check_variable(name: str) -> str:
    """Give the name of an environment variable."""
    return _checked(name, _VARIABLE, "letters, digits and '_', no digit first", 253)


def check_image(image: str) -> str:
    """Give a container image, such as registry.example.com/team/paretune:1.0."""
    return _checked(image, _IMAGE, "a container image such as host/path:tag", 512)


def check_mount(path: str) -> str:
    """Give the absolute path of a folder in the pods that nothing else is mounted at."""
    _checked(path, _MOUNT, "an absolute path of plain names such as /studies", 253)
    if path.split("/")[1] in ("tmp", "cache", "etc", "usr", "bin", "dev", "proc", "sys", "var"):
        raise ValueError("allowed: a folder that the system does not use, such as /studies")
    return path


def check_bucket(url: str) -> str:
    """Give the location of an object store."""
    return _checked(url, _BUCKET_URL, "a location such as s3://bucket/prefix", 512)


def _is_prefix(prefix: str) -> bool:
    return len(prefix) <= 253 and bool(_DNS_NAME.fullmatch(prefix))


def _checked(text: str, pattern: re.Pattern[str], allowed: str, longest: int) -> str:
    if len(text) > longest or not pattern.fullmatch(text):
        raise ValueError(f"allowed: {allowed}")
    return text
