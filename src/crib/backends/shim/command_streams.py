"""Our ends of the streams of a command: fifos, also behind a terminal, which the shim has."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from crib.backends.shim.fifo_ends import FifoSource, make_fifos, open_input, remove_fifos
from crib.backends.shim.nouns import Stdio
from crib.backends.streams.attach_sessions import LatestSizes
from crib.backends.streams.exec_sessions import drop
from crib.host.streams import Sink
from crib.model.errors import CribError
from crib.model.streams import ExecProcess, TerminalSize
from crib.tasks.keeper import HANDS


class CommandInput:
    """See ends.ByteSink. A terminal has no end of input: the shim hangs up when the fifo ends."""

    def __init__(self, fd: int, *, terminal: bool, ended: Callable[[], None]) -> None:
        self.fd = fd
        self._sink = Sink(fd)
        self._terminal = terminal
        self._ended = ended
        self._takes = True

    async def write(self, data: bytes) -> None:
        if not self._takes:
            raise BrokenPipeError("it is closed")
        await self._sink.write(data)

    async def close(self) -> None:
        self._takes = False
        if not self._terminal:
            self.end()

    def end(self) -> None:
        """The command reads an end, or its terminal hangs up. Safe to repeat."""
        self._takes = False
        ended, self._ended = self._ended, lambda: None
        self._sink.release()
        ended()

    def release(self) -> None:
        """There is no command to read it any more."""
        self._ended = lambda: None
        self.end()


class FifoStreams:
    """See CommandStreams. Also what was not asked for: a command may not get the host's /dev/null, which some
    runtimes give to its user.
    """

    def __init__(
        self,
        wanted: ExecProcess,
        stdio: Stdio,
        close_io: Callable[[], Awaitable[None]],
        resize: Callable[[TerminalSize], Awaitable[None]],
    ) -> None:
        self._wanted = wanted
        self._stdio = stdio
        self._close_io = close_io
        self._sizes = LatestSizes("", resize)
        self._left_over: list[FifoSource] = []
        self._has_ended = False
        self.stdout: FifoSource | None = None
        self.stderr: FifoSource | None = None
        make_fifos(stdio)
        self.stdin = CommandInput(open_input(stdio.stdin), terminal=stdio.terminal, ended=self._end_input)
        try:
            self.stdout = FifoSource.open(stdio.stdout)
            self.stderr = FifoSource.open(stdio.stderr) if stdio.stderr else None
        except BaseException:
            self.end()
            self.close()
            raise

    def resize(self, size: TerminalSize) -> None:
        if self._stdio.terminal and not self._has_ended:
            self._sizes.put(size)

    def end(self) -> None:
        """The command has ended: what it has written is still to be read. Safe to repeat."""
        self._has_ended = True
        self.stdin.release()
        for source in (self.stdout, self.stderr, *self._left_over):
            if source is not None:
                source.end()
        remove_fifos(self._stdio)

    def close(self) -> None:
        """A command that goes on never waits for want of a reader; its terminal hangs up."""
        if not self._has_ended:
            self.stdin.end()
        for source, asked in ((self.stdout, self._wanted.stdout), (self.stderr, self._wanted.stderr)):
            if source is None:
                continue
            if self._has_ended:
                source.close()
            elif asked and (other := source.go_on()) is not None:
                self._left_over.append(other)
                HANDS.part("output that nobody wants any more", drop(other))

    def _end_input(self) -> None:
        HANDS.part("end of an input", self._tell_end())

    async def _tell_end(self) -> None:
        with contextlib.suppress(CribError):  # the command has ended
            await self._close_io()
