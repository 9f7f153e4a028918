"""A server of the S3 protocol on loopback, with faults: of objects in memory, or a proxy before another server."""

import hashlib
import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

BUCKET = "images"
URL = f"s3://{BUCKET}"
MODIFIED = "Wed, 21 Oct 2026 07:28:00 GMT"
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")


class Fault(StrEnum):
    """What goes wrong with the reading of an object. CHANGED: the body is cut, and the object is another one then."""

    ERROR = "error"
    THROTTLED = "throttled"
    SLOW = "slow"
    CUT = "cut"
    CHANGED = "changed"
    GONE = "gone"
    GROWN = "grown"
    DENIED = "denied"
    EXPIRED = "expired"


class ObjectServer:
    """Objects by key. faults: of a key, one for each reading, until they are used up; of all keys, `every`.

    requests: number of requests by method and key; the key of a listing is "". hidden: keys that are not listed yet.
    `upstream` is host and port of a server that has the objects instead.
    """

    def __init__(self, objects: Mapping[str, bytes] = {}, upstream: tuple[str, int] | None = None) -> None:
        self.objects = dict(objects)
        self.modified: dict[str, str] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.every: Fault | None = None
        self.hidden: set[str] = set()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.page_keys = 1000
        self.upstream = upstream
        self.in_work = self.most_in_work = 0
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"objects": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def take_fault(self, key: str) -> Fault | None:
        with self.lock:
            faults = self.faults.get(key)
            return faults.pop(0) if faults else self.every

    def gets(self, key: str) -> int:
        """Return how often an object was asked for."""
        return self.requests["GET", key]

    @contextmanager
    def running(self) -> Iterator["ObjectServer"]:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()


def use_server(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables by which stores are found, as a user of this server would."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


class _Handler(BaseHTTPRequestHandler):
    objects: ObjectServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server, url = self.objects, urlsplit(self.path)
        key = unquote(url.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        with server.lock:
            server.requests[self.command, key] += 1
            server.in_work += 1
            server.most_in_work = max(server.most_in_work, server.in_work)
        try:
            self._answer(key, parse_qs(url.query, keep_blank_values=True))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with server.lock:
                server.in_work -= 1

    def _answer(self, key: str, query: Mapping[str, list[str]]) -> None:
        fault = self.objects.take_fault(key)
        codes = {
            Fault.ERROR: (500, "InternalError"),
            Fault.THROTTLED: (503, "SlowDown"),
            Fault.GONE: (404, "NoSuchKey"),
            Fault.DENIED: (403, "AccessDenied"),
            Fault.EXPIRED: (400, "ExpiredToken"),
        }
        if fault in codes:
            status, code = codes[fault]
            self._send(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())
            return
        status, body, headers = (
            self._ask_upstream() if self.objects.upstream else self._list(query) if not key else self._read(key)
        )
        if fault == Fault.GROWN:
            body += bytes(1000)
        self._send(status, body, headers, fault)
        if fault == Fault.CHANGED:
            self.objects.objects[key] = self.objects.objects[key] + b" "

    def _read(self, key: str) -> tuple[int, bytes, dict[str, str]]:
        body = self.objects.objects.get(key)
        if body is None:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
        headers = {"ETag": _etag(body), "Last-Modified": self.objects.modified.get(key, MODIFIED)}
        span = self.headers.get("Range", "").removeprefix("bytes=")
        if not span:
            return 200, body, headers
        first, last = span.split("-")
        headers["Content-Range"] = f"bytes {span}/{len(body)}"
        return 206, body[int(first) : int(last) + 1], headers

    def _list(self, query: Mapping[str, list[str]]) -> tuple[int, bytes, dict[str, str]]:
        prefix, start = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = sorted(key for key in self.objects.objects if key.startswith(prefix) and key > start)
        keys = [key for key in keys if key not in self.objects.hidden]
        page = keys[: self.objects.page_keys]
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(keys) > len(page) else ""
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-10-21T07:28:00.000Z</LastModified>"
            f"<ETag>{escape(_etag(self.objects.objects[key]))}</ETag><Size>{len(self.objects.objects[key])}</Size>"
            "</Contents>"
            for key in page
        )
        document = (
            f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{entries}</ListBucketResult>"
        )
        return 200, document.encode(), {"Content-Type": "application/xml"}

    def _ask_upstream(self) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection(*self.objects.upstream or ("", 0), timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        connection.request(self.command, self.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
        if self.command == "HEAD" and (length := answer.getheader("Content-Length")):
            kept["Content-Length"] = length
        connection.close()
        return answer.status, body, kept

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] = {}, fault: Fault | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault in (Fault.CUT, Fault.CHANGED):
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == Fault.SLOW:
            for start in range(0, len(body), 200):
                self.wfile.write(body[start : start + 200])
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.wfile.write(body)


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def quoted(key: str) -> str:
    """Return a key as it stands in an http:// URL."""
    return quote(key)
