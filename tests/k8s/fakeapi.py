"""A Kubernetes API server over real HTTP: the slice of it that a sweep on a cluster uses.

Objects with resourceVersion and generation, create, get, list with selectors, watch, replace,
merge patch, apply, delete with finalizers, the status subresource, dry run, strict decoding (see
`decoding`), refusals as RBAC makes them, and the proxy to services. Outcomes were compared with a
real API server; what is left out: field ownership of apply, paging, and garbage collection.
"""

import copy
import json
import re
import secrets
import threading
import time
import urllib.error
import urllib.request
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from decoding import KINDS, Refusal, decode

_RESOURCE = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>status))?"
)
_PROXY = re.compile(r"/api/v1/namespaces/([^/]+)/services/([^/:]+):(\d+)/proxy/(.*)")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SET_BY_SERVER = ("uid", "creationTimestamp", "generation", "deletionTimestamp")


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeKube:
    """The server; `with FakeKube(schemas) as kube: ...` and then any client at `kube.url`."""

    def __init__(self, schemas=None, *, namespaces=("default",), kuberay=True, token=None):
        self.schemas = schemas or {}
        """Of custom resources, by plural: strict JSON Schema."""
        self.namespaces = set(namespaces)
        self.kuberay = kuberay
        self.token = token
        """That every request must carry; None: open."""
        self.denied = set()
        """Pairs of verb and plural that the caller may not do; `*` for either."""
        self.broken = None
        """Status code with which everything is answered."""
        self.services = {}
        """Address by (namespace, service name), for the proxy."""
        self.requests = []
        """Method, path and body of every request."""
        self._objects = {}
        self._events = []
        self._version = 100
        self._changed = threading.Condition(threading.RLock())

    def __enter__(self):
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement

            def log_message(self, *_):
                pass

            def _answer(self):
                fake._answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # --- for tests -----------------------------------------------------------------------------

    def object(self, plural, name, namespace="default"):
        with self._changed:
            return copy.deepcopy(self._objects.get((plural, namespace, name)))

    def names(self, plural):
        with self._changed:
            return sorted(key[2] for key in self._objects if key[0] == plural)

    def put(self, plural, body, namespace="default"):
        """Make an object as a controller would: status and all, nothing checked."""
        with self._changed:
            return self._store((plural, namespace, body["metadata"]["name"]), body, None)

    def set_status(self, plural, name, namespace="default", **status):
        with self._changed:
            key = (plural, namespace, name)
            old = self._objects[key]
            return self._store(key, {**old, "status": {**old.get("status", {}), **status}}, old)

    def set_finalizers(self, plural, name, finalizers, namespace="default"):
        with self._changed:
            key = (plural, namespace, name)
            if old := self._objects.get(key):
                meta = {**old["metadata"], "finalizers": finalizers}
                self._store(key, {**old, "metadata": meta}, old)

    # --- requests ------------------------------------------------------------------------------

    def _answer(self, handler):
        url = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        length = int(handler.headers.get("Content-Length") or 0)
        raw = handler.rfile.read(length) if length else b""
        self.requests.append((handler.command, handler.path, raw))
        try:
            if self.broken:
                raise Refusal(self.broken, "InternalError", "etcdserver: request timed out")
            self._check_token(handler)
            if proxied := _PROXY.fullmatch(url.path):
                self._check_right("get", "", "services/proxy", proxied[1])
                return self._proxy(handler, *proxied.groups())
            found = _RESOURCE.fullmatch(url.path)
            if not found or (found["group"] == "ray.io" and not self.kuberay):
                raise Refusal.plain_not_found()
            if found["plural"] not in KINDS:
                raise Refusal(404, "NotFound", "the server could not find the requested resource")
            verb = _VERBS[handler.command]
            if verb == "get" and not found["name"]:
                verb = "watch" if "watch" in query else "list"
            self._check_right(verb, found["group"] or "", found["plural"], found["namespace"])
            if handler.command == "GET" and not found["name"] and "watch" in query:
                return self._watch(handler, found, query)
            body = json.loads(raw) if raw else None
            with self._changed:
                media = handler.headers.get("Content-Type", "")
                code, out = self._do(handler.command, found, query, body, media)
            _send(handler, code, out)
        except Refusal as refusal:
            _send(handler, refusal.code, refusal.body)
        return None

    def _check_token(self, handler):
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            raise Refusal(401, "Unauthorized", "Unauthorized")

    def _check_right(self, verb, group, plural, namespace):
        if {(verb, plural), ("*", plural), (verb, "*")} & self.denied:
            resource = f"{plural}.{group}" if group else plural
            raise Refusal(
                403,
                "Forbidden",
                f'{resource} is forbidden: User "someone" cannot {verb} resource "{plural}" in '
                f'API group "{group}" in the namespace "{namespace}"',
            )

    def _do(self, method, found, query, body, media):
        group, plural, namespace = found["group"] or "", found["plural"], found["namespace"]
        name = unquote(found["name"]) if found["name"] else None
        key = (plural, namespace, name)
        old = self._objects.get(key)
        status = found["sub"] == "status"
        if method == "GET" and name is None:
            return 200, self._list(found, query)
        if method == "POST":
            return 201, self._create(found, query, body)
        applying = method == "PATCH" and "apply-patch" in media
        if old is None and not applying:
            raise Refusal.not_found(plural, group, name)
        if method == "GET":
            return 200, old
        if method == "DELETE":
            return 200, self._delete(key, old)
        if method == "PUT":
            return 200, self._write(found, key, body, query, old, status=status)
        if applying:
            if not query.get("fieldManager"):
                raise Refusal(400, "BadRequest", "fieldManager is required for apply patch")
            if old is None:
                return 201, self._create(found, query, body)
            # Maps are merged, lists of an applier are its own: as with one single applier.
            return 200, self._write(found, key, _merged(old, body), query, old)
        if "merge-patch" not in media or ("strategic" in media and group == "ray.io"):
            raise Refusal(415, "UnsupportedMediaType", f"the media type {media} is not supported")
        return 200, self._write(found, key, _merged(old, body), query, old, status=status)

    # --- verbs ---------------------------------------------------------------------------------

    def _list(self, found, query):
        group = found["group"]
        return {
            "kind": f"{KINDS[found['plural']]}List",
            "apiVersion": f"{group}/{found['version']}" if group else "v1",
            "metadata": {"resourceVersion": str(self._version)},
            "items": [o for key, o in self._objects.items() if _selected(key, o, found, query)],
        }

    def _create(self, found, query, body):
        if found["namespace"] not in self.namespaces:
            raise Refusal.not_found("namespaces", "", found["namespace"])
        plural, group = found["plural"], found["group"] or ""
        meta = body.setdefault("metadata", {})
        name = meta.get("name") or ""
        if not name and meta.get("generateName"):
            name = meta["name"] = meta["generateName"] + secrets.token_hex(3)[:5]
        if not _NAME.fullmatch(name) or len(name) > 253:
            raise Refusal.invalid(
                KINDS[plural], group, name, f'metadata.name: Invalid value: "{name}": a lowercase '
                "RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
            )  # fmt: skip
        if meta.get("namespace", found["namespace"]) != found["namespace"]:
            raise Refusal(
                400, "BadRequest", "the namespace of the provided object does not match the "
                f"namespace sent on the request ({meta['namespace']} != {found['namespace']})"
            )  # fmt: skip
        key = (plural, found["namespace"], name)
        if key in self._objects:
            raise Refusal.exists(plural, group, name)
        return self._write(found, key, body, query, None)

    def _delete(self, key, old):
        if old["metadata"].get("finalizers"):
            new = copy.deepcopy(old)
            new["metadata"].setdefault("deletionTimestamp", now())
            return self._store(key, new, old)
        del self._objects[key]
        self._version += 1
        self._tell("DELETED", key, old)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def _write(self, found, key, body, query, old, *, status=False):
        plural, group = key[0], found["group"] or ""
        new = copy.deepcopy(body)
        if old is not None:
            _check_version(new, old, plural, group)
            if status:
                new = {**copy.deepcopy(old), "status": new.get("status")}
            else:
                new.pop("status", None)
                new |= {"status": copy.deepcopy(old["status"])} if "status" in old else {}
        elif group == "ray.io":
            new.pop("status", None)
        new.setdefault("kind", KINDS[plural])
        decode(plural, group, new, self.schemas, strict=query.get("fieldValidation") == "Strict")
        if query.get("dryRun") == "All":
            return new
        return self._store(key, new, old)

    def _store(self, key, body, old):
        new = copy.deepcopy(body)
        meta = new.setdefault("metadata", {})
        meta |= {"name": key[2], "namespace": key[1]}
        if old is None:
            meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        else:
            meta |= {f: old["metadata"][f] for f in _SET_BY_SERVER if f in old["metadata"]}
            if new.get("spec") != old.get("spec"):
                meta["generation"] = old["metadata"].get("generation", 1) + 1
        self._version += 1
        meta["resourceVersion"] = str(self._version)
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            self._objects.pop(key, None)
            self._tell("DELETED", key, new)
        else:
            self._objects[key] = new
            self._tell("ADDED" if old is None else "MODIFIED", key, new)
        return new

    def _tell(self, kind, key, body):
        self._events.append((self._version, kind, key, copy.deepcopy(body)))
        self._changed.notify_all()

    # --- watch and proxy -----------------------------------------------------------------------

    def _watch(self, handler, found, query):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        deadline = time.monotonic() + float(query.get("timeoutSeconds") or 300)
        since = query.get("resourceVersion")
        with self._changed:
            if since and since != "0":
                waiting = [e for e in self._events if e[0] > int(since)]
            else:
                waiting = [(0, "ADDED", key, body) for key, body in self._objects.items()]
            seen = len(self._events)
        try:
            while True:
                for _, kind, key, body in waiting:
                    if _selected(key, body, found, query):
                        _send_chunk(handler, {"type": kind, "object": body})
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                with self._changed:
                    if len(self._events) == seen:
                        self._changed.wait(min(left, 0.5))
                    waiting, seen = self._events[seen:], len(self._events)
            handler.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        handler.close_connection = True

    def _proxy(self, handler, namespace, service, _port, path):
        """Pass a request on without the caller's Authorization, as the API server does."""
        address = self.services.get((namespace, service))
        if address is None:
            raise Refusal.not_found("services", "", service)
        kept = ("X-Ray-Authorization", "Accept")
        headers = {name: handler.headers[name] for name in kept if name in handler.headers}
        request = urllib.request.Request(f"{address}/{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                code, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            code, content = error.code, error.read()
        except OSError as error:
            raise Refusal(
                503, "ServiceUnavailable", f"error trying to reach service: {error}"
            ) from error
        _send(handler, code, content)


def _selected(key, body, found, query):
    if key[:2] != (found["plural"], found["namespace"]):
        return False
    labels = body["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        name, equals, value = term.partition("=")
        if (labels.get(name) != value) if equals else (name not in labels):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        at = body
        for part in path.split("."):
            at = (at or {}).get(part)
        if at != value:
            return False
    return True


def _check_version(new, old, plural, group):
    version = new.get("metadata", {}).get("resourceVersion")
    if version and version != old["metadata"]["resourceVersion"]:
        resource = f"{plural}.{group}" if group else plural
        raise Refusal(
            409, "Conflict", f'Operation cannot be fulfilled on {resource} '
            f'"{old["metadata"]["name"]}": the object has been modified; please apply your '
            "changes to the latest version and try again"
        )  # fmt: skip


def _merged(target, changes):
    if not isinstance(changes, dict):
        return copy.deepcopy(changes)
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in changes.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = _merged(out.get(key), value)
    return out


def _send(handler, code, body):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(code)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _send_chunk(handler, value):
    content = (json.dumps(value) + "\n").encode()
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
    handler.wfile.flush()
