"""Errors of a cluster. All of them end a command with exit code 3.

ClusterError
├── NoCluster      no kubeconfig, an unknown context, or an API server that does not answer
├── AccessRefused  the credentials are not accepted, or may not do this
├── NotInstalled   the cluster has no KubeRay
├── ObjectRefused  the cluster does not take an object, or it is not ours to change
└── SweepFailed    a job that was waited for ended without success
"""

from search.errors import SearchError


class ClusterError(SearchError):
    """The cluster refused; the message says what was asked of which cluster, and what helps."""

    exit_code = 3


class NoCluster(ClusterError):  # noqa: N818 - reads as what happened
    """There is no cluster to talk to, or it does not answer now."""


class AccessRefused(ClusterError):  # noqa: N818
    """The credentials are not accepted, or may not do this."""


class NotInstalled(ClusterError):  # noqa: N818
    """The cluster has no KubeRay."""


class ObjectRefused(ClusterError):  # noqa: N818
    """The cluster does not take an object, or it is not ours to change."""


class SweepFailed(ClusterError):  # noqa: N818
    """A job that was waited for ended without success."""
