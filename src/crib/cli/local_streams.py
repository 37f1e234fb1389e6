"""This program's standard streams, joined to those of a command in a container."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import threading
from typing import TYPE_CHECKING

from crib.cli.terminal import raw, sizes_sent, terminal_of
from crib.client.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from crib.cli.terminal import DetachKeys
    from crib.client.streams import Reader, Session, StreamOptions, Writer

READ_BYTES = 1 << 16
STDIN, STDOUT, STDERR = 0, 1, 2

Filter = tuple[bytes, bool]
"""The bytes to pass on, and whether to stop reading."""


async def read_input(descriptor: int = STDIN) -> bytes:
    """Wait for some bytes of an input; empty at its end. OSError."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(descriptor, _set, ready)
    except PermissionError:  # a file or /dev/null: always ready, and epoll refuses it
        return os.read(descriptor, READ_BYTES)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, READ_BYTES)


class Output:
    """Writes in a thread that is not awaited at the end: a reader that hangs must not hold up Ctrl-C."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._jobs: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._work, name=f"output {descriptor}", daemon=True).start()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.put(None)

    async def write(self, data: bytes) -> None:
        """Return when everything is written. OSError; BrokenPipeError if the reader has gone."""
        written: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put((data, written))
        await written

    def _work(self) -> None:
        while job := self._jobs.get():
            data, written = job
            error = self._written(data)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(_set, written, error)

    def _written(self, data: bytes) -> OSError | None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # another process made it non-blocking
                select.select((), (self._descriptor,), ())
            except OSError as error:
                return error
        return None


def _set(future: asyncio.Future[None], error: OSError | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


async def join(session: Session, options: StreamOptions, keys: DetachKeys | None = None) -> int | None:
    """Join the streams until the command has ended and its output is written; returns its exit code.

    With a terminal, keys and size go to the container's terminal unchanged. None if `keys` were typed.
    ClientError, OSError.
    """
    keyboard = terminal_of(STDIN) if options.tty and options.stdin else None
    screen = terminal_of(STDIN, STDOUT, STDERR) if options.tty else None
    with raw(keyboard):
        async with sizes_sent(session, screen):
            return await _carry(session, keys.receive if keys and keyboard is not None else None)


async def _carry(session: Session, sift: Callable[[bytes], Filter] | None) -> int | None:
    with Output(STDOUT) as out, Output(STDERR) as err:
        ending = [
            asyncio.ensure_future(_copy(session.stdout, out)),
            asyncio.ensure_future(_copy(session.stderr, err)),
            asyncio.ensure_future(session.wait()),
        ]
        feeding = asyncio.ensure_future(_feed(session.stdin, sift))
        ended = asyncio.gather(*ending)
        try:
            return await _first_of(ended, feeding)
        finally:
            for task in (*ending, feeding):
                task.cancel()
            await asyncio.gather(ended, *ending, feeding, return_exceptions=True)


async def _first_of(ended: asyncio.Future[list[int | None]], feeding: asyncio.Future[bool]) -> int | None:
    await asyncio.wait((ended, feeding), return_when=asyncio.FIRST_COMPLETED)
    if not ended.done() and feeding.result():
        return None
    return (await ended)[-1]


async def _copy(source: Reader | None, output: Output) -> None:
    if source is not None:
        async for data in source:
            await output.write(data)


async def _feed(stdin: Writer | None, sift: Callable[[bytes], Filter] | None) -> bool:
    """Send standard input to the command until its end. True if `sift` ended it."""
    if stdin is None:
        return False
    with contextlib.suppress(Unavailable):  # the command takes no more input; its outcome says why
        while data := await read_input():
            is_enough = False
            if sift is not None:
                data, is_enough = sift(data)
            await stdin.write(data)
            if is_enough:
                return True
        await stdin.close()
    return False
