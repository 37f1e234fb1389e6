"""Commands in a running container, by its shim: started, followed to their end, put away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from crib.backends.bundle.bundles import BundleNote
from crib.backends.bundle.labels import Labels
from crib.backends.environment import HandlerEnvironment
from crib.backends.failures import trying
from crib.backends.pods.contained import ContainedCommand
from crib.backends.runtime_words import exec_failure
from crib.backends.shim.command_streams import FifoStreams
from crib.backends.shim.container_io import TaskServices
from crib.backends.shim.fifo_ends import has_reader
from crib.backends.shim.fifos import contained_mark, fifo_directory, stdio
from crib.backends.shim.nouns import ProcessStatus, Stdio
from crib.backends.shim.tasks import TaskService
from crib.backends.streams.command_names import new_name
from crib.backends.streams.exec_sessions import ExecSession
from crib.backends.streams.exec_starts import ExecStarts
from crib.model.container import ContainerRecord
from crib.model.errors import Broken, CannotExecute, CribError, NotFound, WrongState
from crib.model.facts import RootfsFacts
from crib.model.ids import SandboxId
from crib.model.streams import ExecProcess, TerminalSize
from crib.tasks.keeper import HANDS
from crib.wire import oci_runtime as oci

_log = logging.getLogger(__name__)

_KILL_TIME = 10.0
STARTS = 4
"""Commands of one pod that are started at a time. Shims of containerd 1.6 do no more than one at a time, and
those that wait for it keep it from noticing what ends: with a hundred it seems to hang."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one command is run with."""

    record: ContainerRecord
    wanted: ExecProcess
    name: str
    """What the shim, its cgroup and its fifos call it."""
    stdio: Stdio
    cgroup: str
    """The container's."""

    @property
    def what(self) -> str:
        return f"exec of {self.wanted.argv[0]!r} in container {self.record.id}"


class _Running:
    """A command that a shim has started."""

    def __init__(
        self, plan: _Plan, service: TaskService, streams: FifoStreams, own: ContainedCommand
    ) -> None:
        self._plan = plan
        self._service = service
        self._own = own
        self._is_dying = False
        self.streams = streams
        self.followed = HANDS.part("following a command", self._follow(), plan.record.id)

    def contain(self, pid: int) -> None:
        if self._plan.wanted.contained:
            self._own.contain(pid)

    async def kill(self) -> None:
        """End it, with all that it has started if it is contained."""
        # The command itself may be the first to die: what it has forked must not be brought home then.
        self._is_dying = True
        with contextlib.suppress(CribError):  # it has ended
            await self._service.kill(self._plan.record.id, signal.SIGKILL, self._plan.name)
        died = await self._own.kill()
        await asyncio.wait([self.followed], timeout=_KILL_TIME)
        await self._own.remove()
        if not died:
            raise Broken(f"{self._plan.what}: its processes do not die ({self._own.path})")

    async def _follow(self) -> int:
        """Its exit code, when it has ended."""
        plan = self._plan
        try:
            ended = await self._service.wait(plan.record.id, plan.name)
        except CribError:
            self.streams.end()
            raise
        self.streams.end()
        if not self._is_dying:
            self._own.bring_home()
            await self._own.remove()
        HANDS.part("forgetting a command", forget(self._service, plan.record.id, plan.name), plan.record.id)
        return ended.code


class ShimCommands:
    """Runs commands in containers."""

    def __init__(self, environment: HandlerEnvironment, starts: ExecStarts, services: TaskServices) -> None:
        self._env = environment
        self._exec_starts = starts
        self._services = services
        self._labels = Labels(environment.paths, environment.host)
        self._starts: WeakValueDictionary[SandboxId, asyncio.Semaphore] = WeakValueDictionary()

    async def open(self, record: ContainerRecord, wanted: ExecProcess) -> ExecSession:
        """See ContainerStreams.exec."""

        def start(note: BundleNote, users: RootfsFacts) -> Coroutine[Any, Any, ExecSession]:
            name = new_name()
            own = stdio(self._env.paths, record.id, name, stdin=True, terminal=wanted.tty)
            return self._open(_Plan(record, wanted, name, own, note.cgroup), users)

        return await self._exec_starts.run(record, wanted, start)

    async def _open(self, plan: _Plan, users: RootfsFacts) -> ExecSession:
        service = await self._services.of(plan.record.id)
        with trying(plan.what):
            process = self._exec_starts.process(plan.what, plan.record, plan.wanted, users)
        try:
            running = await self._start(plan, service, process)
        except Broken:
            if not await self._labels.bring_back(process.apparmor_profile):
                raise
            running = await self._start(plan, service, process)
        return ExecSession(plan.wanted, running.streams, running.followed, running.kill)

    async def _start(self, plan: _Plan, service: TaskService, process: oci.Process) -> _Running:
        container = plan.record.id

        async def resize(size: TerminalSize) -> None:
            with contextlib.suppress(CribError):  # a terminal of the wrong size is no reason to end
                await service.resize_pty(container, size.width, size.height, plan.name)

        with trying(plan.what):
            os.makedirs(fifo_directory(self._env.paths, container), 0o700, exist_ok=True)
            if plan.wanted.contained and self._env.facts.own_kernel:
                os.close(os.open(contained_mark(plan.stdio), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            streams = FifoStreams(
                plan.wanted, plan.stdio, lambda: service.close_io(container, plan.name), resize
            )
        try:
            pid = await started_or_ended(service, container, plan.name, self._begin(plan, service, process))
        except BaseException as error:
            streams.end()
            streams.close()
            if isinstance(error, CribError) and await self._has_ended(service, container):
                raise WrongState(f"{plan.what}: the container does not run") from error
            if isinstance(error, CribError):
                refusal = exec_failure(plan.what, error.problem)
                if isinstance(refusal, CannotExecute):
                    raise refusal from error
            raise
        running = _Running(
            plan, service, streams, ContainedCommand(self._env.cgroups, plan.cgroup, plan.name)
        )
        with trying(plan.what):
            if pid > 0 and pid in self._env.cgroups.pids(plan.cgroup):
                _give_score(pid, self._exec_starts.score(plan.record))
            running.contain(pid)
        await has_reader(streams.stdin.fd, running.followed)
        if not plan.wanted.stdin and not plan.wanted.tty:
            streams.stdin.end()
        return running

    async def _begin(self, plan: _Plan, service: TaskService, process: oci.Process) -> int:
        await service.exec(plan.record.id, plan.name, oci.encode(process), plan.stdio)
        async with self._starts.setdefault(plan.record.sandbox_id, asyncio.Semaphore(STARTS)):
            return await service.start(plan.record.id, plan.name)

    async def _has_ended(self, service: TaskService, container: str) -> bool:
        try:
            return (await service.state(container)).status is ProcessStatus.STOPPED
        except NotFound:
            return True
        except CribError:
            return False


def _give_score(pid: int, score: int | None) -> None:
    """Crun gives a score to a container's first process only: a command would have the shim's."""
    if score is not None:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))


async def started_or_ended(
    service: TaskService, container: str, name: str, start: Coroutine[Any, Any, int]
) -> int:
    """Start a command; its pid. One that nobody waits for any more is ended once it has started.

    A shim that is slow starts it all the same, and has nothing to kill before.
    """
    starting = HANDS.part("start of a command", start, container)
    try:
        return await asyncio.shield(starting)
    except BaseException:
        HANDS.part("end of a command", _end(starting, service, container, name), container)
        raise


async def _end(starting: asyncio.Task[int], service: TaskService, container: str, name: str) -> None:
    await asyncio.wait([starting])
    with contextlib.suppress(CribError, TimeoutError):
        await service.kill(container, signal.SIGKILL, name)
        async with asyncio.timeout(_KILL_TIME):
            await service.wait(container, name)  # the shim forgets nothing that runs
    await forget(service, container, name)


async def forget(service: TaskService, container: str, name: str) -> None:
    """The shim needs to know nothing more of a command. It waits for what holds its output, for some time."""
    try:
        await service.delete(container, name)
    except CribError as error:
        _log.debug("command %s in container %s: %s", name, container, error)
