"""The two ends of a stream: the client's, and that of what runs in a container; the pump is between them.

Made by the doors (streaming) and by the hands (backends), and seen by the verbs, as the seams in `ports` are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from crib.model.streams import TerminalSize


class ByteSource(Protocol):
    """Bytes that come."""

    async def read(self) -> bytes:
        """Some of them, as many as there are now (within bounds); empty at the end, for good."""
        ...


class ByteSink(Protocol):
    """Bytes that go."""

    async def write(self, data: bytes) -> None:
        """Returns when more may be written. ConnectionError when nobody reads them any more."""
        ...

    async def close(self) -> None:
        """No more comes: the other side reads an end. Safe to repeat."""
        ...


class ByteStream(ByteSource, ByteSink, Protocol):
    """Both, as of a connection; `close` closes our half only."""

    def abort(self) -> None:
        """Let go of both halves at once. Safe to repeat."""
        ...


class TerminalStreams(Protocol):
    """The client's end of an exec or attach. What was not asked for is None."""

    @property
    def stdin(self) -> ByteSource | None: ...

    @property
    def stdout(self) -> ByteSink | None: ...

    @property
    def stderr(self) -> ByteSink | None: ...

    def resizes(self) -> AsyncIterator[TerminalSize]:
        """Sizes of the client's terminal, the newest two where the reader is late; ends with the client."""
        ...

    async def gone(self) -> None:
        """Returns when the client has gone away."""
        ...


class Session(Protocol):
    """The container's end of an exec or attach. What was not asked for is None."""

    @property
    def stdin(self) -> ByteSink | None: ...

    @property
    def stdout(self) -> ByteSource | None:
        """Ends after all the command's output; for what it left in the background it waits a moment only."""
        ...

    @property
    def stderr(self) -> ByteSource | None: ...

    def resize(self, size: TerminalSize) -> None:
        """Tell the terminal its size; nothing without a terminal."""
        ...

    async def wait(self) -> int:
        """The exit code of the command, or of the container one is attached to (128+n after signal n)."""
        ...

    async def kill(self) -> None:
        """End the command (with all that it started, if it is contained); an attached container goes on."""
        ...

    async def close(self) -> None:
        """Let go of everything that the session holds, whatever still runs. Safe to repeat."""
        ...
