"""Connections into a machine: its agent connects, and the shim hands the bytes on (proto/vm/guest.proto)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from typing import TypeVar

from google.protobuf.message import Message

from crib.backends.shim.nouns import ShimLost
from crib.backends.shim.streams import ShimStreams
from crib.backends.shim.task_client import ShimCalls
from crib.backends.shim.tools import ShimTools
from crib.backends.streams.dial import CONNECT_TIME
from crib.backends.vm import guest_calls
from crib.backends.vm.guest_calls import SERVICE
from crib.ends import ByteStream
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord
from crib.model.errors import CribError, InvalidRequest, NotBuilt, NotFound, Unavailable
from crib.model.facts import RootfsFacts
from crib.model.sandbox import SandboxRecord
from crib.model.streams import PodAddress
from crib.stubs.vm import guest_pb2
from crib.tasks.keeper import HANDS

_PORTS = range(1, 65536)
_WRITE = 65536
"""Bytes of one call."""
Answer = TypeVar("Answer", bound=Message)


class VmStreams(ShimStreams):
    """See ContainerStreams: a machine's loopback, and sockets in its containers, are reached from inside."""

    def __init__(self, tools: ShimTools) -> None:
        super().__init__(tools)
        self._tools = tools

    async def _users(self, record: ContainerRecord) -> RootfsFacts:
        """On a disk of the guest's are others than the host sees."""
        disk = self._tools.environment.paths.disk(record.id)
        if await OURS.run(Job(f"looking for {disk}", record.id), os.path.exists, disk):
            with contextlib.suppress(NotBuilt):  # a shim of an earlier version, whose roots are the host's
                return await guest_calls.users(self._tools, record.id)
        return await super()._users(record)

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        what = f"connecting to {address} of sandbox {record.id}"
        if address.kind != "unix" and address.port not in _PORTS:
            raise InvalidRequest(f"{address.port} is not a port", field="port")
        if address.kind == "udp":
            raise InvalidRequest(f"{what}: UDP does not get into a pod that is a machine")
        shim = await self._tools.shims.find(record.id)
        if shim is None:
            raise Unavailable(f"{what}: its machine has gone")
        calls = ShimCalls(shim.client, SERVICE, lambda: CONNECT_TIME)
        wanted = guest_pb2.DialRequest(network="tcp", port=address.port)
        if address.kind == "unix":
            wanted = guest_pb2.DialRequest(network="unix", path=await self._path(containers, address))
        try:
            made = await calls.call("Dial", wanted, guest_pb2.DialResponse)
        except CribError as error:
            raise Unavailable(f"{what}: {error.problem}") from error
        return GuestStream(calls, made.connection, record.id)

    async def _path(self, containers: Collection[ContainerRecord], address: PodAddress) -> str:
        """The guest's, by way of a process of the container."""
        if not address.path.startswith("/") or "\0" in address.path:
            raise InvalidRequest(f"{address.path!r} is not an absolute path", field="path")
        for record in containers:
            if record.config.name == address.container:
                with contextlib.suppress(NotFound, ShimLost):
                    if pids := await (await self._tools.services.of(record.id)).pids(record.id):
                        return f"/proc/{pids[0]}/root{address.path}"
        raise NotFound(f"no container {address.container!r} runs in the sandbox")


class GuestStream:
    """See ByteStream: one connection that the agent has made."""

    def __init__(self, calls: ShimCalls, connection: int, pod: str) -> None:
        self._calls = calls
        self._connection = connection
        self._pod = pod
        self._offset = 0
        self._is_over = False
        self._has_ended = False

    async def read(self) -> bytes:
        """ConnectionError when the connection, or the machine, has gone."""
        if self._has_ended:
            return b""
        wanted = guest_pb2.ReadRequest(connection=self._connection, offset=self._offset)
        said = await self._call("Read", wanted, guest_pb2.ReadResponse)
        self._offset += len(said.data)
        self._has_ended = said.eof
        return said.data if said.data or said.eof else await self.read()

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            wanted = guest_pb2.WriteRequest(connection=self._connection, data=bytes(rest[:_WRITE]))
            rest = rest[(await self._call("Write", wanted, guest_pb2.WriteResponse)).accepted :]

    async def close(self) -> None:
        if not self._is_over:
            wanted = guest_pb2.CloseStreamRequest(connection=self._connection, sending=True)
            with contextlib.suppress(ConnectionError):
                await self._call("CloseStream", wanted, guest_pb2.CloseStreamResponse)

    def abort(self) -> None:
        if not self._is_over:
            self._is_over = True
            HANDS.part("closing a connection into a machine", self._closed(), self._pod)

    async def _call(self, method: str, wanted: Message, answer: type[Answer]) -> Answer:
        try:
            return await self._calls.call(method, wanted, answer, bounded=False)
        except CribError as error:
            raise ConnectionResetError(error.problem) from error

    async def _closed(self) -> None:
        wanted = guest_pb2.CloseStreamRequest(connection=self._connection)
        with contextlib.suppress(CribError):
            await self._calls.call("CloseStream", wanted, guest_pb2.CloseStreamResponse)
