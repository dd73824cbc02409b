"""The one door to the `kubernetes` library: one cluster, one namespace, plain dicts in and out.

All kinds go through the same few requests, with strict field validation: the library's own models
would refuse what they do not know, and return nothing where a custom object is made by apply.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, cast

from kubernetes import config
from kubernetes.client import ApiClient, ApiException, Configuration
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError
from yaml import YAMLError

from k8s.errors import AccessRefused, ClusterError, NoCluster, NotInstalled, ObjectRefused

Manifest = dict[str, Any]

FIELD_MANAGER = "paretune"
TIMEOUT_SECONDS = (10, 60)
"""To connect, and to wait for an answer."""
KINDS = {
    "ConfigMap": ("/api/v1", "configmaps"),
    "CronJob": ("/apis/batch/v1", "cronjobs"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Event": ("/api/v1", "events"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "Pod": ("/api/v1", "pods"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "RayJob": ("/apis/ray.io/v1", "rayjobs"),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "Secret": ("/api/v1", "secrets"),
    "Service": ("/api/v1", "services"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
}
KUBERAY_HELP = (
    "install KubeRay 1.7 first: https://docs.ray.io/en/latest/cluster/kubernetes/getting-started"
)
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Cluster:
    """One namespace of one cluster."""

    def __init__(self, api: ApiClient, namespace: str, context: str = "") -> None:
        self.namespace = namespace
        self.context = context
        """Of the kubeconfig; empty inside a cluster."""
        self._api = api
        # A refused connection is told at once; whoever waits longer asks again.
        api.rest_client.pool_manager.connection_pool_kw["retries"] = False
        logging.getLogger("urllib3").setLevel(logging.ERROR)

    @classmethod
    def connect(cls, *, context: str | None = None, namespace: str | None = None) -> Cluster:
        """Connect as `kubectl` does: KUBECONFIG or ~/.kube/config, else from inside a pod.

        Args:
            context: of the kubeconfig; None: its current one.
            namespace: None: that of the context, of the pod, or `default`.

        Raises:
            NoCluster: no usable configuration.
        """
        path = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
        settings = Configuration()
        try:
            if context is None and not _any_file(path) and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)
                own = _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else ""
                return cls(ApiClient(settings), namespace or own or "default")
            contexts, current = config.list_kube_config_contexts(path)
            chosen = _context(contexts, context) or current
            config.load_kube_config(path, chosen["name"], client_configuration=settings)
        except (ConfigException, OSError, KeyError, TypeError, YAMLError) as error:
            raise NoCluster(_no_cluster(path, error)) from error
        own = chosen["context"].get("namespace") or "default"
        return cls(ApiClient(settings), namespace or own, chosen["name"])

    def __str__(self) -> str:
        place = f"context {self.context}" if self.context else self._api.configuration.host
        return f"namespace {self.namespace} of {place}"

    # --- objects -----------------------------------------------------------------------------

    def get(self, kind: str, name: str) -> Manifest | None:
        """Give an object, None if there is none.

        Raises:
            ClusterError: as all requests: the cluster refused, or cannot be reached.
        """
        try:
            return cast(Manifest, self._request("GET", kind, name))
        except ApiException as error:
            if error.status == 404 and _is_about(error, name):
                return None
            raise self._told(error, "get", kind, name) from error

    def list(self, kind: str, *, selector: str = "", fields: str = "") -> list[Manifest]:
        """Give the objects of a kind, by label selector and field selector."""
        query = {"labelSelector": selector, "fieldSelector": fields}
        try:
            found = self._request("GET", kind, query={k: v for k, v in query.items() if v})
        except ApiException as error:
            raise self._told(error, "list", kind) from error
        return cast(list[Manifest], found["items"])

    def create(self, manifest: Manifest, *, dry_run: bool = False) -> bool:
        """Make an object; tell False if one of that name is there already."""
        name = manifest["metadata"]["name"]
        try:
            self._request("POST", manifest["kind"], query=_query(dry_run), body=manifest)
        except ApiException as error:
            if error.status == 409 and _status(error).get("reason") == "AlreadyExists":
                return False
            raise self._told(error, "create", manifest["kind"], name) from error
        return True

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> None:
        """Make an object, or bring the one of that name to what the manifest says."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        query = {**_query(dry_run), "force": "true"}
        try:
            self._request(
                "PATCH",
                kind,
                name,
                query=query,
                body=manifest,
                media="application/apply-patch+yaml",
            )
        except ApiException as error:
            raise self._told(error, "patch", kind, name) from error

    def delete(self, kind: str, name: str) -> bool:
        """Remove an object and what belongs to it; tell False if there is none."""
        try:
            self._request("DELETE", kind, name, query={"propagationPolicy": "Background"})
        except ApiException as error:
            if error.status == 404 and _is_about(error, name):
                return False
            raise self._told(error, "delete", kind, name) from error
        return True

    def read_service(self, name: str, port: int, path: str, headers: dict[str, str]) -> str | None:
        """Read a page of a service in the cluster through the API server.

        None if the service is not there or does not answer: its pods may be starting or gone.
        """
        place = f"/api/v1/namespaces/{self.namespace}/services/{name}:{port}/proxy/{path}"
        try:
            return self._send("GET", place, headers=headers).decode(errors="replace")
        except ApiException as error:
            if error.status in (401, 404, 500, 502, 503, 504):
                return None
            raise self._told(error, "get", "Service", f"{name}/proxy") from error

    # --- requests ----------------------------------------------------------------------------

    def _request(
        self,
        method: str,
        kind: str,
        name: str = "",
        *,
        query: dict[str, str] | None = None,
        body: Manifest | None = None,
        media: str = "application/json",
    ) -> Any:
        group, plural = KINDS[kind]
        place = f"{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")
        return json.loads(self._send(method, place, query=query, body=body, media=media))

    def _send(
        self,
        method: str,
        place: str,
        *,
        query: dict[str, str] | None = None,
        body: Manifest | None = None,
        media: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> bytes:
        accept = {"Accept": "application/json, */*", "Content-Type": media, **(headers or {})}
        parts = self._api.param_serialize(
            method,
            place,
            query_params=list((query or {}).items()),
            header_params=accept,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._api.call_api(*parts, _request_timeout=TIMEOUT_SECONDS)
            content = cast(bytes, response.read())
        except (HTTPError, ApiException) as error:  # the latter: TLS, without a status
            host = self._api.configuration.host
            raise NoCluster(f"cannot reach the cluster at {host}: {_cause(error)}") from error
        if not 200 <= response.status < 300:
            raise ApiException(http_resp=response)
        return content

    # --- refusals ----------------------------------------------------------------------------

    def _told(self, error: ApiException, verb: str, kind: str, name: str = "") -> ClusterError:
        """Give what an answer of the API server means to a person."""
        text, what = _message(error), f"{kind} {name}".strip()
        found: ClusterError
        match error.status:
            case 401:
                found = AccessRefused(f"{self} does not accept your credentials: {text}")
            case 403 if "quota" in text:
                found = ObjectRefused(f"the quota of {self} does not allow {what}: {text}")
            case 403:
                found = AccessRefused(
                    f"you may not {verb} {KINDS[kind][1]} in {self}; ask for a role with that "
                    f"verb. The cluster says: {text}"
                )
            case 404 if _status(error).get("details", {}).get("kind") == "namespaces":
                found = ObjectRefused(f"there is no {self}; create it first")
            case 404 if kind == "RayJob" and not _is_about(error, name):
                found = NotInstalled(f"there is no RayJob (ray.io/v1) in {self}; {KUBERAY_HELP}")
            case 409:
                found = ObjectRefused(f"{what} in {self} was changed meanwhile; try again: {text}")
            case 400 | 422:
                found = ObjectRefused(f"{self} does not take {what}: {text}")
            case status if status == 429 or status >= 500:
                found = NoCluster(f"{self} cannot answer now ({status}): {text}")
            case _:
                found = ClusterError(f"{verb} {what} in {self}: answer {error.status}: {text}")
        return found


def _any_file(paths: str) -> bool:
    return any(Path(path).exists() for path in paths.split(os.pathsep) if path)


def _context(contexts: list[Manifest], name: str | None) -> Manifest | None:
    if name is None:
        return None
    for context in contexts:
        if context["name"] == name:
            return context
    known = ", ".join(context["name"] for context in contexts)
    raise ConfigException(f"there is no context {name!r}; allowed: {known}")


def _no_cluster(path: str, error: Exception) -> str:
    if not _any_file(path):
        return (
            f"no cluster is configured: there is no {path}; set KUBECONFIG, or run this in a pod"
        )
    return f"the configuration {path} is not usable: {error}"


def _query(dry_run: bool) -> dict[str, str]:
    query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
    return {**query, "dryRun": "All"} if dry_run else query


def _status(error: ApiException) -> Manifest:
    """Give the Status object of an answer; empty where the answer is something else."""
    try:
        found = json.loads(error.body or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _message(error: ApiException) -> str:
    text = _status(error).get("message") or error.body or error.reason or "no reason given"
    return " ".join(str(text).split())[:2000]


def _is_about(error: ApiException, name: str) -> bool:
    """Tell whether the object is missing, rather than its kind."""
    return bool(name) and _status(error).get("details", {}).get("name") == name


def _cause(error: HTTPError | ApiException) -> str:
    text = " ".join(str(getattr(error, "reason", None) or error).split())
    # urllib3 puts the object's address in front
    return text.rpartition(">: ")[2] if ">: " in text else text
