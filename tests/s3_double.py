"""A server on loopback that answers like S3, as far as pyarrow asks: objects in memory, no keys.

It can refuse everything for a while, which no real server does on demand.
"""

import hashlib
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class S3Double:
    """Use it as a context manager; `url` is its address."""

    def __init__(self, *buckets: str):
        self.buckets = set(buckets)
        self.objects: dict[str, bytes] = {}
        """By `bucket/key`."""
        self.requests: list[str] = []
        self.refuse_until = 0.0
        """Of `time.monotonic()`: before it, every request is answered with 503."""
        self.denied: set[str] = set()
        """Methods that are answered with 403."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.double = self
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def refuse(self, seconds: float) -> None:
        self.refuse_until = time.monotonic() + seconds

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one(self):
        double = self.server.double
        double.requests.append(f"{self.command} {self.path}")
        address = urlsplit(self.path)
        query = parse_qs(address.query, keep_blank_values=True)
        name = unquote(address.path).lstrip("/")
        body = self._body()
        if time.monotonic() < double.refuse_until:
            return self._error(503, "SlowDown")
        if self.command in double.denied:
            return self._error(403, "AccessDenied")
        bucket, _, key = name.partition("/")
        if bucket not in double.buckets:
            return self._error(404, "NoSuchBucket")
        if self.command == "POST" and "delete" in query:
            return self._delete_several(bucket, body)
        if not key:
            return self._list(bucket, query) if self.command == "GET" else self._answer(200)
        return getattr(self, f"_{self.command.lower()}")(f"{bucket}/{key}", body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_one

    def _put(self, name, body):
        self.server.double.objects[name] = body
        self._answer(200, headers={"ETag": _etag(body)})

    def _get(self, name, _):
        content = self.server.double.objects.get(name)
        if content is None:
            return self._error(404, "NoSuchKey")
        headers = {"ETag": _etag(content), "Last-Modified": formatdate(0, usegmt=True)}
        wanted = self.headers.get("Range")
        if not wanted:
            return self._answer(200, content, headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        end = min(int(last) + 1 if last else len(content), len(content))
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
        return self._answer(206, content[int(first) : end], headers)

    _head = _get

    def _delete(self, name, _):
        self.server.double.objects.pop(name, None)
        self._answer(204)

    def _delete_several(self, bucket, body):
        for part in body.decode().split("<Key>")[1:]:
            self.server.double.objects.pop(f"{bucket}/{part.partition('</Key>')[0]}", None)
        self._answer(200, b"<DeleteResult></DeleteResult>")

    def _list(self, bucket, query):
        prefix = query.get("prefix", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        limit = int(query.get("max-keys", ["1000"])[0])
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        found: dict[str, bytes | None] = {}
        for name, content in sorted(dict(self.server.double.objects).items()):
            key = name.removeprefix(f"{bucket}/")
            if not name.startswith(f"{bucket}/") or not key.startswith(prefix):
                continue
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            entry = prefix + head + cut if cut else key
            if entry > after:
                found.setdefault(entry, None if cut else content)
        names = sorted(found)
        more, names = len(names) > limit, names[:limit]
        parts = [
            f"<Contents><Key>{escape(n)}</Key><Size>{len(found[n])}</Size>"
            f"<LastModified>1970-01-01T00:00:00.000Z</LastModified></Contents>"
            if found[n] is not None
            else f"<CommonPrefixes><Prefix>{escape(n)}</Prefix></CommonPrefixes>"
            for n in names
        ]
        token = (
            f"<NextContinuationToken>{escape(names[-1])}</NextContinuationToken>" if more else ""
        )
        self._answer(
            200,
            (
                f"<ListBucketResult><Name>{bucket}</Name><KeyCount>{len(names)}</KeyCount>"
                f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(parts)}"
                "</ListBucketResult>"
            ).encode(),
        )

    # --- inside ---------------------------------------------------------------------------------

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return _unchunked(body) if "x-amz-decoded-content-length" in self.headers else body

    def _chunks(self):
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _error(self, status, code):
        text = f"<Error><Code>{code}</Code><Message>{code} of the double</Message></Error>"
        self._answer(status, text.encode())

    def _answer(self, status, content=b"", headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/xml" if content[:1] == b"<" else "binary")
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def _unchunked(body: bytes) -> bytes:
    """Undo aws-chunked: hexadecimal size, line end, bytes, line end, ... and a trailer."""
    out, rest = b"", body
    while rest:
        head, _, rest = rest.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if size == 0:
            return out
        out, rest = out + rest[:size], rest[size + 2 :]
    return out
