"""The HTTP head of a stream's request, and our answer to it.

Source: RFC 9112; upgrades: RFC 9110, section 7.8; those to WebSocket: RFC 6455, section 4.2.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import h11

from crib.tunnel.link import Link
from crib.tunnel.websocket import VERSION, WebSocket, accept_token
from crib.wire import channel_messages

HEAD_BYTES = 16 << 10
"""Of a request's line and headers together."""

_KEY_BYTES = 16
"""Of a WebSocket's key."""

NO_BODY = "a request for a stream has no body"

Headers = Sequence[tuple[str, str]]


class BadRequest(Exception):
    """What came is no request that can be served; `status` and `headers` are the HTTP answer's."""

    def __init__(self, status: int, problem: str, headers: Headers = ()) -> None:
        super().__init__(problem)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class RequestHead:
    """`path` without the query; header names are in lower case, in their order."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]

    def values(self, name: str) -> tuple[str, ...]:
        """Every value of a header, also those in one line with commas between."""
        lines = (value for key, value in self.headers if key == name)
        return tuple(part.strip() for line in lines for part in line.split(",") if part.strip())

    def asks_for(self, protocol: str) -> bool:
        """Whether the client wants to go on in another protocol."""
        upgrades = {value.lower() for value in self.values("connection")}
        return "upgrade" in upgrades and protocol.lower() in {v.lower() for v in self.values("upgrade")}

    @property
    def foreign_origin(self) -> str:
        """Whose page sent this if that is not whom it was sent to (RFC 6454, section 7); else empty.

        Browsers open a WebSocket to anywhere and say for whom. A kubelet and an API server pass on what their
        clients say, with Host as it was, and always say that they did: then whom they let in is their matter.
        A page cannot, as it chooses no header of a WebSocket.
        """
        if self.values("x-forwarded-for"):
            return ""
        hosts = {host.lower() for host in self.values("host")}
        origins = (value for key, value in self.headers if key == "origin")
        return next((one for one in origins if one.lower().partition("://")[2] not in hosts), "")


def websocket_key(head: RequestHead) -> str:
    """The client's key. BadRequest for what is no handshake of RFC 6455, section 4.2.1."""
    if head.method != "GET":
        raise BadRequest(405, "a WebSocket begins with GET", (("Allow", "GET"),))
    if head.values("sec-websocket-version") != (VERSION,):
        known = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION))
        raise BadRequest(426, f"WebSocket version {VERSION} is spoken here", known)
    keys = head.values("sec-websocket-key")
    try:
        good = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == _KEY_BYTES
    except ValueError:
        good = False
    if not good:
        raise BadRequest(400, "Sec-WebSocket-Key is not 16 bytes in base64")
    return keys[0]


def choose_protocol(
    head: RequestHead, known: Sequence[channel_messages.ChannelProtocol]
) -> channel_messages.ChannelProtocol:
    """The first one that the client offers and we know. BadRequest when there is none."""
    offered = head.values("sec-websocket-protocol")
    chosen = channel_messages.choose(offered, known)
    if chosen is None:
        names = ", ".join(filter(None, (each.name for each in known)))
        raise BadRequest(403, f"none of {', '.join(offered)[:500]} is spoken here, but {names}")
    return chosen


class HeadReader:
    """Reads one request from a connection and writes one answer."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)

    async def read(self) -> RequestHead | None:
        """The request; None when the client left before it had sent one. BadRequest."""
        head: RequestHead | None = None
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise BadRequest(error.error_status_hint, str(error)) from error
            if isinstance(event, h11.EndOfMessage):
                return head
            if head is not None:
                raise BadRequest(400, NO_BODY)
            if isinstance(event, h11.Request):
                head = _head(event)
            else:
                data = await self._link.receive()
                if not data:
                    return None
                self._http.receive_data(data)

    def switch(self, protocol: str, headers: Headers = ()) -> None:
        """Answer 101; what the client sent behind its head is the new protocol's. ConnectionError."""
        answer = h11.InformationalResponse(
            status_code=101,
            headers=[("Upgrade", protocol), ("Connection", "Upgrade"), *headers],
            reason="Switching Protocols",
        )
        self._link.put([self._http.send(answer) or b""])
        self._link.push_back(bytes(self._http.trailing_data[0]))

    def accept_websocket(self, key: str, subprotocol: str) -> WebSocket:
        """Answer a handshake. ConnectionError."""
        headers = [("Sec-WebSocket-Accept", accept_token(key))]
        if subprotocol:
            headers.append(("Sec-WebSocket-Protocol", subprotocol))
        self.switch("websocket", headers)
        return WebSocket(self._link, "server")

    def refuse(self, problem: BadRequest) -> None:
        """Answer with a short text; the connection is of no more use. ConnectionError."""
        body = f"{problem}\n".encode()
        lines = [
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in problem.headers),
        ]
        self._link.put([("\r\n".join(lines) + "\r\n\r\n").encode("ascii"), body])


def _head(event: h11.Request) -> RequestHead:
    if event.http_version != b"1.1":
        raise BadRequest(505, "protocols are switched in HTTP/1.1 only")
    path, _, query = event.target.decode("ascii", "replace").partition("?")
    headers = tuple((key.decode("latin-1"), value.decode("latin-1")) for key, value in event.headers)
    if any(key == "transfer-encoding" for key, _ in headers):
        raise BadRequest(400, NO_BODY)
    return RequestHead(event.method.decode("ascii", "replace"), path, query, headers)
