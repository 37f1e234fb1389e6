"""A command that runs in a container, as its client has it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from crib.ends import ByteSink, ByteSource
from crib.model.streams import ExecProcess, TerminalSize
from crib.tasks.keeper import HANDS


class CommandStreams(Protocol):
    """Our ends of a command's streams, also of those that were not asked for."""

    @property
    def stdin(self) -> ByteSink | None: ...

    @property
    def stdout(self) -> ByteSource | None: ...

    @property
    def stderr(self) -> ByteSource | None: ...

    def resize(self, size: TerminalSize) -> None:
        """Tell the terminal its size; nothing without a terminal."""
        ...

    def close(self) -> None:
        """Let go of all of it. Safe to repeat."""
        ...


class ExecSession:
    """See ends.Session, of a command that runs.

    `followed` ends when the command has ended and what it needed is put away; its result is the exit code.
    """

    def __init__(
        self,
        wanted: ExecProcess,
        streams: CommandStreams,
        followed: asyncio.Task[int],
        kill: Callable[[], Awaitable[None]],
    ) -> None:
        self._wanted = wanted
        self._streams = streams
        self._followed = followed
        self._kill = kill
        self._dropping = [
            HANDS.part("unwanted output", drop(source))
            for source, asked in ((streams.stdout, wanted.stdout), (streams.stderr, wanted.stderr))
            if source is not None and not asked
        ]

    @property
    def stdin(self) -> ByteSink | None:
        return self._streams.stdin if self._wanted.stdin else None

    @property
    def stdout(self) -> ByteSource | None:
        return self._streams.stdout if self._wanted.stdout else None

    @property
    def stderr(self) -> ByteSource | None:
        return self._streams.stderr if self._wanted.stderr else None

    def resize(self, size: TerminalSize) -> None:
        self._streams.resize(size)

    async def wait(self) -> int:
        return await asyncio.shield(self._followed)

    async def kill(self) -> None:
        await self._kill()

    async def close(self) -> None:
        self._streams.close()


async def undo_opening(opening: asyncio.Task[ExecSession], patience: float) -> None:
    """End a command that nobody waits for any more, even if its runtime hangs: it has `patience` seconds to
    start it.
    """
    await asyncio.wait([opening], timeout=patience)
    opening.cancel()
    await asyncio.wait([opening])
    if opening.cancelled() or opening.exception() is not None:
        return
    session = opening.result()
    try:
        await session.kill()
    finally:
        await session.close()


async def drop(source: ByteSource) -> None:
    """The command must not wait for somebody to read it."""
    while await source.read():
        pass
