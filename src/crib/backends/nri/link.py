"""A plugin's connection: calls of the service Plugin go out on it, calls of the service Runtime come in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Self, TypeVar

from google.protobuf.message import DecodeError, Message

from crib.backends.nri.lives import Breach
from crib.tasks.keeper import HANDS
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.client import TtrpcClient
from crib.ttrpc.mux import Mux
from crib.ttrpc.server import Handler, TtrpcServer
from crib.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE

M = TypeVar("M", bound=Message)

_PACKAGE = "nri.pkg.api.v1alpha1"
MOST_RUNNING = 8
"""Calls of one plugin that are answered at a time; more wait unread."""


class _Trunk(SocketCarrier):
    """Knows whether it was closed for what came on it."""

    breach = ""

    def abort(self, reason: str) -> None:
        self.breach = self.breach or reason
        super().abort(reason)


class PluginLink:
    """Both services over one socket."""

    def __init__(self, trunk: _Trunk) -> None:
        self._trunk = trunk
        self._mux = Mux(trunk, (PLUGIN_SERVICE, RUNTIME_SERVICE))
        self._client = TtrpcClient(self._mux.carrier(PLUGIN_SERVICE))

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Over a connected socket, which is its own from now on. OSError when it has gone already."""
        try:
            _, trunk = await asyncio.get_running_loop().connect_accepted_socket(_Trunk, end)
        except BaseException:
            end.close()
            raise
        return cls(trunk)

    def begin(self, methods: Mapping[str, Handler]) -> None:
        """Answer the plugin's calls from now on."""
        carrier = self._mux.carrier(RUNTIME_SERVICE)
        TtrpcServer(carrier, {f"{_PACKAGE}.Runtime": methods}, HANDS.part, MOST_RUNNING)

    async def call(self, method: str, request: Message, kind: type[M], limit: float) -> M:
        """What the plugin answers. CallFailed, CallTimedOut, PeerLost; Breach where the answer is none, and
        ttrpc.Oversized where the request is too long.
        """
        service = f"{_PACKAGE}.Plugin"
        answer = await self._client.call(service, method, request.SerializeToString(), limit)
        try:
            return kind.FromString(answer)
        except DecodeError as error:
            raise Breach(f"its answer to {method} is no {kind.__name__}: {error}") from None

    async def gone(self) -> str:
        """Why the connection has ended, once it has."""
        return await self._client.gone()

    @property
    def breach(self) -> str:
        """What came on it that the protocol does not allow; empty: nothing."""
        return self._trunk.breach

    def close(self) -> None:
        """End it, once what is on its way has gone."""
        self._trunk.close()
