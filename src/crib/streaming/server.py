"""Takes connections, redeems the token in the URL, and hands the client over to its protocol.

    GET|POST /exec/TOKEN, /attach/TOKEN, /portforward/TOKEN     with Upgrade: SPDY/3.1 or websocket

A token is used up by its first request, whatever becomes of it.

The protocols are imported with the first client, or by `warm`: a daemon that starts has no time for them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from crib.engine.streams.verbs import Streams
from crib.model.errors import Broken
from crib.model.settings import StreamingSettings
from crib.model.streams import AttachRequest, ExecRequest, ForwardRequest, StreamRequest
from crib.model.tallies import Tally
from crib.streaming.certificates import Certificates, InThread
from crib.streaming.link import ClientLink
from crib.tasks.keeper import TaskKeeper

if TYPE_CHECKING:
    from crib.streaming.head import HeadReader, RequestHead

    Run = Callable[[ClientLink, HeadReader], Coroutine[Any, Any, None]]

_log = logging.getLogger(__name__)

BACKLOG = 128
STRANGERS = 256
"""Connections that have not sent a token of ours (yet); for one more the oldest of them is closed."""
CLOSING_TIME = 2.0
"""Seconds that a client gets to read a refusal."""
STOPPING_TIME = 5.0
_KINDS: dict[type[StreamRequest], str] = {
    ExecRequest: "exec",
    AttachRequest: "attach",
    ForwardRequest: "portforward",
}


class StreamServer:
    """Serves the streams that the engine has given tokens for."""

    def __init__(self, streams: Streams, settings: StreamingSettings, in_thread: InThread) -> None:
        """Broken when the certificate that the settings ask for cannot be used."""
        self._streams = streams
        self._settings = settings
        self._certificates = Certificates(settings, in_thread) if settings.tls != "off" else None
        self._server: asyncio.Server | None = None
        self._port = settings.port
        self._keeper = TaskKeeper()
        self._clients: set[asyncio.Task[None]] = set()
        self._strangers: dict[ClientLink, asyncio.Task[None]] = {}
        """Who may be nobody we know, the oldest first: they take no place from those that we do."""
        self._served: set[ClientLink] = set()
        self._stopping = False
        self.begun = Tally()
        """By kind: exec, attach, portforward."""

    def adapt(self, settings: StreamingSettings) -> None:
        """Serve new clients by these; address, port and TLS stay."""
        self._settings = settings

    @property
    def connections(self) -> int:
        """Of clients whose token was good."""
        return len(self._served)

    @staticmethod
    def warm() -> None:
        """Import what the first client needs (60 ms)."""
        from crib.streaming import portforward, remotecommand  # noqa: F401

    async def start(self) -> None:
        """Listen. Broken when the address is taken or not ours."""
        settings = self._settings
        waits_for_tls = self._certificates is not None
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: ClientLink(self._connected, paused=waits_for_tls),
                settings.address,
                settings.port,
                backlog=BACKLOG,
            )
        except OSError as error:
            raise Broken(
                f"streaming: cannot listen on {settings.address}:{settings.port}: {error}"
            ) from error
        self._port = self._server.sockets[0].getsockname()[1]
        _log.info("streams at %s", self._base())

    def url_for(self, kind: str, token: str) -> str:
        """Where a client redeems its token; `kind` is exec, attach or portforward."""
        return f"{self._base()}/{kind}/{token}"

    async def stop(self) -> None:
        """Take no more connections, and end those that there are: their clients are told."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for client in self._clients:
            client.cancel()
        if self._clients:
            await asyncio.wait(self._clients, timeout=STOPPING_TIME)

    def _base(self) -> str:
        address = self._settings.address
        host = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
        return f"{'http' if self._certificates is None else 'https'}://{host}:{self._port}"

    def _connected(self, link: ClientLink) -> None:
        if self._stopping:
            link.abort()
            return
        if len(self._strangers) >= STRANGERS:
            oldest = next(iter(self._strangers))
            self._strangers.pop(oldest).cancel()
            oldest.abort()  # a task that has not begun yet does not do it
        client = self._strangers[link] = self._keeper.start("a stream", self._client(link))
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _client(self, link: ClientLink) -> None:
        try:
            if (served := await self._answer(link)) is not None:
                run, http = served
                del self._strangers[link]
                self._served.add(link)
                link.end_after_silence(self._settings.idle_timeout)
                await run(link, http)
            async with asyncio.timeout(CLOSING_TIME):
                await link.close()
        except OSError:
            pass  # the client has gone, was no TLS client, or takes too long
        except Exception:
            _log.exception("a stream failed unexpectedly")
        finally:
            self._strangers.pop(link, None)
            self._served.discard(link)
            link.abort()

    async def _answer(self, link: ClientLink) -> tuple[Run, HeadReader] | None:
        """What is to be done with the rest of the connection; None when the client is refused or has left."""
        from crib.streaming.head import BadRequest, HeadReader

        http = HeadReader(link)
        limit = self._settings.creation_timeout
        try:
            async with asyncio.timeout(limit):
                if self._certificates is not None:
                    await link.secure(await self._certificates.context())
                head = await http.read()
            return None if head is None else (self._choose(head), http)
        except TimeoutError:
            http.refuse(BadRequest(408, f"no request within {limit:g} s"))
        except BadRequest as error:
            http.refuse(error)
        return None

    def _choose(self, head: RequestHead) -> Run:
        """The protocol that the rest of the connection speaks. BadRequest."""
        from crib.streaming import portforward, remotecommand
        from crib.streaming.head import BadRequest

        if len(self._served) >= self._settings.max_connections:
            raise BadRequest(503, f"{self._settings.max_connections} connections are open: try again later")
        if head.method not in {"GET", "POST"}:
            raise BadRequest(405, "only GET and POST are served", (("Allow", "GET, POST"),))
        if head.foreign_origin:
            raise BadRequest(403, f"pages of {head.foreign_origin[:200]} may not use this server")
        _, *path = head.path.split("/")
        if len(path) != 2 or path[0] not in _KINDS.values():
            raise BadRequest(404, "there is no such path")
        kind, token = path
        request = self._streams.redeem(token)
        if request is None or _KINDS[type(request)] != kind:
            raise BadRequest(404, "this URL has been used, or has expired, or never was")
        self.begun.add((kind,))
        if isinstance(request, ForwardRequest):
            return portforward.choose(head, request, self._streams, self._settings)
        return remotecommand.choose(head, request, self._streams, self._settings)
