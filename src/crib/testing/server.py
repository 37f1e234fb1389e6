"""A fake runtime at a socket of its own."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING, Self

import grpc.aio

from crib.client.blocking import run
from crib.stubs.runtime.v1 import api_pb2_grpc
from crib.testing.rules import AskedCall, CallRule, CallRules
from crib.testing.services import FakeImageService, FakeRuntimeService
from crib.testing.streams import FakeStreams
from crib.testing.world import FakeWorld

if TYPE_CHECKING:
    from types import TracebackType


class FakeServer:
    """Serves a world, in a thread of the client library, until the block ends; safe to use from any thread.

    For tests with asyncio as well as without. `endpoint` is what a client connects to.
    """

    def __init__(self, world: FakeWorld | None = None, path: str = "") -> None:
        """`path` is where the socket is made; empty: in a directory of its own."""
        self.world = world or FakeWorld()
        self._rules = CallRules()
        self._directory = "" if path else tempfile.mkdtemp(prefix="cri-")
        self._path = path or f"{self._directory}/cri.sock"
        self._server: grpc.aio.Server | None = None
        self._streams = FakeStreams(self.world)

    @property
    def endpoint(self) -> str:
        """As `unix:///PATH`."""
        return f"unix://{self._path}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def start(self) -> None:
        """Begin to answer; again after `stop`, as a runtime that was restarted."""
        if self._server is None:
            self._server = run(self._started())

    def stop(self) -> None:
        """End all calls and the socket. What the world holds stays."""
        if self._server is not None:
            run(self._stopped(self._server))
            self._server = None

    async def _stopped(self, server: grpc.aio.Server) -> None:
        await server.stop(None)
        await self._streams.stop()

    async def _started(self) -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[self._rules])
        # the stubs have every call abstract for type checkers, and answer UNIMPLEMENTED where there is none
        await self._streams.start()
        runtime = FakeRuntimeService(self.world, self._streams)  # type: ignore[abstract]
        images = FakeImageService(self.world)  # type: ignore[abstract]
        api_pb2_grpc.add_RuntimeServiceServicer_to_server(runtime, server)
        api_pb2_grpc.add_ImageServiceServicer_to_server(images, server)
        server.add_insecure_port(self.endpoint)
        await server.start()
        return server

    # what calls come to

    @property
    def asked(self) -> list[AskedCall]:
        """All calls so far, in order."""
        return self._rules.asked

    @property
    def calls(self) -> list[str]:
        """Their names."""
        return [asked.name for asked in self._rules.asked]

    def fail(self, call: str, code: str, message: str = "", *, times: int | None = None) -> CallRule:
        """Have a call answered with an error: `code` is a gRPC code's name, such as UNAVAILABLE."""
        grpc.StatusCode[code]
        return self._rules.add(CallRule(call, code, message, times=times))

    def delay(self, call: str, seconds: float, *, times: int | None = None) -> CallRule:
        """Have a call answered late."""
        return self._rules.add(CallRule(call, seconds=seconds, times=times))

    def hold(self, call: str, *, times: int | None = None) -> CallRule:
        """Have a call answered when the rule that this returns is released."""
        return self._rules.add(CallRule(call, held=True, times=times))

    def clear_rules(self) -> None:
        """Answer all calls as a healthy runtime; those that are held are released."""
        for rule in self._rules.rules:
            rule.release()
        self._rules.rules.clear()

    # what happens in the runtime

    def exit(self, container_id: str, code: int = 0) -> None:
        """A container's program ends."""
        run(self._exit(container_id, code))

    async def _exit(self, container_id: str, code: int) -> None:
        self.world.exited(container_id, code)

    def write(self, container_id: str, data: bytes, *, stream: str = "stdout") -> None:
        """A container's program writes lines: to its log, and to those who are attached to it."""
        run(self._write(container_id, stream, data))

    async def _write(self, container_id: str, stream: str, data: bytes) -> None:
        self.world.said(container_id, stream, data)
