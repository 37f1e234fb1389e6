"""What tests of streams do with sessions at the handler's port."""

# ruff: noqa: ASYNC110  # bounded

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from crib.ends import ByteSource, Session
from crib.model.container import ContainerConfig, ContainerRecord
from crib.model.sandbox import SandboxRecord
from crib.model.streams import AttachRequest, ExecProcess
from crib.ports.handler import Handler
from tests.system.labs.oci_pods import config, pod, running
from tests.system.labs.oci_setup import BOUND, PodLab


@dataclass(frozen=True)
class Box:
    """A running container."""

    lab: PodLab
    sandbox: SandboxRecord
    record: ContainerRecord

    @property
    def handler(self) -> Handler:
        return self.lab.handler

    async def exec(
        self, *argv: str, tty: bool = False, stdin: bool = False, contained: bool = False
    ) -> Session:
        wanted = ExecProcess(argv, tty, stdin, stdout=True, stderr=not tty, contained=contained)
        return await self.handler.streams.exec(self.record, wanted)

    async def run(self, *argv: str) -> str:
        """A command's output."""
        code, out, err = await finish(await self.exec(*argv))
        assert code == 0, (code, out, err)
        return out.decode()


@asynccontextmanager
async def box(lab: PodLab, *command: str, **fields: object) -> AsyncIterator[Box]:
    """A container of that command (sleep, without one), which is gone at the end."""
    wanted: ContainerConfig = config(*(command or ("sleep", "1000")), **fields)
    async with pod(lab) as sandbox, running(lab, sandbox, wanted) as record:
        yield Box(lab, sandbox, record)


async def rest(source: ByteSource | None) -> bytes:
    """All that still comes."""
    parts: list[bytes] = []
    async with asyncio.timeout(BOUND):
        while source is not None and (data := await source.read()):
            parts.append(data)
    return b"".join(parts)


async def until(source: ByteSource | None, text: bytes) -> bytes:
    """What comes until that text has come."""
    assert source is not None
    seen = bytearray()
    async with asyncio.timeout(BOUND):
        looked = 0
        while seen.find(text, looked) < 0:
            looked = max(0, len(seen) - len(text))
            data = await source.read()
            assert data, f"it ended with {bytes(seen[-100:])!r}"
            seen += data
    return bytes(seen)


async def finish(session: Session) -> tuple[int, bytes, bytes]:
    """Code and outputs of a command that is let run to its end."""
    try:
        out, err = await asyncio.gather(rest(session.stdout), rest(session.stderr))
        return await asyncio.wait_for(session.wait(), BOUND), out, err
    finally:
        await session.close()


def descriptors() -> int:
    """How many this process has open; what is garbage is not counted."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def comes_true(question: Callable[[], bool], within: float = BOUND) -> None:
    """For what nobody tells of."""
    async with asyncio.timeout(within):
        while not question():
            await asyncio.sleep(0.01)  # what /proc shows changes without an event


async def attached(to: Box, *, stdin: bool = True, tty: bool = False) -> Session:
    wanted = AttachRequest(to.record.id, tty, stdin, stdout=True, stderr=not tty)
    return await to.handler.streams.attach(to.record, wanted)
