"""Our ends of the streams of a command, on the connection that the Engine has turned into them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from crib.backends.docker.hijacked import Hijacked
from crib.backends.streams.attach_sessions import LatestSizes
from crib.model.streams import TerminalSize
from crib.tunnel.inbox import Inbox

LAST_WORDS = 1.0
"""Seconds after a command's end in which its output must have come. What it left behind and that holds its
output is heard for as long: nothing tells the one from the other."""


class PipedInput:
    """See ends.ByteSink. A terminal has no end of input: it hangs up when the session is closed."""

    def __init__(self, pipe: Hijacked, *, terminal: bool) -> None:
        self._pipe = pipe
        self._terminal = terminal
        self._takes = True

    async def write(self, data: bytes) -> None:
        if not self._takes:
            raise BrokenPipeError("it is closed")
        await self._pipe.write(data)

    async def close(self) -> None:
        self._takes = False
        if not self._terminal:
            self._pipe.end_input()

    def release(self) -> None:
        """There is no command to read it any more."""
        self._takes = False


class PipedOutput:
    """See ends.ByteSource. What is not read holds up the Engine, not the daemon."""

    def __init__(self, pipe: Hijacked) -> None:
        self._pipe = pipe
        self.inbox = Inbox()

    async def read(self) -> bytes:
        data = await self.inbox.read()
        self._pipe.give(len(data))
        return data

    def drop(self) -> None:
        """Nobody reads any more."""
        self._pipe.give(self.inbox.size)
        self.inbox.discard()


class PipedStreams:
    """See exec_sessions.CommandStreams."""

    def __init__(self, pipe: Hijacked, sizes: LatestSizes, *, terminal: bool, stdin: bool) -> None:
        self._pipe = pipe
        self._sizes = sizes
        self._terminal = terminal
        self._has_ended = False
        self._closing: asyncio.TimerHandle | None = None
        self.hang_up: Callable[[], None] = lambda: None
        """Called when the client goes while the command still runs."""
        self.stdin = PipedInput(pipe, terminal=terminal) if stdin else None
        self.stdout = PipedOutput(pipe)
        self.stderr = None if terminal else PipedOutput(pipe)
        pipe.begin(self._take)

    def resize(self, size: TerminalSize) -> None:
        if self._terminal and not self._has_ended:
            self._sizes.put(size)

    def end_output(self) -> None:
        """The Engine has closed it: no more comes."""
        for source in self._outputs():
            source.inbox.end()

    def end(self) -> None:
        """The command has ended: what it has written is still to be read. Safe to repeat."""
        self._has_ended = True
        if self.stdin is not None:
            self.stdin.release()
        if self._closing is None and not self._pipe.ended.is_set():
            self._closing = asyncio.get_running_loop().call_later(LAST_WORDS, self._finish)

    def close(self) -> None:
        """A command that goes on never waits for want of a reader: the Engine drops what it writes then."""
        if not self._has_ended:
            self.hang_up()
        for source in self._outputs():
            source.drop()
        self._finish()

    def words(self) -> bytes:
        """What has come, where it was said by the Engine of a command that did not begin."""
        return b"".join(piece for source in self._outputs() for piece in source.inbox._pieces)

    def _finish(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._pipe.close()
        self.end_output()

    def _take(self, stream: str, data: bytes) -> None:
        source = self.stderr if stream == "stderr" else self.stdout
        if source is None or source.inbox.has_ended:
            self._pipe.give(len(data))
        else:
            source.inbox.feed(data)

    def _outputs(self) -> list[PipedOutput]:
        return [self.stdout] if self.stderr is None else [self.stdout, self.stderr]
