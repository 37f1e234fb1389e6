"""Commands in a running container, by the Engine: started, followed to their end, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from crib.backends.bundle.bundles import BundleNote
from crib.backends.docker.api import EngineCall
from crib.backends.docker.command_streams import PipedStreams
from crib.backends.docker.exits import DockerExits
from crib.backends.docker.nouns import EngineCommand, engine_name, read_command
from crib.backends.docker.tools import DockerTools
from crib.backends.known_processes import identity
from crib.backends.pods.contained import ContainedCommand
from crib.backends.runtime_words import exec_failure
from crib.backends.streams.attach_sessions import LatestSizes
from crib.backends.streams.command_names import new_name
from crib.backends.streams.exec_sessions import ExecSession
from crib.backends.streams.exec_starts import ExecStarts
from crib.host.pidfds import signal_process
from crib.model.container import ContainerRecord
from crib.model.errors import Broken, CribError, InvalidRequest, NotFound, WrongState
from crib.model.facts import RootfsFacts
from crib.model.sandbox import ProcessIdentity
from crib.model.streams import ExecProcess, TerminalSize
from crib.tasks.keeper import HANDS

LOOK_AGAIN = 0.005
"""Seconds after which a command that has not begun is looked at again: nothing tells when it has."""
LONGEST_PAUSE = 0.1
END_TIME = 10.0
"""Seconds from a command's end, as its streams or events tell it, until the Engine knows its code."""
_KILL_TIME = 10.0
_FAILED = "OCI runtime exec failed: "


@dataclass(frozen=True, slots=True)
class _Command:
    """One command."""

    record: ContainerRecord
    wanted: ExecProcess
    id: str
    """The Engine's."""

    @property
    def what(self) -> str:
        return f"exec of {self.wanted.argv[0]!r} in container {self.record.id}"


class _Running:
    """A command that the Engine has started."""

    def __init__(self, commands: DockerCommands, command: _Command, own: ContainedCommand) -> None:
        self._commands = commands
        self._command = command
        self._own = own
        self._process: ProcessIdentity | None = None
        self._is_dying = False
        self.streams: PipedStreams | None = None
        self.followed: asyncio.Task[int]

    def begin(self, pid: int, follow: Callable[[], Awaitable[int]]) -> None:
        """It runs, with this pid on this host."""
        self._process = identity(pid)
        if self._command.wanted.contained:
            self._own.contain(pid)
        self.followed = HANDS.part("following a command", self._follow(follow), self._command.record.id)

    def signal(self, signum: int) -> None:
        if self._process is not None:
            signal_process(self._process.pid, signum, self._process.start_time)

    async def kill(self) -> None:
        """End it, with all that it has started if it is contained."""
        self._is_dying = True
        self.signal(signal.SIGKILL)
        died = await self._own.kill()
        await asyncio.wait([self.followed], timeout=_KILL_TIME)
        await self._own.remove()
        if not died:
            raise Broken(f"{self._command.what}: its processes do not die ({self._own.path})")

    async def _follow(self, follow: Callable[[], Awaitable[int]]) -> int:
        try:
            code = await follow()
        finally:
            if self.streams is not None:
                self.streams.end()
        if not self._is_dying:
            self._own.bring_home()
            await self._own.remove()
        return code


class DockerCommands:
    """Runs commands in containers."""

    def __init__(self, tools: DockerTools, exits: DockerExits) -> None:
        self._tools = tools
        self._env = tools.environment
        self._api = tools.environment.api
        self._exits = exits
        self._exec_starts = ExecStarts(tools.environment, tools.bundles, tools.signals)

    async def open(self, record: ContainerRecord, wanted: ExecProcess) -> ExecSession:
        """See ContainerStreams.exec."""
        if not wanted.argv or not wanted.argv[0]:
            raise InvalidRequest("a command to run is needed", field="cmd")

        def start(note: BundleNote, _users: RootfsFacts) -> Coroutine[Any, Any, ExecSession]:
            return self._open(record, wanted, note)

        return await self._exec_starts.run(record, wanted, start)

    async def _open(self, record: ContainerRecord, wanted: ExecProcess, note: BundleNote) -> ExecSession:
        command = await self._create(record, wanted)
        running = _Running(self, command, ContainedCommand(self._env.cgroups, note.cgroup, new_name()))
        told = self._exits.command(command.id)
        try:
            return await (
                self._detached(command, running, told)
                if wanted.detached
                else self._attached(command, running, told)
            )
        except BaseException:
            self._exits.forget_command(command.id)
            raise

    async def _create(self, record: ContainerRecord, wanted: ExecProcess) -> _Command:
        what = f"exec of {wanted.argv[0]!r} in container {record.id}"
        streams = not wanted.detached
        body = {
            "Cmd": list(wanted.argv),
            "Env": [f"{key}={os.fsdecode(value)}" for key, value in wanted.envs],
            "Tty": wanted.tty,
            "AttachStdin": streams and wanted.stdin,
            "AttachStdout": streams,
            "AttachStderr": streams and not wanted.tty,
            "Privileged": record.config.security.privileged,
        }
        if wanted.user:
            body["User"] = wanted.user
        if wanted.working_dir:
            body["WorkingDir"] = wanted.working_dir
        try:
            made = await self._api.ask(
                EngineCall(what, "POST", f"/containers/{engine_name(record.id)}/exec", body=body)
            )
        except NotFound as error:
            raise WrongState(f"{what}: the container does not run") from error
        return _Command(record, wanted, str(made["Id"]))

    async def _attached(self, command: _Command, running: _Running, told: asyncio.Future[int]) -> ExecSession:
        wanted = command.wanted
        call = EngineCall(
            command.what,
            "POST",
            f"/exec/{command.id}/start",
            body={"Detach": False, "Tty": wanted.tty},
            limit=self._env.settings.verb_timeout,
        )
        pipe = await self._api.hijack(call, terminal=wanted.tty)
        sizes = LatestSizes(command.record.id, lambda size: self._resize(command, size))
        streams = PipedStreams(pipe, sizes, terminal=wanted.tty, stdin=wanted.stdin)
        try:
            begun = await self._begun(command)
            if begun.has_failed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(END_TIME):
                        await pipe.ended.wait()
                raise self._failure(command, streams.words())  # noqa: TRY301  # the streams go in any case
        except BaseException:
            streams.close()
            raise
        running.streams = streams

        async def follow() -> int:
            ending = HANDS.part("end of streams", pipe.ended.wait(), command.record.id)
            try:
                ends: tuple[asyncio.Future[Any], ...] = (told, ending)
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                return await self._code(command, told)
            finally:
                ending.cancel()

        running.begin(begun.pid, follow)
        HANDS.part("end of output", self._end_output(pipe.ended, streams), command.record.id)
        streams.hang_up = lambda: running.signal(signal.SIGHUP) if wanted.tty else None
        return ExecSession(wanted, streams, running.followed, running.kill)

    async def _end_output(self, ended: asyncio.Event, streams: PipedStreams) -> None:
        await ended.wait()
        streams.end_output()

    async def _detached(self, command: _Command, running: _Running, told: asyncio.Future[int]) -> ExecSession:
        call = EngineCall(
            command.what,
            "POST",
            f"/exec/{command.id}/start",
            body={"Detach": True, "Tty": command.wanted.tty},
            limit=self._env.settings.verb_timeout,
        )
        try:
            await self._api.ask(call)
        except (InvalidRequest, Broken) as error:
            raise self._failure(command, error.problem.encode()) from error
        begun = await self._begun(command)

        async def follow() -> int:
            return await self._code(command, told)

        running.begin(begun.pid, follow)
        return ExecSession(command.wanted, _NoStreams(), running.followed, running.kill)

    async def _begun(self, command: _Command) -> EngineCommand:
        """As soon as it runs, has ended, or is known not to have begun."""
        pause = LOOK_AGAIN
        async with asyncio.timeout(self._env.settings.verb_timeout):
            while True:
                found = await self._look(command)
                if found.has_begun or found.has_failed:
                    return found
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _code(self, command: _Command, told: asyncio.Future[int]) -> int:
        """When it has ended. Where its streams end before, or the event was missed, the Engine is asked."""
        try:
            pause = LOOK_AGAIN
            while not told.done():
                found = await self._look(command)
                if not found.running and found.code is not None:
                    return found.code
                await asyncio.wait([told], timeout=pause)
                pause = min(2 * pause, END_TIME)
            return told.result()
        finally:
            self._exits.forget_command(command.id)

    async def _look(self, command: _Command) -> EngineCommand:
        call = EngineCall(command.what, "GET", f"/exec/{command.id}/json")
        try:
            return read_command(await self._api.ask(call))
        except NotFound as error:
            raise WrongState(f"{command.what}: the container has ended") from error

    async def _resize(self, command: _Command, size: TerminalSize) -> None:
        query = {"h": str(size.height), "w": str(size.width)}
        with contextlib.suppress(CribError):  # a terminal of the wrong size is no reason to end
            await self._api.ask(EngineCall(command.what, "POST", f"/exec/{command.id}/resize", query))

    def _failure(self, command: _Command, said: bytes) -> Broken:
        words = said.decode("utf-8", "replace").strip().rpartition(_FAILED)[2].removesuffix(": unknown")
        return exec_failure(command.what, words or "the Engine does not say why it did not begin")


class _NoStreams:
    """See exec_sessions.CommandStreams, of a command that reads nothing and whose output is dropped."""

    stdin = stdout = stderr = None

    def resize(self, size: TerminalSize) -> None:
        """It has no terminal of ours."""

    def close(self) -> None:
        """It goes on."""
