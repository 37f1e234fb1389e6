"""Work that blocks, off the event loop: by class, bounded, and visible while it waits.

A thread that waits for the kernel cannot be stopped. So each class of work has threads of its own, each piece
of work a limit after which its caller goes on without it, and a thread that is overdue no longer counts among
those of its class: a path that hangs costs whoever asked for it, and nobody else. No thread keeps the daemon
from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

LIMIT = 30.0
"""Seconds that work may take where its job says nothing else."""
MAX_OVERDUE = 256
"""Threads of one class that may be overdue; more work is refused until some of them have ended."""
MAX_OVERDUE_OF_ONE = 4
"""And of one owner: who asks again and again for what hangs is refused at once."""
_IDLE = 20.0
"""Seconds after which a thread without work ends."""


class Overdue(TimeoutError):
    """The work did not end within its limit, found no thread in that time, or too much waits already."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Job:
    """What a thread is asked to do, as a person will read it while it waits."""

    what: str
    """With its object: `reading the log /var/log/pods/…/0.log`."""
    owner: str = ""
    """Id of the pod or container that it is for."""
    limit: float = LIMIT
    """Seconds, the wait for a thread included."""
    stop: Callable[[], None] = _nothing
    """Called when the caller is cancelled or the work overdue: long work looks for that now and then."""
    late: Callable[[], None] = _nothing
    """Called on the loop when work that was overdue has ended after all: what it left may need clearing."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Work that is under way."""

    kind: str
    what: str
    owner: str
    seconds: float
    overdue: bool


@dataclass(eq=False, slots=True)
class _Piece(Generic[T]):
    """One job on its way. The flags are read and written under the lock, the rest is the loop's."""

    job: Job
    work: Callable[[], T]
    done: asyncio.Future[T]
    asked: float = field(default_factory=time.monotonic)
    begun: bool = False
    ended: bool = False
    given_up: bool = False
    """Nobody waits any more: not begun it will not be, begun it is overdue."""


class Threads:
    """The threads of one class. They are started when there is work, and end when there is none."""

    def __init__(self, kind: str, size: int, *, overdue: int = MAX_OVERDUE) -> None:
        """`size` threads at most, besides up to `overdue` that nobody waits for any more."""
        self.kind = kind
        self._size = size
        self._most_overdue = overdue
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Piece[Any]] = queue.SimpleQueue()
        self._pieces: set[_Piece[Any]] = set()
        self._threads = self._idle = self._overdue = 0

    async def run(self, job: Job | str, work: Callable[..., T], *args: object) -> T:
        """What `work` returns or raises. Overdue when its limit is over; the thread may go on then.

        A cancelled caller waits for work that has begun, up to the limit: clean-up must not run beside it.
        """
        job = Job(job) if isinstance(job, str) else job
        self._refuse_if_stuck(job)
        loop = asyncio.get_running_loop()
        body = functools.partial(contextvars.copy_context().run, work, *args)
        piece = _Piece(job, body, loop.create_future())
        self._pieces.add(piece)
        self._queue.put(piece)
        self._have_a_thread()
        timer = loop.call_later(job.limit, self._give_up, piece)
        try:
            return await asyncio.shield(piece.done)
        except asyncio.CancelledError:
            if not self._withdrawn(piece):
                job.stop()
                await asyncio.wait([piece.done])
                if not piece.done.cancelled():
                    piece.done.exception()  # retrieved, or the loop would log it as lost
            raise
        finally:
            timer.cancel()

    def waiting(self) -> list[Waiting]:
        """Everything under way, the oldest first."""
        now = time.monotonic()
        return [
            Waiting(self.kind, piece.job.what, piece.job.owner, now - piece.asked, piece.given_up)
            for piece in sorted(self._pieces, key=lambda piece: piece.asked)
        ]

    def _refuse_if_stuck(self, job: Job) -> None:
        if not self._overdue:
            return
        stuck = [wait for wait in self.waiting() if wait.overdue]
        own = [wait for wait in stuck if job.owner and wait.owner == job.owner]
        if len(own) >= MAX_OVERDUE_OF_ONE or len(stuck) >= self._most_overdue:
            first = (own or stuck)[0]
            raise Overdue(
                f"{job.what}: not tried, as {len(own) or len(stuck)} threads hang in such work, "
                f"the first for {first.seconds:.0f} s in {first.what}"
            )

    def _have_a_thread(self) -> None:
        with self._lock:
            if self._idle >= self._queue.qsize() or self._threads - self._overdue >= self._size:
                return
            self._threads += 1
        threading.Thread(target=self._serve, name=f"crib-{self.kind}", daemon=True).start()

    def _give_up(self, piece: _Piece[Any]) -> None:
        with self._lock:
            if piece.ended or piece.done.done():
                return
            piece.given_up = True
            begun = piece.begun
            self._overdue += begun
        limit, what = piece.job.limit, piece.job.what
        if begun:
            piece.job.stop()
            self._have_a_thread()
            piece.done.set_exception(Overdue(f"{what}: takes more than {limit:g} s, and is left to itself"))
        else:
            self._pieces.discard(piece)
            text = f"{what}: no thread was free for {limit:g} s: all {self._size} wait for such work"
            piece.done.set_exception(Overdue(text))

    def _withdrawn(self, piece: _Piece[Any]) -> bool:
        """Whether the work is not to begin any more."""
        with self._lock:
            if piece.begun:
                return False
            piece.given_up = True
        self._pieces.discard(piece)
        return True

    def _serve(self) -> None:
        while True:
            with self._lock:
                if self._threads - self._overdue > self._size:
                    self._threads -= 1
                    return
                self._idle += 1
            try:
                piece = self._queue.get(timeout=_IDLE)
            except queue.Empty:
                piece = None
            with self._lock:
                self._idle -= 1
                if piece is None:
                    if not self._queue.empty():
                        continue
                    self._threads -= 1
                    return
                piece.begun = not piece.given_up
            if piece.begun:
                self._do(piece)
            del piece

    def _do(self, piece: _Piece[Any]) -> None:
        tell: Callable[[], None]
        try:
            tell = functools.partial(piece.done.set_result, piece.work())
        except BaseException as error:  # handed to the caller, whatever it is
            tell = functools.partial(piece.done.set_exception, error)
        with self._lock:
            piece.ended = True
            late = piece.given_up
            self._overdue -= late
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is waiting
            piece.done.get_loop().call_soon_threadsafe(self._end, piece, tell, late)

    def _end(self, piece: _Piece[Any], tell: Callable[[], None], late: bool) -> None:
        self._pieces.discard(piece)
        if not piece.done.done():
            tell()
        if late:
            piece.job.late()


OURS = Threads("ours", 16)
"""Our own data and state directories, netlink, our cgroups: what hangs only if the machine does."""
FOREIGN = Threads("foreign", 16)
"""Where pods and administrators may have put another file system: host paths, volumes, logs, roots."""
PROGRAMS = Threads("programs", 8)
"""What another program must answer, where its library offers no other way than to wait."""
RECORDS = Threads("records", 4)
"""The databases: one writer each, which must wait for nobody else's disk."""
CLASSES = (OURS, FOREIGN, PROGRAMS, RECORDS)


def waiting() -> Iterable[Waiting]:
    """What threads of all classes are at."""
    return (wait for threads in CLASSES for wait in threads.waiting())


async def run_to_end(work: Callable[..., T], *args: object, stop: Callable[[], None] = lambda: None) -> T:
    """Run `work` in a thread. A cancelled caller calls `stop` and then waits: a thread cannot be stopped.

    Where `asyncio.to_thread` would return at once, the clean-up that follows would run beside the work.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([running])
        raise


def on_own_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that ends with it, and wait here; for work that changes its thread for good."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=body, name="own", daemon=True)
    thread.start()
    thread.join()
    if errors:
        try:
            raise errors[0]
        finally:
            errors.clear()  # or the traceback and this frame keep each other alive
    return results[0]


async def on_own_thread_async(work: Callable[[], T]) -> T:
    """`on_own_thread` without holding up the loop; when cancelled it still waits for the thread to end."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def body() -> None:
        tell: Callable[[], None]
        try:
            tell = functools.partial(outcome.set_result, work())
        except BaseException as error:  # handed to the caller, whatever it is
            tell = functools.partial(outcome.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is waiting
            loop.call_soon_threadsafe(tell)

    threading.Thread(target=body, name="own", daemon=True).start()
    cancelled: asyncio.CancelledError | None = None
    while not outcome.done():
        try:
            await asyncio.shield(outcome)
        except asyncio.CancelledError as error:
            # The thread cannot be stopped, and must not act after its caller has cleaned up.
            cancelled = error
        except BaseException:
            break
    if cancelled is not None:
        outcome.exception()  # retrieved, or the loop would log it as lost
        raise cancelled
    return outcome.result()
