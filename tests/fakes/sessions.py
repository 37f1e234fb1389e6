"""Both ends of streams in memory: what the fake handler's exec, attach and dial give."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection

from crib.model.streams import TerminalSize


class FakeSource:
    """See ports.ByteSource; a test or a fake puts in what comes."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._ended = False
        self._news = asyncio.Event()

    def put(self, data: bytes) -> None:
        if data and not self._ended:
            self._parts.append(data)
            self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def read(self) -> bytes:
        while not self._parts:
            if self._ended:
                return b""
            self._news.clear()
            await self._news.wait()
        return self._parts.popleft()


class FakeSink:
    """See ports.ByteSink; `take` gets what is written, and b"" for its end."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._closed = False

    async def write(self, data: bytes) -> None:
        if self._closed:
            raise BrokenPipeError("it is closed")
        if data:
            self._take(data)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._take(b"")

    def release(self) -> None:
        """Nobody reads it any more."""
        self._closed = True


class FakeSession:
    """See ports.Session. `finish` is the command's, or the container's, end."""

    def __init__(
        self, wanted: Collection[str], take: Callable[[bytes], None], kill: Callable[[], None] | None = None
    ) -> None:
        self._sources = {name: FakeSource() for name in ("stdout", "stderr") if name in wanted}
        self._stdin = FakeSink(take) if "stdin" in wanted else None
        self._kill = kill
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.sizes: list[TerminalSize] = []
        self.on_close: Callable[[], None] = lambda: None

    @property
    def stdin(self) -> FakeSink | None:
        return self._stdin

    @property
    def stdout(self) -> FakeSource | None:
        return self._sources.get("stdout")

    @property
    def stderr(self) -> FakeSource | None:
        return self._sources.get("stderr")

    def say(self, data: bytes, stream: str = "stdout") -> None:
        """It writes."""
        if stream in self._sources:
            self._sources[stream].put(data)

    def finish(self, code: int) -> None:
        """It has ended."""
        if not self.code.done():
            self.code.set_result(code)
        if self._stdin is not None:
            self._stdin.release()
        for source in self._sources.values():
            source.end()

    def resize(self, size: TerminalSize) -> None:
        self.sizes.append(size)

    async def wait(self) -> int:
        return await asyncio.shield(self.code)

    async def kill(self) -> None:
        if self._kill is not None:
            self._kill()

    async def close(self) -> None:
        for source in self._sources.values():
            source.end()
        self.on_close()
        if self._stdin is not None:
            self._stdin.release()


class EchoStream:
    """See ports.ByteStream: a peer that sends back what it gets, and ends when it is told the end."""

    def __init__(self) -> None:
        self._back = FakeSource()
        self._closed = False

    async def read(self) -> bytes:
        return await self._back.read()

    async def write(self, data: bytes) -> None:
        if self._closed:
            raise BrokenPipeError("it is closed")
        self._back.put(data)

    async def close(self) -> None:
        self._closed = True
        self._back.end()

    def abort(self) -> None:
        self._closed = True
        self._back.end()
