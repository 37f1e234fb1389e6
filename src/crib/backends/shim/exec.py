"""Commands in a running container, by its shim: started, followed to their end, put away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import dataclass
from weakref import WeakValueDictionary

import msgspec

from crib.backends.bundle.bundles import Bundles
from crib.backends.bundle.labels import Labels
from crib.backends.bundle.rootfs import read_facts
from crib.backends.environment import HandlerEnvironment
from crib.backends.failures import trying
from crib.backends.pods.signals import Signals
from crib.backends.runtime_words import exec_failure
from crib.backends.shim.command_streams import FifoStreams
from crib.backends.shim.contained import ContainedCommand
from crib.backends.shim.container_io import TaskServices
from crib.backends.shim.fifo_ends import has_reader
from crib.backends.shim.fifos import fifo_directory, stdio
from crib.backends.shim.nouns import ProcessStatus, Stdio
from crib.backends.shim.tasks import TaskService
from crib.backends.streams.command_names import new_name
from crib.backends.streams.exec_sessions import ExecSession, undo_opening
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord
from crib.model.errors import Broken, CannotExecute, CribError, NotFound, WrongState
from crib.model.facts import RootfsFacts
from crib.model.ids import SandboxId
from crib.model.streams import ExecProcess, TerminalSize
from crib.ocispec.process import NO_USERS, exec_process, oom_score_adj
from crib.tasks.keeper import HANDS
from crib.wire import oci_runtime as oci

_log = logging.getLogger(__name__)

_KILL_TIME = 10.0
_OPEN_TIME = 0.5
"""Seconds that a shim has to start a command that nobody waits for any more; else it is killed later."""


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
    users: RootfsFacts
    score: int | None

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

    def __init__(
        self, environment: HandlerEnvironment, bundles: Bundles, signals: Signals, services: TaskServices
    ) -> None:
        self._env = environment
        self._bundles = bundles
        self._signals = signals
        self._services = services
        self._labels = Labels(environment.paths, environment.host)
        self._starts: WeakValueDictionary[SandboxId, asyncio.Semaphore] = WeakValueDictionary()

    async def open(self, record: ContainerRecord, wanted: ExecProcess) -> ExecSession:
        """See ContainerStreams.exec. Who is cancelled meanwhile leaves nothing that runs."""
        with trying(f"exec in container {record.id}"):
            plan = self._plan(record, wanted, await self._users(record, wanted))
        # A part, as it continues when its caller is cancelled.
        opening = HANDS.part("start of a command", self._open(plan), record.id)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.shield(HANDS.part("end of a command", undo_opening(opening, _OPEN_TIME), record.id))
            raise

    async def _users(self, record: ContainerRecord, wanted: ExecProcess) -> RootfsFacts:
        """From the container's own layers; a volume over them could be on a disk that hangs."""
        if not wanted.user:
            return NO_USERS
        root = self._env.paths.rootfs(record.id)
        return await OURS.run(Job(f"reading the users of container {record.id}", record.id), read_facts, root)

    def _plan(self, record: ContainerRecord, wanted: ExecProcess, users: RootfsFacts) -> _Plan:
        what = f"exec in container {record.id}"
        note = self._bundles.read_note(record.id)
        if note is None:
            raise WrongState(f"{what}: it has no bundle")
        if self._signals.is_frozen(note.cgroup):
            # A process that joins a frozen group stops there, and the call with it.
            raise WrongState(f"{what}: the container is paused")
        name = new_name()
        return _Plan(
            record=record,
            wanted=wanted,
            name=name,
            stdio=stdio(self._env.paths, record.id, name, stdin=True, terminal=wanted.tty),
            cgroup=note.cgroup,
            users=users,
            # An update may have changed it since the container was made.
            score=oom_score_adj(record.resources.oom_score_adj, self._env.host),
        )

    async def _open(self, plan: _Plan) -> ExecSession:
        service = await self._services.of(plan.record.id)
        process = self._process(plan)
        try:
            running = await self._start(plan, service, process)
        except Broken:
            if not await self._labels.bring_back(process.apparmor_profile):
                raise
            running = await self._start(plan, service, process)
        return ExecSession(plan.wanted, running.streams, running.followed, running.kill)

    def _process(self, plan: _Plan) -> oci.Process:
        try:
            first = self._bundles.read_process(plan.record.id)
        except (OSError, ValueError) as error:
            raise Broken(f"{plan.what}: the container's config.json cannot be read: {error}") from error
        with trying(plan.what):
            first = msgspec.structs.replace(first, oom_score_adj=plan.score)
            return exec_process(first, plan.wanted, plan.users)

    async def _start(self, plan: _Plan, service: TaskService, process: oci.Process) -> _Running:
        container = plan.record.id

        async def resize(size: TerminalSize) -> None:
            with contextlib.suppress(CribError):  # a terminal of the wrong size is no reason to end
                await service.resize_pty(container, size.width, size.height, plan.name)

        with trying(plan.what):
            os.makedirs(fifo_directory(self._env.paths, container), 0o700, exist_ok=True)
            streams = FifoStreams(
                plan.wanted, plan.stdio, lambda: service.close_io(container, plan.name), resize
            )
        try:
            await service.exec(container, plan.name, oci.encode(process), plan.stdio)
            async with self._starts.setdefault(plan.record.sandbox_id, asyncio.Semaphore(STARTS)):
                pid = await service.start(container, plan.name)
        except BaseException as error:
            streams.end()
            streams.close()
            HANDS.part("end of a command", self._end(service, container, plan.name), container)
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
                _give_score(pid, plan.score)
            running.contain(pid)
        await has_reader(streams.stdin.fd, running.followed)
        if not plan.wanted.stdin and not plan.wanted.tty:
            streams.stdin.end()
        return running

    async def _end(self, service: TaskService, container: str, name: str) -> None:
        """Of a start that failed, or that nobody waited for."""
        with contextlib.suppress(CribError):
            await service.kill(container, signal.SIGKILL, name)
        await forget(service, container, name)

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


async def forget(service: TaskService, container: str, name: str) -> None:
    """The shim needs to know nothing more of a command. It waits for what holds its output, for some time."""
    try:
        await service.delete(container, name)
    except CribError as error:
        _log.debug("command %s in container %s: %s", name, container, error)
