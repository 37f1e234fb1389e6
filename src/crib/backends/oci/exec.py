"""Commands in a running container, by the runtime's exec: started, followed to their end, put away.

The runtime ends once the command runs, and leaves it to us as the subreaper (host/adoption).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from crib.backends.bundle.bundles import BundleNote, Bundles
from crib.backends.bundle.labels import Labels
from crib.backends.failures import trying
from crib.backends.known_processes import read_pid
from crib.backends.oci.command_lines import ExecFiles, RuntimeProgram
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.insides import Insides
from crib.backends.oci.sessions import CommandEnds, Console, NoStreams, Pipes
from crib.backends.pods.signals import Signals
from crib.backends.runtime_words import exec_failure, words_of_failure
from crib.backends.streams.command_names import new_name
from crib.backends.streams.exec_sessions import ExecSession
from crib.backends.streams.exec_starts import ExecStarts
from crib.host.adoption import Adopted, expecting
from crib.host.executions import Executions
from crib.host.files import write_private
from crib.host.pidfds import is_running, open_pidfd, signal_process, start_time, wait_pidfd
from crib.host.processes import Child, SpawnOptions, spawn
from crib.model.container import ContainerRecord
from crib.model.errors import Broken, WrongState
from crib.model.facts import RootfsFacts
from crib.model.streams import ExecProcess
from crib.tasks.keeper import HANDS
from crib.wire import oci_runtime as oci

T = TypeVar("T")

_KILL_TIME = 10.0
_WORDS_LIMIT = 65536
_REMOVE_TIME = 0.1
_ENDING_TIME = 0.05
_ENDED_TIME = 5.0
"""Seconds until what a command left is put away, and its exit code is known."""
_HOME_ROUNDS = 5
"""How often what a command left behind is looked for: it may fork while it is moved."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one command is run with."""

    record: ContainerRecord
    process: ExecProcess
    runtime: RuntimeProgram
    files: ExecFiles
    container_cgroup: str
    name: str
    """Of its own cgroup below the container's."""
    users: RootfsFacts
    """The container's user database, if the command runs as another user."""

    @property
    def what(self) -> str:
        return f"exec of {self.process.argv[0]!r} in container {self.record.id}"

    @property
    def cgroup(self) -> str:
        """Its own, if it is contained: a child that called setsid(2) is in no process group that we know."""
        return f"{self.container_cgroup}/{self.name}" if self.process.contained else ""


@dataclass(frozen=True, slots=True)
class _Started:
    """A command that runs. `words` is the descriptor of the runtime's log, the file of which is gone."""

    command: Adopted
    streams: CommandEnds
    words: int


class Commands:
    """Runs commands in containers."""

    def __init__(self, environment: OciEnvironment, bundles: Bundles, signals: Signals) -> None:
        self._env = environment
        self._bundles = bundles
        self._labels = Labels(environment.paths, environment.host)
        self._exec_starts = ExecStarts(environment, bundles, signals)
        self._insides = Insides(environment)
        self._busy: set[str] = set()
        """Cgroups of commands that could not be removed yet."""
        self._dying: set[str] = set()
        """Cgroups of commands that are being killed."""

    async def open(self, record: ContainerRecord, process: ExecProcess) -> ExecSession:
        """See ContainerStreams.exec."""
        return await self._exec_starts.run(
            record, process, lambda note, users: self._open(self._plan(record, process, note, users))
        )

    def _plan(
        self, record: ContainerRecord, process: ExecProcess, note: BundleNote, users: RootfsFacts
    ) -> _Plan:
        name = new_name()
        stem = f"{self._env.paths.container(record.id)}/{name}"
        # By the monitor's link: a socket's path has at most 107 bytes.
        console = f"{self._env.paths.monitor_link(record.id)}/{name}" if process.tty else ""
        runtime = self._env.runtime_of(note.handler)
        inner = f"{stem}.inner" if runtime.stand_in else ""
        files = ExecFiles(f"{stem}.json", f"{stem}.log", f"{stem}.pid", console, inner)
        return _Plan(record, process, runtime, files, note.cgroup, name, users)

    async def _open(self, plan: _Plan) -> ExecSession:
        with trying(plan.what):
            if plan.cgroup:
                self._env.cgroups.create(plan.cgroup, among_processes=True)
            try:
                started = await self._started(plan)
            except BaseException:
                if plan.cgroup:
                    await self._env.cgroups.kill(plan.cgroup, _KILL_TIME)
                    await self._remove_cgroups(plan.cgroup)
                raise
        followed = HANDS.part("following a command", self._follow(plan, started), plan.record.id)
        if plan.process.detached:
            await self._has_begun(started.command.pid, followed)
        return ExecSession(
            plan.process, started.streams, followed, lambda: self._kill(plan, started.command, followed)
        )

    async def _has_begun(self, pid: int, followed: asyncio.Task[int]) -> None:
        """Nobody hears of a failure later on: wait until the program runs, and raise what it failed of."""
        since = start_time(pid)
        if since is not None:
            with contextlib.suppress(TimeoutError):
                await Executions().wait(pid, since, self._env.settings.verb_timeout)
        if since is None or not is_running(pid, since):
            await asyncio.wait([followed], timeout=_ENDED_TIME)
        if followed.done():
            followed.result()

    async def _started(self, plan: _Plan) -> _Started:
        """Start it, and once more if it lacked its AppArmor profile and that could be loaded again."""
        try:
            return await self._start(plan)
        except Broken:
            if not await self._labels.bring_back(self._profile(plan.record)):
                raise
        return await self._start(plan)

    def _profile(self, record: ContainerRecord) -> str:
        """The AppArmor profile that a command gets; empty where its bundle cannot be read."""
        try:
            return self._bundles.read_process(record.id).apparmor_profile
        except (OSError, ValueError):
            return ""

    async def _start(self, plan: _Plan) -> _Started:
        """Run the runtime to its end, and take over what it started."""
        with contextlib.ExitStack() as undo:
            words = os.open(plan.files.log, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, words)
            with contextlib.ExitStack() as always:
                always.callback(_unlink, plan.files.files)
                self._write_process(plan)
                console = plan.files.console
                wanted = plan.process
                ends = (
                    NoStreams() if wanted.detached else Console(wanted, console) if console else Pipes(wanted)
                )
                always.callback(ends.close)
                with expecting():
                    await self._run_runtime(plan, ends, words)
                    command = _adopted(plan)
                if plan.cgroup and plan.runtime.stand_in:
                    with contextlib.suppress(OSError):  # it has ended
                        self._env.cgroups.add_process(plan.cgroup, command.pid)
                undo.callback(command.signal, signal.SIGKILL)
                streams = ends.connect()
            undo.pop_all()
            return _Started(command, streams, words)

    async def _run_runtime(self, plan: _Plan, ends: Pipes | Console | NoStreams, words: int) -> None:
        stdin, stdout, stderr = ends.child_ends
        # Crun gives the score to a container's first process only: a command would have ours.
        score = self._exec_starts.score(plan.record)
        child = spawn(
            plan.runtime.exec(plan.record.id, plan.files, plan.name if plan.cgroup else ""),
            SpawnOptions(stdin, stdout, stderr, new_session=True, oom_score_adj=score, owner=plan.record.id),
        )
        ends.started()
        limit = self._env.settings.verb_timeout
        try:
            code = await child.wait(limit)
        except TimeoutError:
            _kill_started(child, plan)
            raise Broken(f"{plan.what}: {plan.runtime.program} did not answer within {limit:.0f} s") from None
        except BaseException:
            _kill_started(child, plan)
            raise
        if code != 0:
            said = _read_words(words) or f"{plan.runtime.program} ended with code {code} and said nothing"
            raise await self._failure(plan, said)

    def _write_process(self, plan: _Plan) -> None:
        process = self._exec_starts.process(plan.what, plan.record, plan.process, plan.users)
        write_private(plan.files.process, oci.encode(process))

    async def _follow(self, plan: _Plan, started: _Started) -> int:
        """Its exit code, when it has ended and what it needed is put away."""
        try:
            code = await started.command.wait()
            started.streams.end()
            if plan.cgroup and plan.cgroup not in self._dying:
                await self._put_away(plan)
            if code != 0 and (words := _read_words(started.words)):
                raise await self._failure(plan, words)
            return code if code >= 0 else 128 - code
        finally:
            os.close(started.words)
            _unlink((plan.files.inner,) if plan.files.inner else ())

    async def _kill(self, plan: _Plan, command: Adopted, followed: asyncio.Task[int]) -> None:
        if plan.runtime.stand_in:
            await self._insides.kill(plan.runtime, plan.record.id, plan.files.inner)
        if not plan.cgroup:
            command.signal(signal.SIGKILL)
            await asyncio.wait([followed], timeout=_KILL_TIME)
            return
        # The command itself may be the first to die: what it has forked must not be brought home then.
        self._dying.add(plan.cgroup)
        try:
            if not await self._env.cgroups.kill(plan.cgroup, _KILL_TIME):
                raise Broken(f"{plan.what}: its processes do not die ({plan.cgroup})")
            await asyncio.wait([followed], timeout=_KILL_TIME)
        finally:
            self._dying.discard(plan.cgroup)
            await self._remove_cgroups(plan.cgroup)

    async def _put_away(self, plan: _Plan) -> None:
        """Its cgroup, and first what it left there. Usually that is nothing."""
        with contextlib.suppress(OSError):  # what it left stays where it is; its outcome is known
            if not self._env.cgroups.remove_at_once(plan.cgroup):
                self._bring_home(plan)
            elif not self._busy:
                return
        await self._remove_cgroups(plan.cgroup)

    async def _remove_cgroups(self, cgroup: str) -> None:
        """The command's, and those of earlier ones: a process that ends keeps its own busy for a moment."""
        self._busy.add(cgroup)
        for one in tuple(self._busy):
            with contextlib.suppress(OSError):
                await self._env.cgroups.remove(one, timeout=_REMOVE_TIME if one == cgroup else 0)
                self._busy.discard(one)

    def _bring_home(self, plan: _Plan) -> None:
        """What the command left in the background lives on in the container's own cgroup.

        In the command's, each probe that does so would leave one more cgroup for as long as the container
        lives.
        """
        for _round in range(_HOME_ROUNDS):
            pids = self._env.cgroups.pids(plan.cgroup)
            for pid in pids:
                with contextlib.suppress(OSError):  # it has ended, or the container's cgroup has gone
                    self._env.cgroups.add_process(plan.container_cgroup, pid)
            if not pids:
                return

    async def _failure(self, plan: _Plan, words: str) -> WrongState | Broken:
        if await self._has_ended(plan.record):
            return WrongState(f"{plan.what}: the container does not run")
        return exec_failure(plan.what, words)

    async def _has_ended(self, record: ContainerRecord) -> bool:
        """Whether the container is no more, or ends just now: a kill may have met the command first."""
        pid = self._bundles.first_pid(record.id)
        started = start_time(pid) if pid else None
        if started is None or not is_running(pid, started):
            return True
        try:
            pidfd = open_pidfd(pid)
        except ProcessLookupError:
            return True
        try:
            return await wait_pidfd(pidfd, _ENDING_TIME)
        finally:
            os.close(pidfd)


def _adopted(plan: _Plan) -> Adopted:
    try:
        pid = read_pid(plan.files.pid)
    except ValueError as error:
        raise Broken(f"{plan.what}: the runtime wrote no pid: {error}") from error
    try:
        return Adopted(pid)
    except OSError:
        signal_process(pid, signal.SIGKILL)
        raise


def _kill_started(child: Child, plan: _Plan) -> None:
    """A runtime that is not waited for, and the command if it has come so far.

    runc writes the pid only when the command runs already: until then it is known as the runtime's child.
    """
    if child.signal(signal.SIGSTOP):  # so that it starts no other one, and reaps none of its children
        for pid in _children(child.pid):
            signal_process(pid, signal.SIGKILL)
    child.kill()
    with contextlib.suppress(OSError, ValueError):
        signal_process(read_pid(plan.files.pid), signal.SIGKILL)


def _children(pid: int) -> list[int]:
    """proc_pid_task(5); none of a process that has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    return found


def _unlink(files: Iterable[str]) -> None:
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _read_words(log: int) -> str:
    """What the runtime itself said of a failure, apart from the command; its warnings are left out."""
    return words_of_failure(os.pread(log, _WORDS_LIMIT, 0).decode("utf-8", "replace"))
