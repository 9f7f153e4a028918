"""A server of the S3 protocol on loopback, with faults: of objects in memory, or a proxy before another server."""

import hashlib
import http.client
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate, parsedate_to_datetime
from enum import StrEnum
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

import pytest

BUCKET = "images"
URL = f"s3://{BUCKET}"
MODIFIED = "Wed, 21 Oct 2026 07:28:00 GMT"
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")


class Fault(StrEnum):
    """What goes wrong with the reading or writing of an object.

    CHANGED: the body is cut, and the object is another one then. CUT: of a write, only the answer is lost.
    """

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

    put_faults, every_put: the same for writing. requests: number of requests by method and key; the key of a listing is
    "", that of a removal of several "?delete". hidden: keys that are not listed yet. `upstream` is host and port of a
    server that has the objects instead. on_change: called after each object that was written or removed. has_ranges:
    whether a part of an object can be asked for. sent_bytes: size of all bodies that were sent. signature: if there is
    one, only a GET with it is answered, as if it were signed for that.
    """

    def __init__(self, objects: Mapping[str, bytes] = {}, upstream: tuple[str, int] | None = None) -> None:
        self.objects = dict(objects)
        self.modified: dict[str, str] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.every: Fault | None = None
        self.put_faults: dict[str, list[Fault]] = {}
        self.every_put: Fault | None = None
        self.has_conditions = True
        self.on_change: Callable[[], None] = lambda: None
        self.hidden: set[str] = set()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.page_keys = 1000
        self.has_ranges = True
        self.sent_bytes = 0
        self.signature = ""
        self.upstream = upstream
        self.in_work = self.most_in_work = 0
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"objects": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def take_fault(self, key: str, is_put: bool = False) -> Fault | None:
        with self.lock:
            faults = (self.put_faults if is_put else self.faults).get(key)
            return faults.pop(0) if faults else self.every_put if is_put else self.every

    def write(self, key: str, content: bytes | None) -> None:
        """Write an object now, or remove it."""
        with self.lock:
            if content is None:
                self.objects.pop(key, None)
            else:
                self.objects[key] = content
                self.modified[key] = formatdate(usegmt=True)
            self.on_change()

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


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what is not the end of a client that was killed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    objects: ObjectServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server, url = self.objects, urlsplit(self.path)
        key = unquote(url.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        if url.query == "delete":
            key = "?delete"
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
        is_put = self.command not in ("GET", "HEAD")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.objects.take_fault(key, is_put)
        signature = self.objects.signature
        if signature and (self.command, query.get("X-Amz-Signature")) != ("GET", [signature]):
            fault = Fault.DENIED
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
        if is_put and fault == Fault.SLOW:
            time.sleep(0.3)
        if self.objects.upstream:
            status, body, headers = self._ask_upstream()
        elif is_put:
            status, body, headers = self._change(key)
        else:
            status, body, headers = self._read(key) if key else self._list(query)
        if is_put and fault == Fault.CUT:
            self.close_connection = True
            return
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
        if not (span and self.objects.has_ranges):
            return 200, body, headers
        first, last = span.split("-")
        if int(first) >= len(body):
            return 416, b"", {}
        headers["Content-Range"] = f"bytes {span}/{len(body)}"
        return 206, body[int(first) : int(last) + 1], headers

    def _change(self, key: str) -> tuple[int, bytes, dict[str, str]]:
        """Write or remove an object, or remove several."""
        if self.command == "POST":
            keys = [unescape(text) for text in re.findall("<Key>(.*?)</Key>", self.body.decode())]
            for each in keys:
                self.objects.write(each, None)
            deleted = "".join(f"<Deleted><Key>{escape(each)}</Key></Deleted>" for each in keys)
            return 200, f"<DeleteResult>{deleted}</DeleteResult>".encode(), {}
        present = self.objects.objects.get(key)
        expected, is_new = self.headers.get("If-Match"), self.headers.get("If-None-Match")
        if (expected or is_new) and not self.objects.has_conditions:
            return 501, b"<Error><Code>NotImplemented</Code></Error>", {}
        if expected and present is None:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
        if (is_new and present is not None) or (expected and present is not None and expected != _etag(present)):
            return 412, b"<Error><Code>PreconditionFailed</Code></Error>", {}
        self.objects.write(key, self.body if self.command == "PUT" else None)
        return (200, b"", {"ETag": _etag(self.body)}) if self.command == "PUT" else (204, b"", {})

    def _list(self, query: Mapping[str, list[str]]) -> tuple[int, bytes, dict[str, str]]:
        prefix, start = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = sorted(key for key in self.objects.objects if key.startswith(prefix) and key > start)
        keys = [key for key in keys if key not in self.objects.hidden]
        folders: list[str] = []
        if query.get("delimiter"):
            inside = {key: key[len(prefix) :].partition("/") for key in keys}
            folders = sorted({prefix + folder + slash for folder, slash, _ in inside.values() if slash})
            keys = [key for key, (_, slash, _) in inside.items() if not slash]
        page = keys[: self.objects.page_keys]
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(keys) > len(page) else ""
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{self._listed_time(key)}</LastModified>"
            f"<ETag>{escape(_etag(self.objects.objects[key]))}</ETag><Size>{len(self.objects.objects[key])}</Size>"
            "</Contents>"
            for key in page
        )
        entries += "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
        document = (
            f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{entries}</ListBucketResult>"
        )
        return 200, document.encode(), {"Content-Type": "application/xml"}

    def _listed_time(self, key: str) -> str:
        return parsedate_to_datetime(self.objects.modified.get(key, MODIFIED)).strftime("%Y-%m-%dT%H:%M:%S.000Z")

    def _ask_upstream(self) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection(*self.objects.upstream or ("", 0), timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        connection.request(self.command, self.path, self.body or None, headers)
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
        if self.command == "HEAD" or status == 204:
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
            self.objects.sent_bytes += len(body)
            self.wfile.write(body)


@cache
def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def quoted(key: str) -> str:
    """Return a key as it stands in an http:// URL."""
    return quote(key)
