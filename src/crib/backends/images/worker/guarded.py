"""Connections that lead nowhere a registry may not send us, whatever a name resolves to at that moment.

An address is judged before a socket connects to it. Where the registry itself is shows the connection that
was made to it.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import aiohttp

from crib.backends.images.worker.places import WAY, place_of

if TYPE_CHECKING:
    from aiohttp.connector import AddrInfoType, Connection
    from aiohttp.tracing import Trace


class GuardedConnector(aiohttp.TCPConnector):
    """Looks at the way of each request."""

    def __init__(self) -> None:
        super().__init__(limit=0, socket_factory=self._socket)

    @staticmethod
    def _socket(info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = info
        if (way := WAY.get()) is not None:
            way.check(place_of(str(address[0])), str(address[0]))
        return socket.socket(family, kind, protocol)

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A connection, new or kept from another request."""
        connection = await super().connect(req, traces, timeout)
        way = WAY.get()
        # A proxy's own address says nothing of who is behind it.
        if way is None or req.proxy is not None or connection.transport is None:
            return connection
        peer = connection.transport.get_extra_info("peername")
        if peer is None:  # gone already
            return connection
        try:
            way.arrived(place_of(peer[0]), peer[0])
        except OSError:
            connection.release()
            raise
        return connection
