"""A thread that does one kind of work on a bounded queue, in order, beside the thread that feeds it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_DEPTH = 4


class StageThread:
    """Calls what it is given, one after the other, in a thread of its own; leaving the block ends the thread.

    The first error of a call is raised by the next ``put`` or by ``finish``; later calls are then dropped.
    """

    def __init__(self, name: str) -> None:
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue(_DEPTH)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._running = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._running = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._error is None:
            # Whatever still waits is not worth doing.
            self._error = error
        self._end()

    def put(self, call: Callable[[bytes], object], data: bytes) -> None:
        """Have ``call(data)`` done; waits while the queue is full."""
        if self._error is not None:
            raise self._error
        self._queue.put(lambda: call(data))

    def finish(self) -> None:
        """Wait until everything is done."""
        self._end()
        if self._error is not None:
            raise self._error

    def _end(self) -> None:
        if self._running:
            self._running = False
            self._queue.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            if self._error is None:
                try:
                    call()
                except BaseException as error:
                    self._error = error
