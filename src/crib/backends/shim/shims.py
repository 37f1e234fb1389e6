"""The shims: which pod or container has which, started, found again, noticed when they go, and ended.

A shim is known by its instance: the id that it was started with, of a pod, or of a container whose runtime
has a shim for each. A note in that one's bundle says where it listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from weakref import WeakValueDictionary

from crib.backends.failures import checked, trying
from crib.backends.known_processes import identity, is_alive
from crib.backends.shim.bootstrap import (
    ShimAddress,
    read_answer,
    read_deleted,
    wants_all_parameters,
)
from crib.backends.shim.environment import ShimEnvironment
from crib.backends.shim.nouns import Ended, ShimLost
from crib.backends.shim.processes import check_private, ended, find_shims, kill, remove_sockets
from crib.backends.shim.shim_log import ShimLog
from crib.backends.shim.shim_notes import ShimNote, forget_note, read_note, write_note
from crib.backends.shim.task_client import ShimTasks
from crib.host.processes import Completed, RunOptions, run
from crib.host.threads import OURS, Job, Overdue
from crib.model.errors import Broken, CribError
from crib.model.ids import ContainerId
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.client import TtrpcClient

_log = logging.getLogger(__name__)

CONNECT_TIME = 5.0
"""Seconds for a connection to a shim that was there before, and its first answer.

A new one has `verb_timeout`: on a busy machine its program is there late.
"""
SHUTDOWN_TIME = 3.0
"""Seconds that a shim has to end when it is asked to."""
DELETE_TIME = 30.0
"""Seconds for a shim's program to clear up after one that has gone."""
_OUR_WANT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT))
"""Errors that say nothing of the shim: we have no descriptor, memory or room left. Nor does `Overdue`."""
LOST_CODE = 137
"""Of a container whose shim has gone: what is left of it is killed."""


class Shim:
    """One that we are connected to."""

    def __init__(
        self, instance: str, note: ShimNote, client: TtrpcClient, tasks: ShimTasks, log: ShimLog | None
    ) -> None:
        self.instance = instance
        self.note = note
        self.client = client
        self.tasks = tasks
        self.log = log

    @property
    def is_there(self) -> bool:
        """Whether the connection stands."""
        return not self.client.is_gone

    def disconnect(self) -> None:
        """Close what we have of it; it goes on."""
        self.client.close()
        if self.log is not None:
            self.log.close()


class Shims:
    """Of one handler."""

    def __init__(self, environment: ShimEnvironment) -> None:
        self._env = environment
        self._shims: dict[str, Shim] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._wants_all = False
        """This handler's shims are of containerd 2.3 or later."""

    def bundle(self, instance: str) -> str:
        """Of the pod or container."""
        return self._env.paths.container(ContainerId(instance))

    async def start(self, instance: str, *, beside: Shim | None = None) -> Shim:
        """Start one in a bundle that is there, unless there is one. CribError, OSError.

        The program may answer that the one `beside` it, of the same pod, serves this instance too: then that.
        """
        async with self._lock(instance):
            if (known := await self._find(instance)) is not None:
                return known
            log = await ShimLog.open(instance, self.bundle(instance))
            try:
                address = await self._bootstrap(instance)
                if beside is not None and address.path == beside.note.address.path:
                    log.close()
                    return beside
                within = self._env.settings.verb_timeout
                return await self._connected(instance, ShimNote(address, None), log, within)
            except BaseException:
                log.close()
                raise

    async def _bootstrap(self, instance: str) -> ShimAddress:
        """What the shim's program answers in this bundle: a new shim's address, or that of its pod's."""
        what = f"start of a shim for {instance}"
        with trying(what):
            said = await self._run_start(instance)
            if said.exit_code != 0 and not self._wants_all and wants_all_parameters(_words(said)):
                self._wants_all = True
                said = await self._run_start(instance)
        checked(what, said, lambda _stderr: _words(said))
        try:
            return read_answer(said.stdout)
        except Broken as error:
            raise Broken(f"{what}: {error.problem}") from error

    async def find(self, instance: str) -> Shim | None:
        """The one that was started with this id, connected; None where there is none, or none any more."""
        async with self._lock(instance):
            return await self._find(instance)

    async def end(self, instance: str) -> None:
        """End it, whatever it does, and remove its socket and note. Safe to repeat. CribError, OSError."""
        what = f"ending the shim of {instance}"
        async with self._lock(instance):
            with trying(what):
                shim = await self._find(instance)
                job, bundle = self._job(instance), self.bundle(instance)
                note = shim.note if shim is not None else await OURS.run(job, read_note, bundle)
                if shim is not None:
                    await self._shut_down(shim)
                self._forget(instance)
                if note is not None and note.process is not None:
                    there = [note.process]
                else:  # a start was under way, whose answer nobody heard
                    there = await OURS.run(job, find_shims, self._env.program, instance)
                for process in there:
                    await kill(what, process)
                paths = () if note is None else (note.address.path,)
                await OURS.run(job, remove_sockets, self._env.program, instance, *paths)
                await OURS.run(job, forget_note, bundle)

    async def clear_up(self, instance: str) -> Ended:
        """Have the shim's program undo what a shim that has gone left of a container, or of a pod's own.

        What it leaves undone is found and removed without it.
        """
        bundle, program = self.bundle(instance), self._env.program
        gone = Ended(LOST_CODE, 0)
        what = f"clearing up after the shim of {instance}"
        try:
            with trying(what):
                if not await OURS.run(self._job(instance), os.path.isdir, bundle):
                    return gone
                options = RunOptions(cwd=bundle, owner=instance)
                argv, env = program.delete(instance, bundle), program.environment(os.environ)
                said = checked(what, await run(argv, timeout=DELETE_TIME, env=env, options=options))
            return read_deleted(said.stdout)
        except CribError as error:
            _log.warning("%s", error)
            return gone

    async def is_lost(self, shim: Shim) -> bool:
        """Whether a shim whose connection has ended is gone for good; else it is connected to again."""
        return await self.find(shim.instance) is None

    def close(self) -> None:
        """Let go of all; they go on."""
        for instance in tuple(self._shims):
            self._forget(instance)

    def _lock(self, instance: str) -> asyncio.Lock:
        return self._locks.setdefault(instance, asyncio.Lock())

    def _forget(self, instance: str) -> None:
        shim = self._shims.pop(instance, None)
        if shim is not None:
            shim.disconnect()

    async def _find(self, instance: str) -> Shim | None:
        known = self._shims.get(instance)
        if known is not None and known.is_there:
            return known
        self._forget(instance)
        job, bundle = self._job(instance), self.bundle(instance)
        note = await OURS.run(job, read_note, bundle)
        if note is None:
            return None
        try:
            if note.process is not None and not is_alive(note.process):
                raise ShimLost("its process has ended")
            log = await ShimLog.open(instance, bundle)
            try:
                return await self._connected(instance, note, log, CONNECT_TIME)
            except BaseException:
                log.close()
                raise
        except (OSError, CribError) as error:
            if isinstance(error, Overdue) or (isinstance(error, OSError) and error.errno in _OUR_WANT):
                raise
            await self._bury(instance, note, str(error))
            return None

    async def _connected(self, instance: str, note: ShimNote, log: ShimLog, within: float) -> Shim:
        job = self._job(instance)
        await OURS.run(job, check_private, note.address.path)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(within):
            _, carrier = await loop.create_unix_connection(SocketCarrier, note.address.path)
        client = TtrpcClient(carrier)
        try:
            hello = ShimTasks(client, note.address.version, lambda: within)
            said = await hello.connect(instance)
            process = note.process or (identity(said.shim) if said.shim else None)
            if process != note.process or note.process is None:
                note = ShimNote(note.address, process)
                await OURS.run(job, write_note, self.bundle(instance), note)
        except BaseException:
            client.close()
            raise
        tasks = ShimTasks(client, note.address.version, lambda: self._env.settings.verb_timeout)
        shim = self._shims[instance] = Shim(instance, note, client, tasks, log)
        return shim

    async def _bury(self, instance: str, note: ShimNote, why: str) -> None:
        """It has gone, or answers nobody: then it is ended. What it held is its containers' to clear up."""
        _log.warning("the shim of %s is lost: %s", instance, why)
        if note.process is not None:
            await kill(f"the shim of {instance}", note.process)
        job, program = self._job(instance), self._env.program
        await OURS.run(job, remove_sockets, program, instance, note.address.path)
        await OURS.run(self._job(instance), forget_note, self.bundle(instance))

    async def _shut_down(self, shim: Shim) -> None:
        """Ask it to end, and wait a little."""
        with contextlib.suppress(CribError, TimeoutError):
            async with asyncio.timeout(SHUTDOWN_TIME):
                await shim.tasks.shutdown(shim.instance)
        if shim.note.process is not None:
            await ended(shim.note.process, SHUTDOWN_TIME)

    async def _run_start(self, instance: str) -> Completed:
        program = self._env.program
        return await run(
            program.start(instance),
            timeout=self._env.settings.verb_timeout,
            stdin=program.input(instance, whole=self._wants_all),
            env=program.environment(os.environ),
            options=RunOptions(cwd=self.bundle(instance), owner=instance),
        )

    def _job(self, instance: str) -> Job:
        return Job(f"the shim of {instance}", owner=instance, limit=self._env.settings.verb_timeout)


def _words(said: Completed) -> str:
    """Shims say it on either; containerd takes both."""
    text = (said.stderr or said.stdout).decode("utf-8", "replace").strip()
    return text or "it said nothing"
