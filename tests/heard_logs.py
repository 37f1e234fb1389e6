"""Waits for a line of the log: the only word that some things give of their end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

BOUND = 30.0


class _Words(logging.Handler):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.news = asyncio.Event()
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._loop.call_soon_threadsafe(self.news.set)


@contextlib.asynccontextmanager
async def heard_logs(logger: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """A function that returns once a line of this logger, since the block began, has the text in it."""
    words, log = _Words(asyncio.get_running_loop()), logging.getLogger(logger)

    async def heard(text: str) -> None:
        async with asyncio.timeout(BOUND):
            while not any(text in line for line in words.lines):
                words.news.clear()
                await words.news.wait()

    log.addHandler(words)
    try:
        yield heard
    finally:
        log.removeHandler(words)
