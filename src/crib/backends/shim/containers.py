"""Making a container, and unmaking whatever there is of one."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from crib.backends.bundle.rootfs import remove_writable_layer, unmount_root
from crib.backends.container_bundles import ContainerBundles
from crib.backends.container_deletes import ContainerDeletes
from crib.backends.failures import trying
from crib.backends.known_processes import identity
from crib.backends.shim.exits import ShimExits
from crib.backends.shim.first_processes import FirstProcesses
from crib.backends.shim.nouns import ShimLost
from crib.backends.shim.shims import Shim
from crib.backends.shim.task_client import NAMESPACE
from crib.backends.shim.tools import ShimTools
from crib.backends.streams.logs import remove_unused
from crib.host.files import remove_tree
from crib.host.null_device import keep_null_device
from crib.host.threads import OURS, Job
from crib.model.container import ContainerUser
from crib.model.errors import Broken, CribError, NotFound
from crib.model.ids import ContainerId
from crib.model.sandbox import ProcessIdentity
from crib.model.signals import signal_number
from crib.ocispec.init_system import STOP_SIGNAL_KEY
from crib.ports.clocks import StageTimer
from crib.ports.containers import CreatedContainer, CreateRequest

_log = logging.getLogger(__name__)

_KILL_TIME = 10.0
UNDO_TIME = 30.0
"""Seconds that a shim may take to end and forget a container that is removed; then it is done without."""


class ContainerMaking(ContainerDeletes):
    """Creates and deletes containers."""

    def __init__(self, tools: ShimTools, exits: ShimExits) -> None:
        super().__init__()
        self._tools = tools
        self._bundles: ContainerBundles = tools.making
        self._io: FirstProcesses = tools.io
        self._env = tools.environment
        self._paths = tools.environment.paths
        self._exits = exits

    async def create(self, request: CreateRequest, stage: StageTimer) -> CreatedContainer:
        """See ContainerRuntime.create."""
        record, tools = request.record, self._tools
        self._env.require_usable()
        with trying(f"create of container {record.id}"):
            with stage("root", record.config.name):
                made = await self._bundles.make(request, lambda: self._clear_away(record.id))
            await self._prepare(request, stage)
            with stage("shim", record.config.name):
                shim = await tools.services.for_create(record.id, request.sandbox)
            with stage("create", record.config.name):
                first = await self._create(request, shim)
            if first is not None:
                await self._bundles.check_started(request, made, first)
        user = made.spec.process.user
        return CreatedContainer(
            process=first,
            monitor=shim.note.process,
            user=ContainerUser(user.uid, user.gid, user.additional_gids),
            stop_signal=signal_number(made.spec.annotations.get(STOP_SIGNAL_KEY, "")),
        )

    async def _prepare(self, request: CreateRequest, stage: StageTimer) -> None:
        """What a kind of shim needs beside the bundle, before it is asked."""

    async def _create(self, request: CreateRequest, shim: Shim) -> ProcessIdentity | None:
        """Its first process; None where that is none of this host."""
        record = request.record
        stdio = await self._io.prepare(record)
        bundle, options = self._paths.container(record.id), self._env.program.options
        try:
            pid = await shim.tasks.create(record.id, bundle, stdio, options)
        finally:
            own_users = request.sandbox.config.user_namespace is not None
            if own_users and await OURS.run(self._job(record.id), keep_null_device):
                _log.warning(
                    "create of container %s: the host's /dev/null went to the pod's users; it was put back",
                    record.id,
                )
        if self._env.facts.own_kernel:
            return None
        first = identity(pid) if pid else None
        if first is None:
            raise Broken(f"create of container {record.id}: its first process was gone at once")
        await OURS.run(self._job(record.id), self._write_pid, record.id, pid)
        return first

    def _write_pid(self, container: ContainerId, pid: int) -> None:
        with open(self._tools.bundles.pid_file(container), "w", encoding="ascii") as file:
            file.write(str(pid))

    async def _delete(self, what: str, container: ContainerId, *, made: bool) -> None:
        tools = self._tools
        await self._exits.forget(container)
        note = await tools.bundles.note(container)
        if note is not None:
            if not await self._env.cgroups.kill(note.cgroup, _KILL_TIME):
                raise Broken(f"{what}: processes in {note.cgroup} do not die")
            await self._undo(what, container)
            if not await self._env.cgroups.kill(note.cgroup, _KILL_TIME):
                raise Broken(f"{what}: processes in {note.cgroup} do not die")
            await self._env.cgroups.remove(note.cgroup)
        await tools.services.forget(container)
        await self._io.release(container)
        if note is not None and note.new_log and not made:
            await remove_unused(note.log_path, note.pod)
        await OURS.run(self._job(container), self._erase, container)
        await remove_writable_layer(self._paths, container)
        tools.bundles.forget(container)

    async def _undo(self, what: str, container: ContainerId) -> None:
        """Have the shim forget it, or else its program."""
        try:
            async with asyncio.timeout(UNDO_TIME):
                if await self._forgotten(container):
                    return
        except (CribError, OSError) as error:
            _log.warning("%s: %s; its shim's program does it", what, error or "the shim does not answer")
        if await OURS.run(self._job(container), self._may_be_left, container):
            await self._tools.shims.clear_up(container)

    def _may_be_left(self, container: ContainerId) -> bool:
        """Whether the runtime knows it, as far as can be seen."""
        return not self._env.runtime_root or os.path.isdir(self._state(container))

    def _state(self, container: ContainerId) -> str:
        return f"{self._env.runtime_root}/{NAMESPACE}/{container}"

    async def _forgotten(self, container: ContainerId) -> bool:
        """Whether its shim has done so, now or when it ended."""
        shim = await self._tools.services.shim_of(container)
        deleted = await self._exits.read(container) is not None
        if shim is None:
            return deleted
        try:
            while True:
                try:
                    await shim.tasks.kill(container, signal.SIGKILL, everyone=True)
                except NotFound:
                    pass  # it has ended; or the shim does not know it, as its state tells
                await shim.tasks.wait(container)
                await shim.tasks.delete(container)
                deleted = True
        except NotFound:
            return deleted
        except ShimLost:
            return False

    def _erase(self, container: ContainerId) -> None:
        if self._env.runtime_root:
            remove_tree(self._state(container))
        unmount_root(self._paths, container)

    def _job(self, container: ContainerId) -> Job:
        limit = self._env.settings.verb_timeout
        return Job(f"the files of container {container}", owner=container, limit=limit)
