"""The daemon's end of the image worker: started with the first request, ended when idle, replaced when it
dies.

No request outlives its worker: when the worker goes away, those under way fail with Unavailable, and the
next one starts a new worker. Whoever uses what a worker says checks it first.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import socket
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import crib
from crib.backends.failures import why
from crib.backends.images.archives import open_file_of
from crib.backends.images.messages import (
    Cancel,
    Done,
    Failed,
    File,
    Import,
    NeedFile,
    Pull,
    Step,
    Taken,
    ToDaemon,
    WorkerChannel,
    daemon_decoder,
    raised,
)
from crib.backends.images.staging import Staging
from crib.backends.images.worker_log import WorkerLog
from crib.host import processes, seccomp
from crib.host.threads import OURS
from crib.model.errors import Broken, Unavailable
from crib.model.facts import WorkerFigures
from crib.model.ids import DIGEST_PATTERN, Digest
from crib.model.image import FetchedImage, Progress

_log = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
_END_SECONDS = 5.0
_LAYOUT_FILE = re.compile(
    rf"oci-layout|index\.json|manifest\.json|blobs/(?:{DIGEST_PATTERN.replace(':', '/')})"
)
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_KEPT_VARIABLES = frozenset(
    (
        *("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *(*_PROXIES, *(name.upper() for name in _PROXIES)),
    )
)
# Pieces of some megabytes come and go all the time: they are not to be given back to the kernel, which would
# clear their pages again for each (mallopt(3)).
_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
_Taken = TypeVar("_Taken")
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from {0} import main; main(sys.argv[1:])"


class _WentAway(Unavailable):
    """The worker is gone; `unheard`: without having answered anything."""

    unheard = False


@dataclass(slots=True)
class _Request:
    """A request under way; `directory` is the layout directory that the worker may ask files of."""

    subject: str
    result: asyncio.Future[tuple[FetchedImage, ...]]
    progress: Callable[[Progress], None]
    directory: int | None = None
    answered: bool = False
    """Whether anything came back."""
    wanted: deque[tuple[int, str]] = field(default_factory=deque)
    """Files of the directory that the worker has asked for."""
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    """There is a result, or a file is wanted."""


@dataclass(slots=True)
class _Process:
    child: processes.Child
    channel: WorkerChannel[ToDaemon]
    log: WorkerLog
    pulls: bool
    """Whether it loaded what pulls need while it could; without rights it may not be able to any more."""
    staging: tuple[int, int] | None
    """Which directory it works in."""
    spent: bool = False
    """Whether it used up its memory: how much of it will come back nobody knows."""


class ImageWorker:
    """At most one worker process at a time, which may use `memory` bytes (0: no limit)."""

    def __init__(self, staging: Staging, memory: int = 0, idle_seconds: float = IDLE_SECONDS) -> None:
        self._staging = staging
        self._memory = memory
        self._idle_seconds = idle_seconds
        self._numbers = itertools.count(1)
        self._requests: dict[int, _Request] = {}
        self._adopting: Counter[Digest] = Counter()
        self._process: _Process | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False
        self._starting = asyncio.Lock()
        self._starts = self._deaths = 0
        if reason := seccomp.unavailable():
            _log.warning("processes that read images have no filter of system calls: %s", reason)

    @property
    def figures(self) -> WorkerFigures:
        """The process, while there is one, and its predecessors."""
        pid = self._process.child.pid if self._process is not None else None
        return WorkerFigures(pid, len(self._requests), self._starts, self._deaths)

    def new_number(self) -> int:
        """A number for the next request."""
        return next(self._numbers)

    async def run(
        self,
        message: Pull | Import,
        subject: str,
        progress: Callable[[Progress], None],
        take: Callable[[tuple[FetchedImage, ...]], Awaitable[_Taken]],
        fd: int | None = None,
    ) -> _Taken:
        """Do one request; the layers it lacked are staged when `take` is called, which takes them over.

        `fd` is the archive of an Import or its layout directory; it stays the caller's. `subject` begins
        every error. When the caller is cancelled, the worker is told to stop.
        """
        adopted = False
        known = self._process
        try:
            images = await self._ask(message, _Request(subject, _future(), progress), fd)
        except _WentAway as error:
            # A worker that died while it was idle is found out by the first request that it does not answer.
            if known is None or not error.unheard:
                raise
            images = await self._ask(message, _Request(subject, _future(), progress), fd)
        process = self._process
        layers = [layer.diff_id for image in images for layer in image.layers]
        self._adopting.update(layers)
        try:
            taken = await take(images)
            adopted = True
            return taken
        finally:
            self._adopting.subtract(layers)
            if process is not None:
                process.channel.send(Taken(message.id, adopted))

    async def _ask(
        self, message: Pull | Import, request: _Request, fd: int | None
    ) -> tuple[FetchedImage, ...]:
        process = await self._running(pulls=isinstance(message, Pull))
        beside = None
        if isinstance(message, Import) and message.directory:
            request.directory = fd
        elif fd is not None:
            beside = os.dup(fd)
        self._requests[message.id] = request
        try:
            process.channel.send(message, beside)
            request.result.add_done_callback(lambda _: request.stirred.set())
            while not request.result.done():
                await request.stirred.wait()
                request.stirred.clear()
                while request.wanted and not request.result.done():
                    await self._open_for(process, request, *request.wanted.popleft())
            return await request.result
        finally:
            if not request.result.done() or request.result.cancelled():
                process.channel.send(Cancel(message.id))
            del self._requests[message.id]
            self._wind_down()

    async def close(self) -> None:
        """End the worker and refuse further requests; what is under way fails."""
        self._closed = True
        if (process := self._process) is not None:
            self._lost(process, "the daemon is stopping")
            await process.child.wait(_END_SECONDS)
            process.log.close()

    async def tidy(self) -> None:
        """Remove what earlier workers left, unless there is one now."""
        async with self._starting:
            if self._process is None:
                await self._prepare_staging()

    async def _prepare_staging(self) -> None:
        what = f"clearing the staging directory {self._staging.path}"
        await OURS.run(what, self._staging.prepare, frozenset(+self._adopting))

    async def _running(self, *, pulls: bool) -> _Process:
        if self._closed:
            raise Unavailable("the image store is closed")
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._process is not None and pulls and not self._process.pulls and not self._requests:
            self._lost(self._process, "it is replaced")
        async with self._starting:
            try:
                staging = await self._look_at_staging()
                if self._process is not None and self._process.staging != staging:
                    self._lost(self._process, f"somebody has removed {self._staging.path}")
                if self._process is None:
                    await self._prepare_staging()
                    if self._closed:
                        raise Unavailable("the image store is closed")
                    self._process = self._spawn(await self._look_at_staging(), pulls=pulls)
            except OSError as error:
                raise Unavailable(f"image worker could not be started: {error}") from error
            return self._process

    async def _look_at_staging(self) -> tuple[int, int] | None:
        return await OURS.run(f"looking for {self._staging.path}", self._staging.identity)

    def _spawn(self, staging: tuple[int, int] | None, *, pulls: bool) -> _Process:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        user = self._staging.user
        root = os.path.dirname(os.path.dirname(os.path.abspath(crib.__file__)))
        argv = [
            *(sys.executable, "-I", "-c", _START.format("crib.backends.images.worker.main"), root),
            *map(str, (theirs.fileno(), user.uid, user.gid, os.getpid(), self._memory)),
            *(["pull"] if pulls else []),
        ]
        environment = {key: value for key, value in os.environ.items() if key in _KEPT_VARIABLES}

        def told(line: str) -> None:
            _log.warning("image worker (pid %d): %s", child.pid, line)

        log = WorkerLog(told)
        options = processes.SpawnOptions(
            stderr=log.worker_end,
            pass_fds=(theirs.fileno(),),
            env={**environment, **_ALLOCATOR, "NETRC": os.devnull},
            cwd=self._staging.path,
            new_session=True,
        )
        with theirs:
            try:
                child = processes.spawn(argv, options)
            except BaseException:
                ours.close()
                raise
            finally:
                log.start()

        def closed(reason: str) -> None:
            self._deaths += self._process is process
            self._lost(process, reason)

        channel = WorkerChannel(ours, daemon_decoder(), self._take, closed)
        process = _Process(child, channel, log, pulls, staging)
        self._starts += 1
        _log.debug("image worker started, pid %d", child.pid)
        return process

    def _lost(self, process: _Process, reason: str) -> None:
        process.channel.close()
        process.child.kill()
        if self._process is not process:
            return
        self._process = None
        for request in self._requests.values():
            if not request.result.done():
                text = f"{request.subject}: image worker (pid {process.child.pid}) went away: {reason}"
                error = _WentAway(text)
                error.unheard = not request.answered and not self._closed
                request.result.set_exception(error)

    def _wind_down(self) -> None:
        if self._requests or self._process is None or self._idle is not None:
            return
        if self._process.spent:
            self._lost(self._process, "it used up its memory")
            return
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._idle_seconds, self._end_idle, self._process)

    def _end_idle(self, process: _Process) -> None:
        self._idle = None
        if not self._requests:
            self._lost(process, "it was idle")

    def _take(self, message: ToDaemon, fd: int | None) -> None:
        if fd is not None:
            os.close(fd)  # a worker has nothing to give
        if isinstance(message, Failed) and self._process is not None:
            self._process.spent |= message.spent
        request = self._requests.get(message.id)
        if request is None or request.result.done():
            if isinstance(message, Done) and self._process is not None:
                # Nobody waits for it any more; the worker knows whether another request shares its layers.
                self._process.channel.send(Taken(message.id, adopted=False))
            return
        request.answered = True
        match message:
            case Step():
                request.progress(
                    Progress(message.stage, message.layer, message.done, message.total, message.host)
                )
            case NeedFile(id=number, name=name):
                request.wanted.append((number, name))
                request.stirred.set()
            case Done(images=images):
                request.result.set_result(images)
            case Failed():
                request.result.set_exception(raised(message, request.subject))

    @staticmethod
    async def _open_for(process: _Process, request: _Request, number: int, name: str) -> None:
        """Open a file of the layout directory that this request is about, and no other."""
        if request.directory is None or not _LAYOUT_FILE.fullmatch(name):
            request.result.set_exception(
                Broken(f"image worker asked for {name[:200]!r}, which is not its business")
            )
            return
        try:
            fd = await open_file_of(request.directory, name, request.subject)
        except OSError as error:
            process.channel.send(File(number, name, why(error, name)))
        else:
            process.channel.send(File(number, name), fd)


def _future() -> asyncio.Future[tuple[FetchedImage, ...]]:
    return asyncio.get_running_loop().create_future()
