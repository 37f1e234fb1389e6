"""Attaching to a container: its output comes from one place, and each client gets a copy.

Output is kept for each session within a bound. A session whose client is slower than that ends with an error,
and nothing is left out of the middle. So a client always has the true beginning of what was written, by which
a file or an archive can be checked. A client that only looks can attach again, or read the log.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from crib.model.container import ContainerRecord
from crib.model.errors import Exhausted
from crib.model.streams import AttachRequest, TerminalSize
from crib.tasks.keeper import HANDS
from crib.tunnel.inbox import Inbox

SESSION_BYTES = 4 << 20
"""Output that waits for one client at most."""


class AttachPoint(Protocol):
    """Where all who are attached to one container meet."""

    @property
    def record(self) -> ContainerRecord: ...

    @property
    def what(self) -> str:
        """For errors: that somebody is attached to this container."""
        ...

    async def send(self, data: bytes) -> None:
        """To the container's input, one writer after another; ConnectionError when it takes no more."""
        ...

    def end_input(self) -> None:
        """The container reads an end, for good. Output still comes."""
        ...

    def resize(self, size: TerminalSize) -> None: ...

    async def exit_code(self) -> int:
        """Once the container has ended; Unavailable when nobody watched it any more by then."""
        ...

    def leave(self, session: AttachSession) -> None:
        """It gets no more. Safe to repeat."""
        ...


class LatestSizes:
    """Sizes of a terminal on their way: the newest two count, if they come faster than they are obeyed.

    kubectl sends one that is too large and then the right one, so that the program redraws its screen.
    """

    def __init__(self, owner: str, apply: Callable[[TerminalSize], Awaitable[None]]) -> None:
        self._owner = owner
        self._apply = apply
        self._sizes: deque[TerminalSize] = deque(maxlen=2)
        self._applying: asyncio.Task[None] | None = None

    def put(self, size: TerminalSize) -> None:
        """Returns at once."""
        self._sizes.append(size)
        if self._applying is None:
            self._applying = HANDS.part("terminal size", self._apply_all(), self._owner)

    async def _apply_all(self) -> None:
        try:
            while self._sizes:
                await self._apply(self._sizes.popleft())
        finally:
            self._applying = None


class AttachedInput:
    """The container's standard input. With `once` its end is the container's, and for good."""

    def __init__(self, hub: AttachPoint, *, once: bool) -> None:
        self._hub = hub
        self._once = once
        self._closed = False

    async def write(self, data: bytes) -> None:
        """See ports.ByteSink."""
        if self._closed:
            raise BrokenPipeError("it is closed")
        await self._hub.send(data)

    async def close(self) -> None:
        """See ports.ByteSink: an end is read only by a container with `stdin_once`."""
        if not self._closed:
            self._closed = True
            if self._once:
                self._hub.end_input()


class AttachSession:
    """See ports.Session, of a container's first process."""

    def __init__(self, hub: AttachPoint, wanted: AttachRequest) -> None:
        config = hub.record.config
        self.seen: Counter[str] = Counter()
        """Bytes of each stream that have come, wanted or not."""
        self._hub = hub
        self._input = AttachedInput(hub, once=config.stdin_once) if wanted.stdin and config.stdin else None
        self._inboxes = {
            stream: Inbox()
            for stream, asked in (("stdout", wanted.stdout), ("stderr", wanted.stderr and not config.tty))
            if asked
        }
        self._over = asyncio.Event()
        self._is_late = False

    @property
    def stdin(self) -> AttachedInput | None:
        return self._input

    @property
    def stdout(self) -> Inbox | None:
        return self._inboxes.get("stdout")

    @property
    def stderr(self) -> Inbox | None:
        return self._inboxes.get("stderr")

    def take(self, stream: str, data: bytes) -> None:
        """Output has come."""
        self.seen[stream] += len(data)
        inbox = self._inboxes.get(stream)
        if inbox is None or self._over.is_set():
            return
        if sum(one.size for one in self._inboxes.values()) + len(data) > SESSION_BYTES:
            self._is_late = True
            self.end()
        else:
            inbox.feed(data)

    def begin_with(self, output: dict[str, bytes]) -> None:
        """Output from before."""
        for stream, data in output.items():
            if stream in self._inboxes and data:
                self._inboxes[stream].push_back(data)

    def end(self) -> None:
        """No more output comes."""
        for inbox in self._inboxes.values():
            inbox.end()
        self._over.set()

    def resize(self, size: TerminalSize) -> None:
        if self._hub.record.config.tty:
            self._hub.resize(size)

    async def wait(self) -> int:
        """Exhausted when the client was too slow."""
        await self._over.wait()
        if self._is_late:
            limit = SESSION_BYTES >> 20
            raise Exhausted(
                f"{self._hub.what}: the client was {limit} MiB behind; the container's log has all"
            )
        return await self._hub.exit_code()

    async def kill(self) -> None:
        """Nothing: the container keeps running."""

    async def close(self) -> None:
        self.end()
        for inbox in self._inboxes.values():
            inbox.drop()
        if self._input is not None:
            await self._input.close()
        self._hub.leave(self)
