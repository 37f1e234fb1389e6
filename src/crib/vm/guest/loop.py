"""The agent's event loop: descriptors, children, times, and jobs that wait for them.

A job is a generator. It yields a `Later` and goes on with its value, so `ended = yield loop.child(pid)` waits
for an end without a thread. Nothing here takes a lock: there is one thread.
"""

from __future__ import annotations

import _signal
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, TypeAlias

    Job: TypeAlias = Generator["Later", Any, Any]

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
CHANGE = select.EPOLLPRI
MOST_STRAYS = 4096
"""Ends of children that nobody has asked for yet: their pids are learnt after they have ended."""


class Later:
    """A value that is not there yet, or an error for one."""

    __slots__ = ("_then", "error", "is_set", "value")

    def __init__(self) -> None:
        self.is_set = False
        self.value: Any = None
        self.error: Exception | None = None
        self._then: list[Callable[[Later], None]] = []

    def set(self, value: Any = None) -> None:
        """Here it is. Setting it again changes nothing."""
        if not self.is_set:
            self.is_set, self.value = True, value
            self._tell()

    def fail(self, error: Exception) -> None:
        """There will be none."""
        if not self.is_set:
            self.is_set, self.error = True, error
            self._tell()

    def then(self, callback: Callable[[Later], None]) -> None:
        """To be called when it is set; now if it is."""
        if self.is_set:
            callback(self)
        else:
            self._then.append(callback)

    def forget(self, callback: Callable[[Later], None]) -> None:
        """Not to be called any more. Safe to repeat."""
        if callback in self._then:
            self._then.remove(callback)

    def _tell(self) -> None:
        waiting, self._then = self._then, []
        for callback in waiting:
            callback(self)


def either(one: Later, other: Later | None) -> Later:
    """Set when one of them is; nothing of it stays with the one that is not."""
    if other is None:
        return one
    first = Later()

    def over(_: Later) -> None:
        one.forget(over)
        other.forget(over)
        first.set()

    one.then(over)
    other.then(over)
    return first


class Loop:
    """One of them, with the process's children."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, Later]] = []
        self._children: dict[int, Later] = {}
        self._strays: dict[int, tuple[int, int]] = {}
        self._woken, waking = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        _signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        self.watch(self._woken, READ, self._wake)
        self.is_over = False

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        """Call back whenever one of these events has happened, with what has."""
        if descriptor in self._watched:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
        self._watched[descriptor] = callback

    def unwatch(self, descriptor: int) -> None:
        """No more. Safe to repeat; before the descriptor is closed."""
        if self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def after(self, seconds: float) -> Later:
        """Set in so many seconds."""
        later = Later()
        self._timers.append((time.monotonic() + seconds, later))
        return later

    def child(self, pid: int) -> Later:
        """Set when this child has ended: with its exit status, 128 and the signal if one ended it, and when.

        The time is in nanoseconds since 1970.
        """
        if (known := self._strays.pop(pid, None)) is not None:
            later = Later()
            later.set(known)
            return later
        return self._children.setdefault(pid, Later())

    def start(self, job: Job) -> Later:
        """Run a job to its first wait, and on from there as it can. What it returns is set, or its error."""
        done = Later()
        self._step(job, done, None)
        return done

    def run(self) -> None:
        """Until `is_over`."""
        while not self.is_over:
            self.turn(None)

    def turn(self, limit: float | None) -> None:
        """Wait for something, at most `limit` seconds, and do what follows from it."""
        due = min((at for at, _ in self._timers), default=None)
        if due is not None:
            left = max(0.0, due - time.monotonic())
            limit = left if limit is None else min(limit, left)
        for descriptor, events in self._epoll.poll(limit):
            if (callback := self._watched.get(descriptor)) is not None:
                callback(events)
        if due is not None and due <= (now := time.monotonic()):
            over = [later for at, later in self._timers if at <= now]
            self._timers = [(at, later) for at, later in self._timers if at > now]
            for later in over:
                later.set()

    def _step(self, job: Job, done: Later, came: Later | None) -> None:
        while True:
            try:
                if came is None:
                    waits = next(job)
                elif came.error is not None:
                    waits = job.throw(came.error)
                else:
                    waits = job.send(came.value)
            except StopIteration as end:
                done.set(end.value)
                return
            except Exception as error:
                done.fail(error)
                return
            if not waits.is_set:
                waits.then(lambda later: self._step(job, done, later))
                return
            came = waits

    def _wake(self, _events: int) -> None:
        while True:
            try:
                if len(os.read(self._woken, 4096)) < 4096:
                    break
            except BlockingIOError:
                break
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            ended = (_exit_status(status), time.time_ns())
            if (later := self._children.pop(pid, None)) is not None:
                later.set(ended)
            else:
                self._strays[pid] = ended
                if len(self._strays) > MOST_STRAYS:
                    del self._strays[next(iter(self._strays))]


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
