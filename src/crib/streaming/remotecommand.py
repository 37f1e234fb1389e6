"""Exec and attach over SPDY streams or WebSocket channels (what they carry: `crib.wire.remotecommand`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from crib.ends import TerminalStreams
from crib.engine.streams.verbs import Streams
from crib.model.errors import CribError
from crib.model.settings import StreamingSettings
from crib.model.streams import AttachRequest, ExecRequest
from crib.streaming.head import BadRequest, HeadReader, RequestHead, choose_protocol, websocket_key
from crib.streaming.link import ClientLink
from crib.streaming.terminals import ClientTerminal, SpdyTerminal, WebSocketTerminal, collect
from crib.tasks.groups import Group
from crib.tunnel.spdy import ServerSession
from crib.wire import channel_messages
from crib.wire import remotecommand as wire

_log = logging.getLogger(__name__)

GOODBYE_TIME = 1.0
"""Seconds for telling a client that we stop."""

Run = Callable[[ClientLink, HeadReader], Coroutine[Any, Any, None]]


def choose(
    head: RequestHead, request: ExecRequest | AttachRequest, streams: Streams, settings: StreamingSettings
) -> Run:
    """Which protocol the rest of the connection speaks. BadRequest when none fits."""
    serving = _Serving(request, streams, settings)
    if head.asks_for(wire.SPDY_UPGRADE):
        # The oldest clients name no version.
        offered = head.values(wire.PROTOCOL_HEADER.lower()) or (wire.SPDY_PROTOCOLS[-1].name,)
        protocol = wire.choose_spdy(offered)
        if protocol is None:
            known = ", ".join(each.name for each in wire.SPDY_PROTOCOLS)
            problem = f"none of {', '.join(offered)[:500]} is spoken here, but {known}"
            raise BadRequest(403, problem, ((wire.ACCEPTED_HEADER, known),))
        return lambda link, http: serving.over_spdy(link, http, protocol)
    if head.asks_for("websocket"):
        key = websocket_key(head)
        channels = choose_protocol(head, wire.WEBSOCKET_PROTOCOLS)
        return lambda link, http: serving.over_websocket(link, http, key, channels)
    raise BadRequest(400, "Upgrade: SPDY/3.1 or websocket is needed here")


@dataclass(frozen=True, slots=True)
class _Serving:
    """One request, whatever it comes over."""

    request: ExecRequest | AttachRequest
    streams: Streams
    settings: StreamingSettings

    async def over_spdy(self, link: ClientLink, http: HeadReader, protocol: wire.SpdyProtocol) -> None:
        http.switch(wire.SPDY_UPGRADE, [(wire.PROTOCOL_HEADER, protocol.name)])
        session = ServerSession(link, link.room(), self.settings.max_streams)
        terminal = self._spdy_terminal(session, has_resize=protocol.has_resize)
        await self._serve(session.run(), terminal, has_status=protocol.has_status)

    async def over_websocket(
        self, link: ClientLink, http: HeadReader, key: str, protocol: channel_messages.ChannelProtocol
    ) -> None:
        socket = http.accept_websocket(key, protocol.name)
        terminal = WebSocketTerminal(socket, link, protocol, self._wanted)
        await self._serve(terminal.channels.run(), terminal.ready(), has_status=protocol.has_status)

    async def _serve(
        self,
        reading: Coroutine[Any, Any, None],
        client: Coroutine[Any, Any, ClientTerminal],
        *,
        has_status: bool,
    ) -> None:
        """`reading` takes what comes over the connection meanwhile; `client` is there when it has begun."""
        async with Group() as group:
            reader = group.start("reading", reading)
            try:
                terminal = await client
                await self._run(terminal, lambda outcome: wire.encode_outcome(outcome, has_status=has_status))
            except ConnectionError as error:
                _log.info("%s: %s", self._name, error)
            finally:
                reader.cancel()

    async def _run(self, client: ClientTerminal, encode: Callable[[wire.Outcome], bytes]) -> None:
        began = time.monotonic()
        try:
            outcome = await self._outcome(client)
        except asyncio.CancelledError:
            # Clients treat a connection that ends without a status as success.
            with contextlib.suppress(OSError):
                async with asyncio.timeout(GOODBYE_TIME):
                    await client.finish(encode(wire.Failed(f"crib is stopping: {self._fate}")))
            raise
        _log.info("%s: %s after %.1f s", self._name, _told(outcome), time.monotonic() - began)
        if outcome is not None:
            await client.finish(encode(outcome))

    async def _spdy_terminal(self, session: ServerSession, *, has_resize: bool) -> SpdyTerminal:
        """Once the client has opened its streams. ConnectionError when it does not."""
        kinds = self._wanted.streams(resize=has_resize)
        return SpdyTerminal(session, await collect(session, kinds, self.settings.creation_timeout))

    async def _outcome(self, client: TerminalStreams) -> wire.Outcome | None:
        """What the client gets at the end; None when there is no client any more."""
        try:
            if isinstance(self.request, AttachRequest):
                code = await self.streams.attach(self.request, client)
                # A client that was only attached hears of the end; the code is the container's status.
                return None if code is None else wire.Exited(0)
            code = await self.streams.exec(self.request, client)
        except CribError as error:
            return wire.Failed(str(error))
        except Exception:
            _log.exception("%s failed unexpectedly", self._name)
            return wire.Failed("crib failed, see its log")
        return None if code is None else wire.Exited(code)

    @property
    def _fate(self) -> str:
        """What becomes of what the client was connected to when it goes (Streams.exec and attach)."""
        if isinstance(self.request, AttachRequest):
            return "the container keeps running, and can be attached to again"
        if self.settings.kill_abandoned:
            return "the command is ended"
        if self.request.process.tty:
            return "the command's terminal is hung up"
        return "the command keeps running without input, and what it writes is lost"

    @property
    def _wanted(self) -> wire.Wanted:
        of = self.request.process if isinstance(self.request, ExecRequest) else self.request
        return wire.Wanted(of.stdin, of.stdout, of.stderr, of.tty)

    @property
    def _name(self) -> str:
        """For the log: of a command the first word only, as others may be secret."""
        request = self.request
        kind = (
            "attach to" if isinstance(request, AttachRequest) else f"exec of {request.process.argv[0]!r} in"
        )
        return f"{kind} container {request.container}"


def _told(outcome: wire.Outcome | None) -> str:
    match outcome:
        case None:
            return "the client went away"
        case wire.Exited(code):
            return f"exit code {code}"
        case wire.Failed(message):
            return message
