"""The container's end of an exec: pipes or a terminal, and what is done with the command behind them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from crib.host.null_device import open_own_null
from crib.host.streams import Sink, Source, make_pipe
from crib.host.terminals import ConsoleSocket, TerminalSource, begin_lines_anew
from crib.model.streams import ExecProcess, TerminalSize

ChildEnds = tuple[int | None, int | None, int | None]
"""Standard input, output and error of what is started; None is /dev/null."""


@dataclass(frozen=True, slots=True)
class CommandEnds:
    """Our ends."""

    stdin: Sink | None = None
    stdout: Source | None = None
    stderr: Source | None = None

    def end(self) -> None:
        """The command has ended: what it has written is still to be read, and it reads nothing any more."""
        if self.stdin is not None:
            self.stdin.release()
        for source in (self.stdout, self.stderr):
            if source is not None:
                source.end()

    def resize(self, size: TerminalSize) -> None:
        """See CommandStreams."""
        if isinstance(self.stdout, TerminalSource):
            self.stdout.resize(size.width, size.height)

    def close(self) -> None:
        """See CommandStreams."""
        if self.stdin is not None:
            self.stdin.release()
        for source in (self.stdout, self.stderr):
            if source is not None:
                source.close()


class Pipes:
    """The streams of a command without a terminal: pipes straight to it.

    Also for what was not asked for: no process of a container may get the host's /dev/null, of which crun
    makes its user the owner (host/null_device).
    """

    def __init__(self, wanted: ExecProcess) -> None:
        self._child: list[int] = []
        self._streams = CommandEnds()
        try:
            child, own = make_pipe()
            self._child.append(child)
            stdin = Sink(own)
            self._streams = CommandEnds(stdin)
            if not wanted.stdin:
                stdin.release()
            own, child = make_pipe()
            self._child.append(child)
            stdout = Source(own)
            self._streams = CommandEnds(stdin, stdout)
            own, child = make_pipe()
            self._child.append(child)
            self._streams = CommandEnds(stdin, stdout, Source(own))
        except BaseException:
            self.close()
            raise

    @property
    def child_ends(self) -> ChildEnds:
        stdin, stdout, stderr = self._child
        return stdin, stdout, stderr

    def started(self) -> None:
        """The command has its ends: ours are closed, or we would never read an end."""
        while self._child:
            os.close(self._child.pop())

    def connect(self) -> CommandEnds:
        """Our ends, which belong to the caller from now on."""
        streams, self._streams = self._streams, CommandEnds()
        return streams

    def close(self) -> None:
        """Close what nobody took. Safe to repeat."""
        self.started()
        self._streams.close()


class NoStreams:
    """The streams of a command that nobody hears of: a null device of its own, which stays when we go."""

    def __init__(self) -> None:
        self._null = open_own_null()
        self.child_ends: ChildEnds = (self._null, self._null, self._null)

    def started(self) -> None:
        """The command has it."""
        if self._null >= 0:
            os.close(self._null)
            self._null = -1

    def connect(self) -> CommandEnds:
        """There are none."""
        return CommandEnds()

    def close(self) -> None:
        """Safe to repeat."""
        self.started()


class Console:
    """The streams of a command with a terminal, which the runtime makes in the container and sends to us."""

    child_ends: ChildEnds = (None, None, None)

    def __init__(self, wanted: ExecProcess, path: str) -> None:
        self._wanted = wanted
        self._socket = ConsoleSocket(path)

    def started(self) -> None:
        """Nothing: the runtime connects to the socket."""

    def connect(self) -> CommandEnds:
        """The terminal that the runtime, which has ended, has sent. OSError when it sent none."""
        terminal = self._socket.receive()
        begin_lines_anew(terminal)
        # Two descriptors: the end of the input is no end for the command, which is hung up with the last.
        stdin = Sink(os.dup(terminal)) if self._wanted.stdin else None
        return CommandEnds(stdin, TerminalSource(terminal))

    def close(self) -> None:
        """Safe to repeat."""
        self._socket.close()
