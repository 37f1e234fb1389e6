"""A server of gRPC for tests."""

from __future__ import annotations

import asyncio
import socket

from crib.rpc.call import GrpcCall
from crib.rpc.codes import CallRefused, Code
from crib.rpc.server import GrpcServer, Method
from crib.tasks.calls import start_call

CALLS_LIMIT, MESSAGE_LIMIT = 40, 1 << 20
LARGEST, MOST_PIECES = 6 << 20, 100
"""What a caller may ask for."""
PIECE = b"p" * 50_000


class Lab:
    """A server with a method of each kind."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.wrote = self.waiting = self.answered = 0
        """Messages that were written, handlers that wait, and large answers."""
        self.cancelled = asyncio.Event()
        self.reads, self.let_go = asyncio.Event(), asyncio.Event()
        self.server = GrpcServer(
            {
                "/Echo": Method(self._echo),
                "/Quick": Method(self._late, at_once=lambda _, request: request),
                "/Many": Method(self._many),
                "/Wait": Method(self._wait),
                "/Slow": Method(self._slow),
                "/Fail": Method(self._fail),
                "/Stop": Method(self._stop),
                "/Refuse": Method(self._refuse),
                "/Big": Method(self._late, at_once=self._big),
            },
            start_call,
            calls_limit=CALLS_LIMIT,
            message_limit=MESSAGE_LIMIT,
        )

    async def start(self) -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        await self.server.start(listening)

    async def _echo(self, call: GrpcCall) -> bytes:
        return await call.read() or b"nothing"

    async def _late(self, call: GrpcCall) -> bytes:
        return b"late " + (call.take_first() or b"")

    def _big(self, call: GrpcCall, request: bytes) -> bytes:
        self.answered += 1
        return bytes(min(int(request), LARGEST))

    async def _many(self, call: GrpcCall) -> None:
        for _ in range(min(int(await call.read() or b"0"), MOST_PIECES)):
            await call.write(PIECE)
            self.wrote += 1

    async def _wait(self, call: GrpcCall) -> bytes:
        self.waiting += 1
        await call.send_head()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"waited"

    async def _slow(self, call: GrpcCall) -> bytes:
        await self.reads.wait()
        return str(len(await call.read() or b"")).encode()

    async def _fail(self, call: GrpcCall) -> bytes:
        raise ZeroDivisionError("oops")

    async def _refuse(self, call: GrpcCall) -> bytes:
        raise CallRefused(Code.NOT_FOUND, (await call.read() or b"").decode(errors="replace"))

    async def _stop(self, call: GrpcCall) -> bytes:
        raise asyncio.CancelledError  # as from a task that it waited for
