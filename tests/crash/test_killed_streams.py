"""Streams whose client, container, monitor or runtime is killed: all end in bound, and nothing is kept."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crib.client import streams
from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.client.streams import StreamOptions
from crib.wire.portforward import Target
from tests.crash.hunting import hunting
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.leftovers import processes_of
from tests.system.labs.stream_lab import BOUND, TRANSPORTS, descriptors, finish, memory, rest, seen

pytestmark = [pytest.mark.root, pytest.mark.system]

KINDS = ("exec sync", "terminal", "pipes", "attach", "forward")
EVENTS = ("client", "container", "monitor")
AT_ONCE = 5
FIRST_PORT = 4100
SERVER = "exec busybox nc -ll -p {port} -e busybox cat"
ENDLESS = "echo ready; touch /ready; exec sleep 100000"
MEGABYTE = 1 << 20
_ports = itertools.count(FIRST_PORT)


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@dataclass(frozen=True)
class Box:
    """A container of one round. It serves a port, and says when it does."""

    cri: Cri
    pod: Pod
    id: str
    port: int
    number: int

    async def kill(self, program: str) -> None:
        """kill -9 of its first process, once that has come to its program, or of its monitor."""
        await until(lambda: self._killed(program), BOUND)

    async def _killed(self, program: str) -> bool:
        killed = False
        for pid, words in processes_of(self.cri.cribd.root, self.cri.cribd.cgroup):
            with suppress(FileNotFoundError, ProcessLookupError):
                if program == Path(f"/proc/{pid}/comm").read_text().strip() and self._has(pid, words):
                    os.kill(pid, signal.SIGKILL)
                    killed = True
        return killed

    def _has(self, pid: int, words: str) -> bool:
        return self.id[:20] in words or self.id in Path(f"/proc/{pid}/cgroup").read_text()


@asynccontextmanager
async def box(cri: Cri, pod: Pod, number: int) -> AsyncIterator[Box]:
    port = FIRST_PORT + next(_ports) % 20_000
    script = SERVER.format(port=port)
    made = Box(cri, pod, await cri.run_container(pod, "sh", "-c", script, name=f"box{number}"), port, number)
    try:
        yield made
    finally:
        await cri.stop_container(made.id)
        await cri.remove_container(made.id)


async def one_round(cri: Cri, pod: Pod, number: int) -> None:
    """A stream under way, and then what ends it."""
    kind, event = KINDS[number % len(KINDS)], EVENTS[number // len(KINDS) % len(EVENTS)]
    async with box(cri, pod, number) as made, asyncio.timeout(BOUND), AsyncExitStack() as stack:
        ending = await under_way(made, kind, stack)
        match event:
            case "client":
                ending.cancel()
                await stack.aclose()
            case "container":
                await made.kill("busybox")
            case "monitor":
                await made.kill("conmon")
        with suppress(ClientError, asyncio.CancelledError):  # which it is depends on what died first
            await ending
        if event != "client":
            await cri.exited(made.id)


async def under_way(made: Box, kind: str, stack: AsyncExitStack) -> asyncio.Future[Any]:
    """What ends with the stream."""
    connection, transport = made.cri.connection, TRANSPORTS[made.number % 2]
    if kind == "exec sync":
        running = asyncio.ensure_future(made.cri.execute(made.id, "sh", "-c", ENDLESS))
        await until(lambda: made.cri.sh(made.id, "ls /ready 2>/dev/null || true"), BOUND)
        return running
    if kind == "forward":
        listening = f"busybox netstat -ltn | grep ':{made.port} ' || true"
        await until(lambda: made.cri.sh(made.id, listening), BOUND)
        target = Target("tcp", made.port)
        peer = await stack.enter_async_context(streams.forward(connection, made.pod.id, target, transport))
        await peer.write(b"hello")
        assert await peer.read() == b"hello"
        return asyncio.ensure_future(rest(peer))
    options = StreamOptions(kind == "terminal", stdin=kind != "attach", transport=transport)
    if kind == "attach":
        session = await stack.enter_async_context(streams.attach(connection, made.id, options))
    else:
        opening = streams.exec(connection, made.id, ["sh", "-c", ENDLESS], options)
        session = await stack.enter_async_context(opening)
        await seen(session.stdout, b"ready")
    return asyncio.ensure_future(finish(session))


def threads(cribd: Cribd) -> int:
    return len(os.listdir(f"/proc/{cribd.pid}/task"))


async def rounds(cribd: Cribd, numbers: range) -> None:
    room = asyncio.Semaphore(AT_ONCE)
    async with cribd.story() as cri:
        pod = await cri.run_pod("streams")

        async def bounded(number: int) -> None:
            async with room:
                await one_round(cri, pod, number)

        async with asyncio.TaskGroup() as group:
            for number in numbers:
                group.create_task(bounded(number))


ALL = len(KINDS) * len(EVENTS)


@pytest.mark.parametrize("count", [ALL, pytest.param(20 * ALL, marks=pytest.mark.nightly)])
async def test_a_stream_ends_with_what_it_hangs_on_and_leaves_nothing(cribd: Cribd, count: int) -> None:
    await rounds(
        cribd, range(len(KINDS) if count == ALL else 2 * ALL)
    )  # threads and caches come to what stays
    before, opened, begun = cribd.leftovers(), descriptors(cribd.pid), threads(cribd)
    resident = memory(cribd.pid)
    await rounds(cribd, range(count))
    cribd.settle(before)
    await until(lambda: len(descriptors(cribd.pid)) <= len(opened), BOUND)
    grown = memory(cribd.pid) - resident
    more = threads(cribd) - begun
    print(f"{count} rounds: {len(opened)} descriptors, {more:+d} threads, {grown >> 10:+d} KiB")
    if count > ALL:
        assert more <= 16
        assert grown < 8 * MEGABYTE
    assert "Traceback" not in cribd.log()


@pytest.mark.parametrize("after", [0.0, 0.002])
@pytest.mark.parametrize("kind", ["exec sync", "terminal", "pipes"])
async def test_a_runtime_killed_at_the_start_of_a_command_is_told_and_leaves_nothing(
    cribd: Cribd, kind: str, after: float
) -> None:
    async with cribd.story() as cri:
        made = await cri.run_container(await cri.run_pod("pod"), "sleep", "100000")
        await cri.execute(made, "true")
        before = cribd.leftovers()
        with hunting(cribd.pid, "\0exec\0", after=after):
            async with asyncio.timeout(BOUND):
                with suppress(ClientError):  # else the runtime was faster than the hunter
                    if kind == "exec sync":
                        await cri.execute(made, "true")
                    else:
                        options = StreamOptions(kind == "terminal")
                        async with streams.exec(cri.connection, made, ["true"], options) as session:
                            await finish(session)
        cribd.settle(before)
        assert await cri.sh(made, "echo fine") == "fine"
