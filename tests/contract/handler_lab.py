"""A handler of any kind, with records for its pods and containers: what its contract suites begin with."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from crib.backends.network.interfaces import bring_loopback_up
from crib.ends import ByteSource, Session
from crib.host.mounts import unmount
from crib.host.namespaces import run_in_namespace
from crib.model.container import ContainerConfig, ContainerRecord, ContainerState, Exit
from crib.model.errors import Unavailable
from crib.model.ids import HandlerName, ImageId, new_container_id, new_sandbox_id
from crib.model.image import ImageConfig
from crib.model.sandbox import (
    NamespaceMode,
    NamespaceOptions,
    PodMetadata,
    PodSecurity,
    SandboxConfig,
    SandboxRecord,
    SandboxState,
)
from crib.model.streams import PodAddress
from crib.ports.containers import CreateRequest
from crib.ports.handler import Handler
from crib.ports.networks import PodNetwork
from tests.fakes.handler import FakeHandler
from tests.fakes.world import bounded
from tests.system.labs.oci_setup import LAYER
from tests.system.labs.pod_namespaces import no_stage

FOREVER = ("/bin/sleep", "600")


@dataclass
class HandlerLab:
    """A handler, records for it, and its exits."""

    handler: Handler
    logs: str

    def __post_init__(self) -> None:
        self._exits = self.handler.containers.exits()

    def sandbox(self, pid: NamespaceMode = NamespaceMode.CONTAINER, **sysctls: str) -> SandboxRecord:
        namespaces = NamespaceOptions(NamespaceMode.POD, pid, NamespaceMode.POD)
        return SandboxRecord(
            id=new_sandbox_id(),
            config=SandboxConfig(
                metadata=PodMetadata("pod", "uid", "default"),
                hostname="pod-host",
                log_directory=self.logs,
                security=PodSecurity(namespaces=namespaces),
                sysctls={name.replace("__", "."): value for name, value in sysctls.items()},
            ),
            handler=HandlerName("crun"),
            state=SandboxState.CREATING,
            created_at=1,
            boot_id="",
        )

    async def pod(self, pid: NamespaceMode = NamespaceMode.CONTAINER, **sysctls: str) -> SandboxRecord:
        record = self.sandbox(pid, **sysctls)
        async with bounded():
            await self.handler.pods.prepare(record, no_stage)
            infra = await self.handler.pods.start(record, no_stage)
        return replace(record, state=SandboxState.READY, infra=infra)

    def container(self, sandbox: SandboxRecord, *argv: str, **fields: Any) -> ContainerRecord:
        container = new_container_id()
        return ContainerRecord(
            id=container,
            sandbox_id=sandbox.id,
            config=replace(ContainerConfig("app", "busybox", command=argv or FOREVER), **fields),
            state=ContainerState.CREATING,
            created_at=1,
            image_id=ImageId("sha256:" + "a" * 64),
            image_ref="busybox",
            layers=(LAYER,),
            log_path=f"{self.logs}/{container}.log",
        )

    async def created(self, sandbox: SandboxRecord, *argv: str, **fields: Any) -> ContainerRecord:
        record = self.container(sandbox, *argv, **fields)
        async with bounded():
            request = CreateRequest(record, sandbox, ImageConfig(env=("PATH=/bin",)))
            made = await self.handler.containers.create(request, no_stage)
        return replace(
            record,
            state=ContainerState.CREATED,
            process=made.process,
            monitor=made.monitor,
            user=made.user,
        )

    async def running(self, sandbox: SandboxRecord, *argv: str, **fields: Any) -> ContainerRecord:
        record = await self.created(sandbox, *argv, **fields)
        async with bounded():
            await self.handler.containers.start(record)
        return replace(record, state=ContainerState.RUNNING)

    async def exit_of(self, record: ContainerRecord) -> Exit:
        async with bounded():
            async for told in self._exits:
                if told.id == record.id:
                    return told
        raise AssertionError("exits ended")

    async def exits_of(self, *records: ContainerRecord) -> list[Exit]:
        """Those of all, in whatever order they come."""
        found: dict[str, Exit] = {}
        async with bounded():
            while not {record.id for record in records} <= found.keys():
                told = await anext(self._exits)
                found[told.id] = told
        return [found[record.id] for record in records]

    async def gone(self, record: ContainerRecord) -> None:
        """Kill it and wait until it is told, so that nothing outlives the test."""
        await self.handler.containers.signal(record, signal.SIGKILL, everyone=True)
        await self.exit_of(record)
        await self.handler.containers.delete(record)

    @contextlib.asynccontextmanager
    async def echoing(self, sandbox: SandboxRecord) -> AsyncIterator[PodAddress]:
        """Somebody listens on a port of the pod and sends back what comes."""
        if isinstance(self.handler, FakeHandler):
            address = PodAddress("tcp", 7)
            self.handler.host.pods[sandbox.id].echoes.add(address)
            yield address
            return
        if self.handler.facts.kind == "vm":  # whose loopback is in another kernel
            async with self._echoing_inside(sandbox) as address:
                yield address
            return
        netns = self.handler.pods.netns_path(sandbox)
        await bring_loopback_up(PodNetwork(sandbox.id, sandbox.config.metadata, netns))
        listening = run_in_namespace(netns, "net", lambda: socket.create_server(("127.0.0.1", 0)))
        server = await asyncio.start_server(_echo, sock=listening)
        async with server:
            yield PodAddress("tcp", listening.getsockname()[1])

    @contextlib.asynccontextmanager
    async def _echoing_inside(self, sandbox: SandboxRecord) -> AsyncIterator[PodAddress]:
        address = PodAddress("tcp", 7)
        box = await self.running(sandbox, "/bin/busybox", "nc", "-ll", "-p", "7", "-e", "/bin/cat")
        async with bounded():
            while True:
                try:
                    (await self.handler.streams.dial(sandbox, [], address)).abort()
                    break
                except Unavailable:
                    await asyncio.sleep(0.1)  # nothing tells when it listens
        yield address
        await self.gone(box)

    def lose(self, sandbox: SandboxRecord) -> None:
        """Somebody takes a namespace of the pod away."""
        if isinstance(self.handler, FakeHandler):
            self.handler.host.lose(sandbox.id)
        else:
            unmount(self.handler.pods.netns_path(sandbox))

    async def close(self) -> None:
        close = getattr(self._exits, "aclose", None)
        if close is not None:
            await close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


async def rest(source: ByteSource | None) -> bytes:
    """All that still comes."""
    received = b""
    while source is not None and (data := await source.read()):
        received += data
    return received


async def line(source: ByteSource | None) -> bytes:
    """What comes until a line has ended."""
    assert source is not None
    received = b""
    while not received.endswith(b"\n"):
        data = await source.read()
        assert data, f"it ended with {received!r}"
        received += data
    return received


async def finish(session: Session) -> tuple[int, bytes, bytes]:
    """Code and outputs."""
    out, err = await asyncio.gather(rest(session.stdout), rest(session.stderr))
    code = await session.wait()
    await session.close()
    return code, out, err
