"""An S3 server on 127.0.0.1: moto behind a proxy that counts, delays and fails requests.

It stands with the benchmarks because tests may import benchmarks, and benchmarks no tests.

moto runs as a subprocess, so its state survives whatever a test does to other processes. The
proxy runs in threads of the test process and speaks HTTP/1.1 with keep-alive, as S3 does.

    with S3Server() as s3:
        s3.create_bucket("photos")
        os.environ.update(s3.env)
        s3.fail(503, n_requests=3, match="GET /photos/")
        ...
        assert s3.counts()["GET /photos/a.jpg"] == 1
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "date", "server"}

#: moto's server, and objects to put on its standard input. It ends with that input, so none is
#: left behind by a test process that was killed.
_MOTO = """
import base64, json, os, sys
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
for line in sys.stdin:
    bucket, contents = json.loads(line)
    for key, data in contents.items():
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, key, base64.b64decode(data))
    print("done", flush=True)
os._exit(0)
"""

#: What S3 itself puts into the XML body of these statuses.
_CODES = {
    403: "AccessDenied",
    404: "NoSuchKey",
    429: "TooManyRequests",
    500: "InternalError",
    503: "SlowDown",
}


class Request(NamedTuple):
    """One request that reached the proxy, and the status it was answered with."""

    method: str
    path: str
    query: str
    status: int


@dataclass
class _Fault:
    status: int | str
    code: str
    match: re.Pattern[str]
    left: int | None
    until: float | None

    def takes(self, line: str) -> bool:
        """Returns whether this fault answers the request, and counts it down if so."""
        if self.until is not None and time.monotonic() >= self.until:
            return False
        if self.left is not None and self.left <= 0:
            return False
        if not self.match.search(line):
            return False
        if self.left is not None:
            self.left -= 1
        return True


@dataclass
class S3Server:
    """A moto S3 server with a counting, fault-injecting proxy in front of it.

    Attributes:
        delay_s: Added before each answer, in seconds; may be changed at any time.
        env: The environment variables that make boto3, s3fs, obstore, delta-rs and Polars use it.
    """

    delay_s: float = 0.0
    env: dict[str, str] = field(default_factory=dict)
    _requests: list[Request] = field(default_factory=list)
    _faults: list[_Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> S3Server:
        self._moto = subprocess.Popen(
            [sys.executable, "-c", _MOTO],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            self.backend_port = self._moto_port()
            self._proxy = _Proxy(("127.0.0.1", 0), _Handler)
            self._proxy.s3 = self
            threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        except BaseException:
            self._stop_moto()
            raise
        self.endpoint = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        self.env = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        return self

    def __exit__(self, *exc: object) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._stop_moto()

    def _moto_port(self) -> int:
        """Returns the port that moto chose: one chosen here could be another's once it is up."""
        assert self._moto.stdout is not None
        said = self._moto.stdout.readline().decode().split()
        if len(said) != 2:
            raise RuntimeError(f"moto did not start: {self._moto.wait(10)}")
        return int(said[1])

    def _stop_moto(self) -> None:
        for pipe in (self._moto.stdin, self._moto.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._moto.wait(10)
        except subprocess.TimeoutExpired:
            self._moto.kill()
            self._moto.wait()

    @contextlib.contextmanager
    def environ(self) -> Iterator[None]:
        """Puts ``env`` into ``os.environ`` and restores what was there."""
        before = {name: os.environ.get(name) for name in self.env}
        os.environ.update(self.env)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def client(self) -> Any:
        """Returns a boto3 S3 client that talks to moto directly: not counted, delayed or failed."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.backend_port}",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            region_name="us-east-1",
        )

    def create_bucket(self, bucket: str, objects: dict[str, bytes] | None = None) -> None:
        """Creates a bucket and fills it, bypassing the proxy."""
        self.client().create_bucket(Bucket=bucket)
        self.put_objects(bucket, objects or {})

    def put_objects(self, bucket: str, objects: dict[str, bytes]) -> None:
        """Puts objects straight into moto's memory, since 5 ms per request is slow for many."""
        assert self._moto.stdin is not None and self._moto.stdout is not None
        contents = {key: base64.b64encode(data).decode() for key, data in objects.items()}
        self._moto.stdin.write(json.dumps([bucket, contents]).encode() + b"\n")
        self._moto.stdin.flush()
        if self._moto.stdout.readline() != b"done\n":
            raise RuntimeError(f"moto could not put {len(objects)} objects into {bucket}")

    def requests(self) -> list[Request]:
        """Returns all requests since the last ``reset``, in the order of their answers."""
        with self._lock:
            return list(self._requests)

    def counts(self) -> Counter[str]:
        """Requests by ``"METHOD /path"`` (without the query), failed ones included."""
        return Counter(f"{r.method} {r.path}" for r in self.requests())

    def reset(self) -> None:
        """Forgets counts, faults and delay; buckets stay."""
        with self._lock:
            self._requests.clear()
            self._faults.clear()
        self.delay_s = 0.0

    def fail(
        self,
        status: int | str,
        n_requests: int | None = None,
        seconds: float | None = None,
        match: str = "",
        code: str | None = None,
    ) -> None:
        """Fails the next requests instead of forwarding them.

        Args:
            status: An HTTP status; or ``"reset"`` (the connection closes without an answer); or
                ``"truncate"`` (the connection closes after half of the real answer's body).
            n_requests: How many requests fail; None for no limit.
            seconds: For how long requests fail; None for no limit.
            match: Regular expression searched in ``"METHOD /path?query"``.
            code: Error code in the XML body; default what S3 sends with that status.
        """
        if code is None:
            code = _CODES.get(status, "InternalError") if isinstance(status, int) else ""
        until = None if seconds is None else time.monotonic() + seconds
        with self._lock:
            self._faults.append(_Fault(status, code, re.compile(match), n_requests, until))

    def fault_for(self, line: str) -> _Fault | None:
        """Returns the fault that answers ``"METHOD /path?query"``, if one does."""
        with self._lock:
            return next((fault for fault in self._faults if fault.takes(line)), None)

    def record(self, request: Request) -> None:
        """Counts an answered request."""
        with self._lock:
            self._requests.append(request)


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    s3: S3Server

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a client that was killed in the middle of a request."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024
    server: _Proxy  # type: ignore[assignment]

    def setup(self) -> None:
        super().setup()
        self._backend: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        if self._backend is not None:
            self._backend.close()
        with contextlib.suppress(OSError):
            super().finish()

    def _serve(self) -> None:
        s3 = self.server.s3
        path, _, query = self.path.partition("?")
        body = self._body()
        if s3.delay_s:
            time.sleep(s3.delay_s)
        fault = s3.fault_for(f"{self.command} {self.path}")
        if fault is not None and fault.status == "reset":
            s3.record(Request(self.command, path, query, 0))
            self._hang_up()
            return
        if fault is not None and isinstance(fault.status, int):
            s3.record(Request(self.command, path, query, fault.status))
            text = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
            self._answer(fault.status, [("Content-Type", "application/xml")], text)
            return
        status, headers, data = self._forward(body)
        s3.record(Request(self.command, path, query, status))
        if fault is not None:
            self._answer(status, headers, data, cut=len(data) // 2)
            self._hang_up()
            return
        self._answer(status, headers, data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in _HOP_BY_HOP | {"content-length", "expect"}
        }
        if self.command in {"PUT", "POST"}:
            headers["Content-Length"] = str(len(body))
        for attempt in range(2):
            if self._backend is None:
                self._backend = http.client.HTTPConnection(
                    "127.0.0.1", self.server.s3.backend_port, timeout=60
                )
            try:
                self._backend.request(self.command, self.path, body or None, headers)
                answer = self._backend.getresponse()
                data = answer.read()
            except (http.client.HTTPException, OSError):
                # moto closed an idle connection; once more on a new one.
                self._backend.close()
                self._backend = None
                if attempt:
                    raise
                continue
            kept = [(n, v) for n, v in answer.getheaders() if n.lower() not in _HOP_BY_HOP]
            return answer.status, kept, data
        raise AssertionError("unreachable")

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, cut: int | None = None
    ) -> None:
        self.send_response(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length":
                # A HEAD's answer tells the length of a body that is not sent.
                length = value
            else:
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut])
        self.wfile.flush()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: requests are read through ``S3Server.requests``."""
