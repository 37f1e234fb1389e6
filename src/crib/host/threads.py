"""Blocking work, off the event loop: by class, bounded, and visible while it waits.

A thread that waits for the kernel cannot be stopped. So each class of work has its own threads, and each
piece of work has a limit after which its caller continues without it. A thread that does not return soon no
longer counts as one of its class. So a path that hangs affects only its callers. No thread keeps the daemon
from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import functools
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

LIMIT = 30.0
"""Seconds that work may take where its job says nothing else."""
MAX_HANGING = 256
"""Threads of one class, beyond its size, that may hang. More work is refused until some have ended."""
MAX_HANGING_OF_ONE = 4
"""The same for one owner: repeated work on something that hangs is refused at once."""
HANGING = 5.0
"""Seconds from which on a thread is taken to hang, also within its limit."""
PATIENCE = 0.25
"""Seconds after which a thread no longer counts among those of its class, so that others wait no longer."""
LAST_SECONDS = 1.0
"""For each piece of work of a daemon that ends, when the time for all of it is over."""
IDLE = 20.0
"""Seconds after which a thread without work ends."""


class Overdue(TimeoutError):
    """The work did not end within its limit, found no thread in that time, or too much hangs already."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.ETIMEDOUT, text)  # `strerror` is what most callers show of an OSError

    def __str__(self) -> str:
        return str(self.strerror)


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Job:
    """What a thread is asked to do, as a person will read it while it waits."""

    what: str
    """With its object: `reading the log /var/log/pods/…/0.log`."""
    owner: str = ""
    """Id of the pod, container or layer that it is for; without one the path that may hang."""
    limit: float = LIMIT
    """Seconds, the wait for a thread included."""
    stop: Callable[[], None] = _nothing
    """Called when the caller is cancelled or the work overdue: long work looks for that now and then."""
    late: Callable[[], None] = _nothing
    """Called on the loop when work that was overdue has ended after all: what it left may need clearing."""
    spends_thread: bool = False
    """Its thread ends with it, because it enters a namespace or changes the thread permanently otherwise."""


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
    """One job on its way. `begun` and `given_up` change under the lock, the rest belongs to the loop."""

    job: Job
    work: Callable[[], T]
    done: asyncio.Future[T]
    """Its caller awaits this, and cancels it."""
    asked: float = field(default_factory=time.monotonic)
    begun: float = 0.0
    given_up: bool = False
    """No caller waits for it any more."""
    has_ended: bool = False
    """The loop has heard of its end."""
    timer: asyncio.TimerHandle | None = None

    def lasts(self, now: float) -> float:
        return now - self.begun


class _Idle:
    """A thread without work. It is woken alone, by its own lock: a condition costs more and wakes any."""

    __slots__ = ("piece", "wake")

    def __init__(self) -> None:
        self.piece: _Piece[Any] | None = None
        self.wake = threading.Lock()
        self.wake.acquire()


class Threads:
    """The threads of one class. They are started when there is work, and end when there is none.

    Work goes to the thread that was busy last, so those that are too many stay idle and end.
    """

    def __init__(
        self, kind: str, size: int, *, hanging: int = MAX_HANGING, patience: float = PATIENCE
    ) -> None:
        """`size` threads, plus up to `hanging` that have been busy for longer than `patience`."""
        self.kind = kind
        self._size = size
        self._most_hanging = hanging
        self._patience = patience
        self._lock = threading.Lock()
        self._queue: deque[_Piece[Any]] = deque()
        """Empty while a thread is idle."""
        self._working: set[_Piece[Any]] = set()
        self._threads = 0
        self._idle: list[_Idle] = []
        self._last: tuple[asyncio.AbstractEventLoop, float] | None = None

    async def run(self, job: Job | str, work: Callable[..., T], *args: object) -> T:
        """What `work` returns or raises. Overdue after its limit, when the thread may still be running.

        A cancelled caller waits for work that has begun, up to the limit: clean-up must not run at the same
        time.
        """
        job = Job(job) if isinstance(job, str) else job
        self._refuse_if_stuck(job)
        loop = asyncio.get_running_loop()
        body = functools.partial(contextvars.copy_context().run, work, *args)
        piece: _Piece[T] = _Piece(job, body, loop.create_future())
        at = min(loop.time() + job.limit, max(self._end_of(loop), loop.time() + LAST_SECONDS))
        piece.timer = loop.call_at(at, self._give_up, piece)
        try:
            self._hand_over(piece)
            return await piece.done
        except asyncio.CancelledError:
            if not self._withdrawn(piece):
                job.stop()
                await _until_done(piece)
            raise
        finally:
            piece.timer.cancel()

    def waiting(self) -> list[Waiting]:
        """Everything under way, the oldest first."""
        now = time.monotonic()
        with self._lock:
            pieces = [*self._working, *self._queue]
        return [
            Waiting(self.kind, piece.job.what, piece.job.owner, now - piece.asked, piece.given_up)
            for piece in sorted(pieces, key=lambda piece: piece.asked)
        ]

    def end_within(self, seconds: float) -> None:
        """The loop is about to end: no work has a later limit from now on; after it, LAST_SECONDS."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        self._last = loop, at
        with self._lock:
            pieces = [*self._working, *self._queue]
        for piece in pieces:
            if piece.timer is not None and piece.done.get_loop() is loop and piece.timer.when() > at:
                piece.timer.cancel()
                piece.timer = loop.call_at(at, self._give_up, piece)

    def _end_of(self, loop: asyncio.AbstractEventLoop) -> float:
        return self._last[1] if self._last is not None and self._last[0] is loop else math.inf

    def _refuse_if_stuck(self, job: Job) -> None:
        if len(self._working) < min(MAX_HANGING_OF_ONE, self._most_hanging):
            return
        now = time.monotonic()
        with self._lock:
            stuck = [one for one in self._working if one.given_up or one.lasts(now) > HANGING]
        own = [one for one in stuck if job.owner and one.job.owner == job.owner]
        if len(own) >= MAX_HANGING_OF_ONE or len(stuck) >= self._most_hanging:
            among = own or stuck
            first = min(among, key=lambda one: one.begun)
            raise Overdue(
                f"{job.what}: not tried, as {len(among)} threads hang in such work, "
                f"the first for {first.lasts(now):.0f} s in {first.job.what}"
            )

    def _hand_over(self, piece: _Piece[Any]) -> None:
        with self._lock:
            if self._idle:
                thread = self._idle.pop()
                thread.piece = self._begun(piece)
                thread.wake.release()
                return
            self._queue.append(piece)
        if self._have_a_thread():
            return
        if not self._threads and self._withdrawn(piece):
            raise Overdue(f"{piece.job.what}: not tried, as the system gives us no more threads")
        self._look_again(piece.done.get_loop())

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until this work, or other work that came before, has got a thread."""

        def look() -> None:
            if not self._have_a_thread():
                self._look_again(loop)

        loop.call_later(self._patience, look)

    def _have_a_thread(self) -> bool:
        """Start one if work waits and they may be more; False where work waits all the same."""
        with self._lock:
            if not self._queue:
                return True
            if self._counted() >= self._size or self._threads >= self._size + self._most_hanging:
                return False
            self._threads += 1
        try:
            threading.Thread(target=self._serve, name=f"crib-{self.kind}", daemon=True).start()
        except RuntimeError:  # pids.max, or no memory
            with self._lock:
                self._threads -= 1
            return False
        return True

    def _counted(self) -> int:
        """Threads, without those that are at the same work for long."""
        if self._threads < self._size:
            return self._threads
        now = time.monotonic()
        return self._threads - sum(one.given_up or one.lasts(now) >= self._patience for one in self._working)

    def _give_up(self, piece: _Piece[Any]) -> None:
        with self._lock:
            if piece.begun:
                if piece not in self._working:  # it has ended, and the loop is about to hear of that
                    return
                piece.given_up = True
            else:
                self._queue.remove(piece)
        limit, text = piece.job.limit, f"{piece.job.what}: "
        if self._end_of(piece.done.get_loop()) < math.inf:
            text += "given up, as the daemon ends"
        elif piece.begun:
            text += f"takes more than {limit:g} s, and is abandoned"
        else:
            text += f"no thread was free for {limit:g} s: all {self._size} wait for such work"
        if not piece.done.done():  # else its caller was cancelled just now
            piece.done.set_exception(Overdue(text))
        if piece.begun:
            self._have_a_thread()
            piece.job.stop()

    def _withdrawn(self, piece: _Piece[Any]) -> bool:
        """Take the work back, unless it has begun."""
        with self._lock:
            if not piece.begun and piece in self._queue:
                self._queue.remove(piece)
            return not piece.begun

    def _serve(self) -> None:
        me = _Idle()
        while (piece := self._next(me)) is not None:
            self._do(piece)
            if piece.job.spends_thread:
                with self._lock:
                    self._threads -= 1
                with contextlib.suppress(RuntimeError):  # the loop was closed
                    # Not from here: a thread begins in the namespaces of the one that starts it.
                    piece.done.get_loop().call_soon_threadsafe(self._have_a_thread)
                return
            del piece  # or it lives as long as this thread waits for the next one

    def _next(self, me: _Idle) -> _Piece[Any] | None:
        """Work to do; None when this thread is one too many."""
        with self._lock:
            if self._counted() > self._size:
                self._threads -= 1
                return None
            if self._queue:
                return self._begun(self._queue.popleft())
            self._idle.append(me)
        if not me.wake.acquire(timeout=IDLE):
            with self._lock:
                if me in self._idle:
                    self._idle.remove(me)
                    self._threads -= 1
                    return None
            me.wake.acquire()  # work came at the last moment
        piece, me.piece = me.piece, None
        return piece

    def _begun(self, piece: _Piece[Any]) -> _Piece[Any]:
        piece.begun = time.monotonic()
        self._working.add(piece)
        return piece

    def _do(self, piece: _Piece[Any]) -> None:
        result, error = _outcome(piece)
        with self._lock:
            self._working.discard(piece)
        with contextlib.suppress(RuntimeError):  # the loop was closed: no caller is waiting
            piece.done.get_loop().call_soon_threadsafe(_end, piece, result, error)


def _outcome(piece: _Piece[T]) -> tuple[T | None, BaseException | None]:
    """What work returned, or raised: that is handed to the caller, whatever it is."""
    what, work = piece.job.what, piece.work
    del piece  # an error's traceback has this frame, and the frame would have the error's future
    try:
        return work(), None
    except StopIteration as error:  # no future takes it
        return None, RuntimeError(f"{what}: {error!r}")
    except BaseException as error:
        return None, error


def _end(piece: _Piece[T], result: T, error: BaseException | None) -> None:
    piece.has_ended = True
    if not piece.done.done():
        if error is None:
            piece.done.set_result(result)
        else:
            piece.done.set_exception(error)
    if piece.given_up:
        piece.job.late()


async def _until_done(piece: _Piece[Any]) -> None:
    """However often the caller is cancelled: a thread cannot be stopped, and its limit ends this."""
    if piece.done.cancelled() and not (piece.has_ended or piece.given_up):
        piece.done = asyncio.get_running_loop().create_future()
    while not piece.done.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([piece.done])
    if not piece.done.cancelled():
        piece.done.exception()  # retrieved, or the loop would log it as lost


OURS = Threads("ours", 16)
"""Our own data and state directories, netlink, our cgroups: what hangs only if the machine does."""
FOREIGN = Threads("foreign", 16)
"""Where pods and administrators may have put another file system: host paths, volumes, logs, roots."""
PROGRAMS = Threads("programs", 8)
"""Programs that others installed, looked at before they are started: executing them waits for their files."""
RECORDS = Threads("records", 4)
"""The databases: one writer each, which must not wait for other disks."""
CLASSES = (OURS, FOREIGN, PROGRAMS, RECORDS)


def waiting() -> list[Waiting]:
    """What threads of all classes are at."""
    return [wait for threads in CLASSES for wait in threads.waiting()]


def end_within(seconds: float) -> None:
    """See `Threads.end_within`."""
    for threads in CLASSES:
        threads.end_within(seconds)
