"""The other face of something asynchronous: functions that block until it is done, with the same signatures.

The work is done in one event loop for all of the program's blocking faces, which has a thread of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import os
import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from types import TracebackType

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Call = TypeVar("_Call")

AHEAD = 1024
"""Items that an iterator's source may be ahead of who takes them."""
INTERRUPT_SECONDS = 30.0
"""How long an interrupted call may take to clean up what it has begun."""


class BlockingFace:
    """What a face of methods made by `blocking` derives from."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        """What the methods are of; only the loop's thread may touch it."""


def blocking(
    method: Callable[Concatenate[Any, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[BlockingFace, _P], _T]:
    """A method that returns when the asynchronous one has."""

    def call(face: BlockingFace, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return run(method(face._inner, *args, **kwargs))

    return _presented(call, method)


def iterating(
    method: Callable[Concatenate[Any, _P], AsyncIterator[_T]],
) -> Callable[Concatenate[BlockingFace, _P], BlockingIterator[_T]]:
    """A method that gives what the asynchronous one does, item by item."""

    def call(face: BlockingFace, /, *args: _P.args, **kwargs: _P.kwargs) -> BlockingIterator[_T]:
        return BlockingIterator(functools.partial(method, face._inner, *args, **kwargs))

    return _presented(call, method)


def entering(
    method: Callable[Concatenate[Any, _P], contextlib.AbstractAsyncContextManager[_T]],
) -> Callable[Concatenate[BlockingFace, _P], contextlib.AbstractContextManager[_T]]:
    """A method whose context is entered by `with`."""

    @contextlib.contextmanager
    def call(face: BlockingFace, /, *args: _P.args, **kwargs: _P.kwargs) -> Iterator[_T]:
        context = method(face._inner, *args, **kwargs)
        entered = run(_enter(context))
        try:
            yield entered
        finally:
            run(_leave(context))

    return _presented(call, method)


class BlockingIterator(Generic[_T]):
    """Items of an asynchronous iterator. Leave it by its end, by `close`, or as a context manager."""

    def __init__(self, source: Callable[[], AsyncIterator[_T]]) -> None:
        self._ready: deque[_T] = deque()
        self._ahead: _Ahead[_T] = _Ahead()
        self._pump: asyncio.Task[None] | None = None
        self._source = source
        self._is_over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _T:
        if not self._ready and not self._is_over:
            self._ready.extend(run(self._take()))
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what it comes from. Safe to repeat."""
        run(self._end())

    def __del__(self) -> None:
        if self._pump is not None and not self._pump.done():
            self._pump.get_loop().call_soon_threadsafe(self._pump.cancel)

    async def _take(self) -> list[_T]:
        """All that is there, at least one; nothing at the end. Raises what the source raised, in the end."""
        if self._pump is None:
            self._pump = asyncio.ensure_future(self._ahead.fill(self._source))
        if not self._pump.done():
            await self._ahead.news.wait()
        taken = self._ahead.take()
        if not taken:
            self._is_over = True
            if not self._pump.cancelled():
                await self._pump
        return taken

    async def _end(self) -> None:
        self._is_over = True
        self._ready.clear()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait((self._pump,))


class _Ahead(Generic[_T]):
    """What came of a source and was not taken yet. An iterator that nobody has any more is not held by it."""

    def __init__(self) -> None:
        self._items: list[_T] = []
        self._room = asyncio.Event()
        self.news = asyncio.Event()
        """Something is there, or the source has ended."""

    async def fill(self, source: Callable[[], AsyncIterator[_T]]) -> None:
        try:
            async for item in source():
                self._items.append(item)
                self.news.set()
                if len(self._items) >= AHEAD:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self.news.set()

    def take(self) -> list[_T]:
        taken, self._items = self._items, []
        self.news.clear()
        self._room.set()
        return taken


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Do it in the loop's thread and wait for its end, in the deadline of the caller.

    An interrupt (Ctrl-C) cancels it, and waits a while for what it then cleans up.
    """
    loop = _thread.loop()
    if _thread.is_current():
        work.close()
        raise RuntimeError("a callback must not call the client that called it")
    job = _Job(work)
    loop.call_soon_threadsafe(job.start)  # in a copy of this thread's context, where its deadline is
    try:
        return job.outcome.result()
    except BaseException:
        if not job.outcome.done():
            loop.call_soon_threadsafe(job.cancel)
            with contextlib.suppress(Exception, concurrent.futures.CancelledError):
                job.outcome.result(INTERRUPT_SECONDS)
        raise


class _Job(Generic[_T]):
    """Work on its way through the loop. Methods are for the loop's thread."""

    def __init__(self, work: Coroutine[Any, Any, _T]) -> None:
        self.outcome: concurrent.futures.Future[_T] = concurrent.futures.Future()
        self._work = work
        self._task: asyncio.Task[_T] | None = None

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._work)
        self._task.add_done_callback(self._tell)

    def cancel(self) -> None:
        assert self._task is not None
        self._task.cancel()

    def _tell(self, task: asyncio.Task[_T]) -> None:
        if task.cancelled():
            self.outcome.set_exception(concurrent.futures.CancelledError())
        elif error := task.exception():
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())


class _LoopThread:
    """One for the process: gRPC polls for all loops of a process, and each more costs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; of a forked process a new one, as threads stay behind."""
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="crib.client", daemon=True
                )
                self._thread.start()
            return self._loop

    def is_current(self) -> bool:
        """Whether the caller is in the loop's thread."""
        return threading.current_thread() is self._thread


_thread = _LoopThread()


def _presented(call: _Call, method: Callable[..., Any]) -> _Call:
    """With the other's name, words and signature.

    functools.wraps would make it a coroutine function to whoever looks through it.
    """
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(call, name, getattr(method, name))
    call.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]  # as PEP 362 has it
    return call


async def _enter(context: contextlib.AbstractAsyncContextManager[_T]) -> _T:
    return await context.__aenter__()


async def _leave(context: contextlib.AbstractAsyncContextManager[Any]) -> None:
    await context.__aexit__(None, None, None)
