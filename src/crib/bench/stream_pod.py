"""A pod of one runtime and its streams under a stopwatch: round trips, floods, many sessions at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crib.bench import flows, memory
from crib.bench.lives import cpu_seconds
from crib.client import pods, streams
from crib.client.errors import ClientError, RuntimeFailure
from crib.client.streams import StreamOptions, Transport
from crib.client.streams.link import UpgradeRefused
from crib.stubs.runtime.v1.api_pb2 import ExecRequest, ExecSyncRequest, PortForwardRequest
from crib.wire.portforward import Target as Address

if TYPE_CHECKING:
    from crib.bench.figures import Samples
    from crib.bench.target import BenchTarget
    from crib.client.streams import Reader, Session

ECHO_PORT = 7000
FLOOD_PORT = 7001
WORDS = bytes(range(64, 128)) * 16
"""1 KiB that goes there and back."""
BLOCK = 64 << 10
"""Bytes of one write of the command that floods."""
LABELS: dict[Transport, str] = {"spdy": "SPDY", "websocket": "WebSocket"}
CPU_SHARES = 1024
MEMORY_LIMIT = 256 << 20
"""The container's limit: it must not be the bottleneck."""
LISTEN_SECONDS = 10.0
LIMIT = 60.0
"""Seconds for anything but a flood."""


@dataclass(slots=True)
class StreamPod:
    """The pod of one runtime. `blocks` of BLOCK bytes are a flood out of it; into it goes a quarter."""

    target: BenchTarget
    blocks: int
    samples: Samples
    counts: bool = False
    """Off while warming up."""
    pod_id: str = ""
    container_id: str = ""
    transports: list[Transport] = field(default_factory=lambda: ["spdy"])

    async def prepare(self) -> None:
        """Start what echoes and what floods, and see whether the runtime speaks WebSocket."""
        target = self.target
        flood = f"dd if=/dev/zero bs={BLOCK} count={self.blocks} 2>/dev/null"
        config = target.container_config()
        config.command[:] = ["sh", "-c"]
        config.args[:] = [
            f"nc -ll -p {ECHO_PORT} -e cat & nc -ll -p {FLOOD_PORT} -e sh -c '{flood}' & exec cat"
        ]
        config.stdin = True
        config.linux.resources.cpu_shares = CPU_SHARES
        config.linux.resources.memory_limit_in_bytes = MEMORY_LIMIT
        pod = await pods.run(target.connection, target.sandbox_config(), [config])
        target.alive.add(pod.id)
        self.pod_id, (self.container_id,) = pod.id, pod.containers.values()
        await self._listens()
        try:
            await self._exec(["true"], StreamOptions(transport="websocket"))
        except UpgradeRefused:
            return
        self.transports.append("websocket")

    async def stop(self) -> None:
        """Kill what runs: stopping a sandbox would wait for a first process that ignores signals."""
        if self.container_id:
            with contextlib.suppress(ClientError):  # removing the pod will say what is wrong
                await pods.stop_container(self.target.connection, self.container_id, 0)

    async def round_trips(self) -> None:
        """One of each."""
        await self._timed("ExecSync true", self._exec_sync())
        for transport in self.transports:
            label = LABELS[transport]
            plain = StreamOptions(transport=transport)
            terminal = StreamOptions(tty=True, transport=transport)
            fed = StreamOptions(stdin=True, transport=transport)
            own = time.process_time()
            await self._timed(f"exec true, {label}", self._exec(["true"], plain))
            own = (time.process_time() - own) * 1000
            self._add(f"our own CPU of exec true, {label}", "ms CPU", own)
            await self._timed(f"exec true with a terminal, {label}", self._exec(["true"], terminal))
            await self._timed(f"exec cat of 1 KiB, {label}", self._exec(["cat"], fed, WORDS))
            await self._timed(f"attach and echo of 1 KiB, {label}", self._attach(fed))
            await self._timed(f"port and echo of 1 byte, {label}", self._forward(transport))

    async def floods(self) -> None:
        """One of each."""
        size, inwards = self.blocks * BLOCK, -(-self.blocks // 4) * BLOCK
        # Containerd ends the input of a command early that reads fast itself, but not that of its child.
        sink, says = ("cat >/dev/null; :", b"") if self.counts else ("cat | wc -c", b"%d" % inwards)
        source = f"dd if=/dev/zero bs={BLOCK} count={self.blocks}".split()
        for transport in self.transports:
            label = LABELS[transport]
            out = flows.ExecFlood(transport, size)
            await self._flood(f"out of a container, {label}", await self._exec_url(source, out), out)
            into = flows.ExecFlood(transport, inwards, inwards=True, says=says)
            url = await self._exec_url(["sh", "-c", sink], into)
            await self._flood(f"into a container, {label}", url, into)
        connection = self.target.connection
        request = PortForwardRequest(pod_sandbox_id=self.pod_id, port=[FLOOD_PORT])
        url = (await connection.call(connection.runtime.PortForward, request)).url
        await self._flood("out of a port, SPDY", url, flows.PortFlood(FLOOD_PORT, size))

    async def crowd(self, count: int) -> None:
        """`count` commands at once; then as many sessions that stay open."""
        for transport in self.transports:
            label, options = LABELS[transport], StreamOptions(transport=transport)
            began, cpu = time.perf_counter(), cpu_seconds()
            async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(self._exec(["true"], options))
            self._add(f"{count} exec true at once, {label}", "ms", (time.perf_counter() - began) * 1000)
            used = (cpu_seconds() - cpu) * 1000 / count
            self._add(f"machine CPU of each of {count}, {label}", "ms CPU", used)
            await self._idle(count, transport)

    async def _idle(self, count: int, transport: Transport) -> None:
        pid = self.target.pid
        before = memory.rss_mib(pid) if pid else 0.0
        all_open, may_end = asyncio.Barrier(count + 1), asyncio.Event()

        async def one() -> None:
            options = StreamOptions(stdin=True, transport=transport)
            async with streams.exec(self.target.connection, self.container_id, ["cat"], options) as session:
                await _echo(session)
                await all_open.wait()
                await may_end.wait()
                await _end(session)

        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one())
            await all_open.wait()
            if pid:
                grown = (memory.rss_mib(pid) - before) * 1024 / count
                self._add(f"daemon RSS grown, each of {count} sessions, {LABELS[transport]}", "KiB", grown)
            may_end.set()

    def _add(self, metric: str, unit: str, value: float) -> None:
        if self.counts:
            self.samples.add(metric, unit, self.target.name, value)

    async def _timed(self, metric: str, work: Awaitable[float]) -> None:
        """`work` returns the moment at which its stopwatch stops: its clean-up does not count."""
        began = time.perf_counter()
        async with asyncio.timeout(LIMIT):
            ended = await work
        self._add(metric, "ms", (ended - began) * 1000)

    async def _exec_sync(self) -> float:
        runtime = self.target.connection.runtime
        request = ExecSyncRequest(container_id=self.container_id, cmd=["true"], timeout=30)
        reply = await self.target.connection.call(runtime.ExecSync, request)
        self._check(["true"], reply.exit_code)
        return time.perf_counter()

    async def _exec(self, argv: list[str], options: StreamOptions, words: bytes = b"") -> float:
        async with streams.exec(self.target.connection, self.container_id, argv, options) as session:
            if words:
                await _echo(session, words)
            await _end(session)
            self._check(argv, await session.wait())
            return time.perf_counter()

    async def _attach(self, options: StreamOptions) -> float:
        async with streams.attach(self.target.connection, self.container_id, options) as session:
            await _echo(session, WORDS)
            return time.perf_counter()

    async def _forward(self, transport: Transport) -> float:
        address = Address("tcp", ECHO_PORT)
        async with streams.forward(self.target.connection, self.pod_id, address, transport) as peer:
            await peer.write(b"x")
            if await peer.read() != b"x":
                raise RuntimeFailure(f"{self.target.name}: a port gave a wrong answer")
            return time.perf_counter()

    async def _listens(self) -> None:
        """Returns when the pod's program listens."""
        async with asyncio.timeout(LISTEN_SECONDS):
            while True:
                try:
                    await self._forward("spdy")
                except ClientError:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def _exec_url(self, argv: list[str], flood: flows.ExecFlood) -> str:
        request = ExecRequest(container_id=self.container_id, cmd=argv, stdin=flood.inwards, stdout=True)
        connection = self.target.connection
        return (await connection.call(connection.runtime.Exec, request)).url

    async def _flood(self, metric: str, url: str, work: flows.ExecFlood | flows.PortFlood) -> None:
        cpu, own = cpu_seconds(), time.process_time()
        took = await flows.run(url, work)
        gigabytes = work.size / 1e9
        self._add(metric, "MB/s", gigabytes * 1000 / took)
        self._add(f"machine CPU, {metric}", "s/GB", (cpu_seconds() - cpu) / gigabytes)
        self._add(f"our own CPU, {metric}", "s/GB", (time.process_time() - own) / gigabytes)

    def _check(self, argv: list[str], code: int) -> None:
        if code != 0:
            raise RuntimeFailure(f"{self.target.name}: {argv[0]} exited with {code} in the container")


async def _echo(session: Session, words: bytes = b"x\n") -> None:
    """Say something and hear it."""
    assert session.stdin is not None
    assert session.stdout is not None
    await session.stdin.write(words)
    left = len(words)
    while left > 0 and (data := await session.stdout.read()):
        left -= len(data)
    if left:
        raise RuntimeFailure("a command gave a wrong answer")


async def _end(session: Session) -> None:
    """No more goes to the command; all that it says is read."""
    if session.stdin is not None:
        await session.stdin.close()
    outputs: list[Reader] = [each for each in (session.stdout, session.stderr) if each is not None]
    await asyncio.gather(*(_read_all(each) for each in outputs))


async def _read_all(reader: Reader) -> None:
    while await reader.read():
        pass
