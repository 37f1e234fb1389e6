"""A registry's front that misbehaves when told to, and remembers all that it was asked.

    with running_registry(root) as registry, running_proxy(from_url(registry)) as proxy:
        proxy.add("layer", cut(1000), times=1)     # the first layer breaks off after 1000 bytes
        ...
    assert [seen.range for seen in proxy.of("layer")] == ["", "bytes=1000-"]

What is behind it is in tests/upstreams.py: a real registry (`from_url`) or images in memory (`from_images`).
A fault is a function that changes an exchange, see tests/faults.py; the first rule that fits a request gives
the one fault of it.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

MAX_WAIT = 30.0
"""Seconds that an answer is held back at most."""
_PIECE = 1 << 18
_AT_ONCE = struct.pack("ii", 1, 0)
"""struct linger (socket(7)): closing sends a RST."""


@dataclass
class Seen:
    """One request, and what became of it."""

    method: str
    path: str
    kind: str
    """manifest, config, layer, ping or other."""
    headers: dict[str, str]
    """Names in lower case."""
    at: float
    """time.monotonic()."""
    connection: int
    """Number of the connection it came on."""
    status: int = 0
    sent: int = 0
    """Bytes of the body that were written."""
    body: bytes = b""

    @property
    def range(self) -> str:
        return self.headers.get("range", "")

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


@dataclass
class Answer:
    """What is sent, and how."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    """Content-Length to claim; None for the true one, -1 for none at all."""
    stop: int | None = None
    """Bytes of the body after which `then` happens."""
    then: str = "close"
    """close, reset or stall (until the proxy ends)."""
    drip: tuple[int, float] | None = None
    """Bytes, and seconds after them: slowly all the time."""
    head: bool = True
    """Whether the response's head is sent at all."""


Upstream = Callable[[Seen], Answer]
Fault = Callable[["Exchange"], None]


class Exchange:
    """One request on its way through: the answer is only asked for when somebody wants it."""

    def __init__(self, seen: Seen, upstream: Upstream) -> None:
        self.seen = seen
        self._upstream = upstream
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        if self._answer is None:
            self._answer = self._upstream(self.seen)
        return self._answer

    @answer.setter
    def answer(self, answer: Answer) -> None:
        self._answer = answer


@dataclass
class Rule:
    """The fault of some requests."""

    what: str
    """A kind, `any`, or a part of the path."""
    fault: Fault
    times: int | None = None
    """How often; None: always."""
    after: int = 0
    """Requests that pass first."""
    method: str = ""
    used: int = 0

    def fits(self, seen: Seen) -> bool:
        if self.method and seen.method != self.method:
            return False
        return self.what in ("any", seen.kind) or (
            ("/" in self.what or ":" in self.what) and (self.what in seen.path)
        )


@dataclass
class FaultProxy:
    """A running proxy."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    configs: set[str] = field(default_factory=set)
    """Digests of configs, as the manifests that went through say."""
    ended: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)
    connections: int = 0

    @property
    def host(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc

    def add(
        self, what: str, fault: Fault, *, times: int | None = None, after: int = 0, method: str = ""
    ) -> None:
        """From now on these requests have this fault."""
        with self.changed:
            self.rules.append(Rule(what, fault, times, after, method))

    def clear(self) -> None:
        """All is well again, and forgotten."""
        with self.changed:
            self.rules.clear()
            self.seen.clear()

    def of(self, kind: str, path: str = "") -> list[Seen]:
        """Requests of this kind with `path` in their path, in their order."""
        with self.changed:
            return [one for one in self.seen if one.kind == kind and path in one.path]

    def sent(self, path: str) -> int:
        """Bytes of bodies sent for requests with this in their path."""
        with self.changed:
            return sum(one.sent for one in self.seen if path in one.path)

    def wait_for(self, question: Callable[[FaultProxy], bool], seconds: float = 60.0) -> None:
        """Until `question` is true of the proxy; AssertionError. Blocks: not for the loop."""
        with self.changed:
            assert self.changed.wait_for(lambda: question(self), seconds), f"not within {seconds} s"

    def fault_for(self, seen: Seen) -> Fault | None:
        with self.changed:
            self.seen.append(seen)
            self.changed.notify_all()
            for rule in self.rules:
                if not rule.fits(seen):
                    continue
                rule.used += 1
                if rule.used <= rule.after or (
                    rule.times is not None and rule.used > rule.after + rule.times
                ):
                    continue
                return rule.fault
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy
    upstream: Upstream
    wbufsize = 1 << 16
    number = 0
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        with self.proxy.changed:
            self.proxy.connections += 1
            self.number = self.proxy.connections

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815  # the names that http.server asks for

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(min(int(headers.get("content-length") or 0), 64 << 20))
        kind = self._kind()
        at = time.monotonic()
        seen = Seen(self.command, self.path, kind, headers, at, self.number, body=body)
        fault = self.proxy.fault_for(seen)
        original = dict(headers)
        exchange = Exchange(seen, type(self).upstream)
        if fault is not None:
            fault(exchange)
        answer = exchange.answer
        seen.headers = original
        seen.status = answer.status
        if kind == "manifest":
            self._learn(answer.body)
        self._send(seen, answer)

    def _kind(self) -> str:
        path = urlsplit(self.path).path
        name = path.rpartition("/")[2]
        if path in ("/v2/", "/v2"):
            return "ping"
        if "/manifests/" in path:
            return "manifest"
        if "/blobs/" in path:
            return "config" if name in self.proxy.configs else "layer"
        return "other"

    def _learn(self, body: bytes) -> None:
        with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError, AttributeError):
            found: Any = json.loads(body)
            self.proxy.configs.add(found["config"]["digest"])

    def _send(self, seen: Seen, answer: Answer) -> None:
        start = int(answer.headers.pop("X-Start", "0"))
        body = b"" if seen.method == "HEAD" else answer.body
        if answer.head:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.length is None:
                self.send_header("Content-Length", str(len(answer.body)))
            elif answer.length >= 0:
                self.send_header("Content-Length", str(answer.length))
            else:
                self.close_connection = True
            self.end_headers()
        if answer.drip is not None:
            self._write(seen, body[:start])
            self._drip(seen, body[start:], *answer.drip)
            return
        self._write(seen, body if answer.stop is None else body[: answer.stop])
        if answer.stop is not None:
            self.close_connection = True
            if answer.then == "stall":
                self.proxy.ended.wait(MAX_WAIT)
            elif answer.then == "reset":
                _reset(self.connection)

    def _write(self, seen: Seen, data: bytes) -> None:
        for place in range(0, len(data), _PIECE):
            piece = data[place : place + _PIECE]
            # Counted before: who has received all of it may look at the figure at once.
            seen.sent += len(piece)
            try:
                self.wfile.write(piece)
                self.wfile.flush()
            except OSError:
                seen.sent -= len(piece)
                raise
        self.wfile.flush()
        with self.proxy.changed:
            self.proxy.changed.notify_all()

    def _drip(self, seen: Seen, data: bytes, count: int, seconds: float) -> None:
        for place in range(0, len(data), count):
            self._write(seen, data[place : place + count])
            if self.proxy.ended.wait(seconds):
                self.close_connection = True
                return

    def log_message(self, format: str, *args: object) -> None:
        pass


def _reset(connection: socket.socket) -> None:
    """The peer gets a RST: nothing may be waiting to be sent, and closing does not linger."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def shutdown_request(self, request: Any) -> None:
        """Closed without a FIN first: a reset must stay one."""
        with contextlib.suppress(OSError):
            if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == _AT_ONCE:
                request.close()
                return
        with contextlib.suppress(OSError):
            super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no matter."""


@contextlib.contextmanager
def running_proxy(
    upstream: Upstream, *, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1", port: int = 0
) -> Iterator[FaultProxy]:
    """A proxy on a free port of the loopback interface, with TLS when a context is given."""
    proxy = FaultProxy()
    handler = type("Handler", (_Handler,), {"proxy": proxy, "upstream": staticmethod(upstream)})
    server = _Server((address, port), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    proxy.url = f"{'http' if tls is None else 'https'}://{address}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
