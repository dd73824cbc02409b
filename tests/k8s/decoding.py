"""How an API server takes objects: strict decoding, defaults and checks.

Custom resources are judged by their definition as strict JSON Schema, built-in kinds by the
official client's models, which know every field and refuse others.
"""

import copy
import gzip
import json
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes.client
import pytest
from pydantic import ValidationError

KINDS = {
    "configmaps": "ConfigMap",
    "cronjobs": "CronJob",
    "deployments": "Deployment",
    "events": "Event",
    "jobs": "Job",
    "networkpolicies": "NetworkPolicy",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "pods": "Pod",
    "rayclusters": "RayCluster",
    "rayjobs": "RayJob",
    "rolebindings": "RoleBinding",
    "roles": "Role",
    "secrets": "Secret",
    "serviceaccounts": "ServiceAccount",
    "services": "Service",
}
_MODELS = {"Event": "CoreV1Event"}
_REPOSITORY = Path(__file__).resolve().parents[2]


def kuberay_schemas():
    """Give the strict schemas of KubeRay's kinds by plural, or skip the test."""
    found = schemas_if_here()
    if not found:
        pytest.skip("KubeRay's schemas (../shared/k8s) are not on this machine")
    return found


@cache
def schemas_if_here():
    """Give the same; nothing where they are not, and then the double takes any RayJob.

    They are data of the KubeRay project and not part of this repository: they are looked for in
    a folder `shared/k8s` beside it, or beside the one that holds it.
    """
    for parent in (_REPOSITORY.parent, _REPOSITORY.parent.parent):
        path = parent / "shared" / "k8s" / "kuberay-1.7-strict-schema.json.gz"
        if path.exists():
            return json.loads(gzip.decompress(path.read_bytes()))
    return {}


class Refusal(Exception):
    """An answer that is no success: a Status object."""

    def __init__(self, code, reason, message, **details):
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "details": details, "code": code,
        }  # fmt: skip

    @classmethod
    def plain_not_found(cls):
        """Give the answer on a path that is none: text, not a Status."""
        refusal = cls(404, "NotFound", "404 page not found")
        refusal.body = b"404 page not found\n"
        return refusal

    @classmethod
    def not_found(cls, plural, group, name):
        resource = f"{plural}.{group}" if group else plural
        details = {"name": name, "kind": plural} | ({"group": group} if group else {})
        return cls(404, "NotFound", f'{resource} "{name}" not found', **details)

    @classmethod
    def exists(cls, plural, group, name):
        resource = f"{plural}.{group}" if group else plural
        return cls(
            409, "AlreadyExists", f'{resource} "{name}" already exists', name=name, kind=plural
        )

    @classmethod
    def invalid(cls, kind, group, name, text):
        full = f"{kind}.{group}" if group else kind
        return cls(422, "Invalid", f'{full} "{name}" is invalid: {text}', name=name, kind=kind)


def decode(plural, group, body, schemas, *, strict):
    """Check an object, drop its unknown fields and set its defaults, in place.

    Raises:
        Refusal: as the server would answer.
    """
    kind = KINDS[plural]
    if body["kind"] != kind:
        raise Refusal(400, "BadRequest", f"{body['kind']} does not match {kind}")
    if plural in schemas:
        _custom(kind, group, body, schemas[plural], strict=strict)
    elif group != "ray.io":
        _built_in(kind, body)


def _custom(kind, group, body, schema, *, strict):
    if unknown := _drop_unknown(schema, body):
        listed = ", ".join(f'unknown field "{path}"' for path in unknown)
        if strict:
            raise Refusal(
                400, "BadRequest", f'{kind} in version "v1" cannot be handled as a {kind}: strict '
                f"decoding error: {listed}"
            )  # fmt: skip
    _set_defaults(schema, body)
    mistakes = sorted(jsonschema.Draft202012Validator(schema).iter_errors(body), key=str)
    if mistakes:
        text = "; ".join(f"{e.json_path.removeprefix('$.')}: {e.message[:200]}" for e in mistakes)
        raise Refusal.invalid(kind, group, body["metadata"].get("name"), text)


def _built_in(kind, body):
    model = getattr(kubernetes.client, _MODELS.get(kind, f"V1{kind}"))
    try:
        model.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise Refusal(
            400, "BadRequest", f'{kind} in version "v1" cannot be handled as a {kind}: strict '
            f'decoding error: unknown field "{path}": {first["msg"]}'
        ) from error  # fmt: skip


def _below(schema, key):
    more = schema.get("additionalProperties")
    return schema.get("properties", {}).get(key) or (more if isinstance(more, dict) else None)


def _drop_unknown(schema, value, path=""):
    """Drop what a structural schema does not know; give the paths."""
    found = []
    if isinstance(value, dict):
        if schema.get("additionalProperties") is False:
            for key in [k for k in value if k not in schema.get("properties", {})]:
                found.append(f"{path}.{key}".lstrip("."))
                del value[key]
        for key, inner in value.items():
            if below := _below(schema, key):
                found += _drop_unknown(below, inner, f"{path}.{key}")
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for i, inner in enumerate(value):
            found += _drop_unknown(schema["items"], inner, f"{path}[{i}]")
    return found


def _set_defaults(schema, value):
    if isinstance(value, dict):
        for key, below in schema.get("properties", {}).items():
            if key not in value and "default" in below:
                value[key] = copy.deepcopy(below["default"])
        for key, inner in value.items():
            if below := _below(schema, key):
                _set_defaults(below, inner)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for inner in value:
            _set_defaults(schema["items"], inner)
