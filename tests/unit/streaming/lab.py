"""A streaming server on loopback over the real verbs, with commands and connections that a test plays."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

from crib.ends import ByteStream
from crib.engine.core import Core
from crib.engine.streams.verbs import Streams
from crib.model.container import ContainerConfig, ContainerRecord
from crib.model.errors import CribError, NotFound, Unavailable
from crib.model.ids import ContainerId, SandboxId
from crib.model.sandbox import SandboxRecord
from crib.model.settings import Settings, StreamingSettings
from crib.model.streams import AttachRequest, ExecProcess, ForwardRequest, PodAddress, TerminalSize
from crib.streaming.server import StreamServer
from crib.tasks.keeper import TaskKeeper
from tests.fakes.clock import ManualClock
from tests.unit.api.fake_node import container, sandbox

BOUND = 60.0
"""Seconds that anything awaited may take: it hangs then."""
PIPE_BYTES = 64 << 10


class Pipe:
    """Bytes in memory, bounded as a pipe's."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._closed = False
        self.broken: OSError | None = None
        self.written = 0
        self._change = asyncio.Condition()

    async def read(self) -> bytes:
        async with self._change:
            await self._change.wait_for(lambda: self._chunks or self._closed or self.broken)
            if self.broken and not self._chunks:
                raise self.broken
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._size = 0
            self._change.notify_all()
            return data

    async def read_all(self) -> bytes:
        found = bytearray()
        while data := await self.read():
            found += data
        return bytes(found)

    async def write(self, data: bytes) -> None:
        async with self._change:
            await self._change.wait_for(lambda: self._size < PIPE_BYTES or self._closed or self.broken)
            if self._closed or self.broken:
                raise self.broken or BrokenPipeError("nobody reads")
            self._chunks.append(bytes(data))
            self._size += len(data)
            self.written += len(data)
            self._change.notify_all()

    async def close(self) -> None:
        async with self._change:
            self._closed = True
            self._change.notify_all()

    async def break_off(self, error: OSError) -> None:
        async with self._change:
            self.broken = error
            self._change.notify_all()

    @property
    def is_closed(self) -> bool:
        return self._closed


class Command:
    """See ports.Session: `script` is the command, and its result the exit code."""

    def __init__(self, wanted: ExecProcess | AttachRequest, script: Script) -> None:
        self.wanted = wanted
        self.stdin = Pipe() if wanted.stdin else None
        self.stdout = Pipe() if wanted.stdout else None
        self.stderr = Pipe() if wanted.stderr else None
        self.sizes: list[TerminalSize] = []
        self.resized = asyncio.Event()
        self.closed = asyncio.Event()
        self.killed = asyncio.Event()
        self.task = asyncio.ensure_future(self._run(script))

    async def _run(self, script: Script) -> int:
        try:
            return await script(self)
        finally:
            for pipe in (self.stdout, self.stderr):
                if pipe is not None:
                    await pipe.close()

    async def say(self, data: bytes) -> None:
        assert self.stdout is not None
        await self.stdout.write(data)

    def resize(self, size: TerminalSize) -> None:
        self.sizes.append(size)
        self.resized.set()

    async def wait(self) -> int:
        return await asyncio.shield(self.task)

    async def kill(self) -> None:
        self.killed.set()
        self.task.cancel()

    async def close(self) -> None:
        self.closed.set()
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                await pipe.break_off(BrokenPipeError("the session is closed"))


Script = Callable[[Command], Awaitable[int]]


class Target:
    """See ports.ByteStream: the pod's end is `inbox` (what came) and `outbox` (what is answered)."""

    def __init__(self, address: PodAddress) -> None:
        self.address = address
        self.inbox = Pipe()
        self.outbox = Pipe()
        self.aborted = asyncio.Event()

    async def read(self) -> bytes:
        reading = asyncio.ensure_future(self.outbox.read())
        aborted = asyncio.ensure_future(self.aborted.wait())
        try:
            await asyncio.wait((reading, aborted), return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else b""
        finally:
            for task in (reading, aborted):
                task.cancel()
            await asyncio.gather(reading, aborted, return_exceptions=True)

    async def write(self, data: bytes) -> None:
        await self.inbox.write(data)

    async def close(self) -> None:
        await self.inbox.close()

    def abort(self) -> None:
        self.aborted.set()


class Lab:
    """The server, and what it serves."""

    def __init__(self, *, tty: bool = False, stdin: bool = True, **settings: Any) -> None:
        self.settings = Settings(streaming=StreamingSettings(**settings))
        self.clock = ManualClock()
        self.keeper = TaskKeeper()
        self.pod = sandbox()
        self.box = container(config=ContainerConfig("box", "image", tty=tty, stdin=stdin))
        self.script: Script = succeed
        self.failure: CribError | None = None
        """Of the next exec or attach."""
        self.commands: list[Command] = []
        self.targets: list[Target] = []
        self.serve_target: Callable[[Target], Awaitable[None]] = echo
        self.refused: set[int] = set()
        self.opened = asyncio.Event()
        self._serving: list[asyncio.Task[None]] = []
        core = SimpleNamespace(
            settings=self.settings,
            clock=self.clock,
            keeper=self.keeper,
            container=self._container,
            sandbox=lambda text: self.pod,
            caretaker=lambda record: SimpleNamespace(streams=self),
            containers_of=lambda text: (self.box,),
        )
        self.streams = Streams(cast(Core, core))
        self.server = StreamServer(self.streams, self.settings.streaming, at_once)

    def _container(self, text: str) -> ContainerRecord:
        if text != self.box.id:
            raise NotFound(f"there is no container {text!r}")
        return self.box

    # the handler

    async def exec(self, record: ContainerRecord, process: ExecProcess) -> Command:
        return self._command(process)

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> Command:
        return self._command(wanted)

    def _command(self, wanted: ExecProcess | AttachRequest) -> Command:
        if self.failure is not None:
            raise self.failure
        command = Command(wanted, self.script)
        self.commands.append(command)
        self.opened.set()
        return command

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        if address.port in self.refused:
            raise Unavailable(f"connecting to {address}: connection refused")
        target = Target(address)
        self.targets.append(target)
        self._serving.append(asyncio.ensure_future(self._serve(target)))
        return target

    async def _serve(self, target: Target) -> None:
        try:
            await self.serve_target(target)
        except BrokenPipeError:
            pass
        finally:
            await target.outbox.close()

    # the test's hand

    def exec_url(self, *argv: str, **wanted: Any) -> str:
        process = ExecProcess(argv or ("sh",), **(wanted or {"stdout": True}))
        return self.server.url_for("exec", self.streams.issue_exec(self.box.id, process))

    def attach_url(self, **wanted: bool) -> str:
        request = AttachRequest(ContainerId(""), **wanted)
        return self.server.url_for("attach", self.streams.issue_attach(self.box.id, request))

    def forward_url(self, *ports: int, beyond: tuple[PodAddress, ...] = ()) -> str:
        request = ForwardRequest(SandboxId(""), ports, beyond)
        return self.server.url_for("portforward", self.streams.issue_forward(self.pod.id, request))

    async def start(self) -> Lab:
        await self.server.start()
        return self

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.server.url_for("exec", "x"))
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port

    async def stop(self) -> None:
        """As the daemon does; and no command or connection of the test's goes on."""
        async with asyncio.timeout(BOUND):
            await self.server.stop()
            await self.keeper.close(1.0)
            tasks = [command.task for command in self.commands] + self._serving
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


MakeLab = Callable[..., Awaitable[Lab]]
"""The fixture `make_lab`."""


async def at_once(what: str, work: Callable[[], None]) -> None:
    """What the daemon would have a thread do."""
    del what
    work()


async def succeed(command: Command) -> int:
    return 0


async def cat(command: Command) -> int:
    assert command.stdin is not None
    while data := await command.stdin.read():
        await command.say(data)
    return 0


async def forever(command: Command) -> int:
    await asyncio.Event().wait()
    return 0


async def echo(target: Target) -> None:
    while data := await target.inbox.read():
        await target.outbox.write(data)


async def until(condition: Callable[[], object]) -> None:
    """Look again until it is so."""
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110  what is waited for tells nobody
            await asyncio.sleep(0.001)
