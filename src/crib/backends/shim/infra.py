"""What runs for a pod itself: the container that holds its pids, or all of it, and the shim that serves it.

Its bundle lies beside those of the pod's containers, under the pod's id: there shims look for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

import msgspec

from crib.backends.known_processes import identity
from crib.backends.shim.exits import RETRY_AFTER, ShimExits
from crib.backends.shim.nouns import ShimLost, Stdio
from crib.backends.shim.sandbox_service import SandboxService
from crib.backends.shim.shims import Shim
from crib.backends.shim.task_client import NAMESPACE, ShimTasks
from crib.backends.shim.tools import ShimTools
from crib.host.files import atomic_write, remove_tree
from crib.host.mount_table import is_mountpoint
from crib.host.mounts import Bind, perform, unmount_tree
from crib.host.threads import OURS, Job
from crib.model.errors import Broken, CribError, NotFound
from crib.model.ids import SandboxId
from crib.model.sandbox import ProcessIdentity
from crib.ocispec.infra import InfraInputs
from crib.ports.clocks import StageTimer
from crib.tasks.keeper import HANDS
from crib.wire import oci_runtime as oci

_log = logging.getLogger(__name__)

END_TIME = 30.0
"""Seconds that a shim may take to end and forget a pod's own container; then it is done without."""


class ShimInfra:
    """See pods.InfraProcesses."""

    def __init__(self, tools: ShimTools, exits: ShimExits) -> None:
        self._tools = tools
        self._env = tools.environment
        self._exits = exits
        self._watched: dict[SandboxId, asyncio.Task[None]] = {}
        self._cleared: set[SandboxId] = set()
        """Pods whose shim has gone: who watched it takes away what it has left of the pod's own container."""

    async def start(self, sandbox: SandboxId, inputs: InfraInputs, stage: StageTimer) -> ProcessIdentity:
        what, shims = f"the container of sandbox {sandbox} itself", self._tools.shims
        bundle = shims.bundle(sandbox)
        await OURS.run(self._job(sandbox), self._write_bundle, sandbox, inputs)
        with stage("shim", sandbox):
            shim = await shims.start(sandbox)
        service = SandboxService(shim.client, lambda: self._env.settings.verb_timeout)
        if await self._uses_service(service, sandbox):
            with stage("sandbox", sandbox):
                try:
                    pid = await service.start(sandbox, bundle, inputs, self._env.program.options)
                finally:
                    stage.adopt(await service.stages(sandbox))
        else:
            pid = await self._begin(sandbox, shim.tasks)
        found = identity(pid) if pid else shim.note.process
        if found is None:
            raise Broken(f"{what}: it ended at once")
        self.watch(sandbox)
        return found

    async def _begin(self, sandbox: SandboxId, tasks: ShimTasks) -> int:
        """As a container: its pid, or 0."""
        bundle = self._tools.shims.bundle(sandbox)
        pid = await tasks.create(sandbox, bundle, Stdio(), self._env.program.options)
        return await tasks.start(sandbox) or pid

    def watch(self, sandbox: SandboxId) -> None:
        """End what runs for the pod when its shim dies: the pod is lost then, as its process ends."""
        if sandbox not in self._watched:
            task = HANDS.part("waiting for the end of a pod", self._watch(sandbox), sandbox)
            self._watched[sandbox] = task
            task.add_done_callback(lambda _done: self._watched.pop(sandbox, None))

    def exists(self, sandbox: SandboxId) -> bool:
        return os.path.isdir(self._tools.shims.bundle(sandbox))

    async def end(self, sandbox: SandboxId) -> None:
        watching = self._watched.pop(sandbox, None)
        if watching is not None:
            if sandbox not in self._cleared:
                watching.cancel()
            await asyncio.wait([watching])
        await self._exits.put_away(sandbox)
        shim = await self._tools.shims.find(sandbox)
        ended = sandbox in self._cleared or (shim is not None and await self._ended(sandbox, shim))
        if not ended and await OURS.run(self._job(sandbox), os.path.islink, self._env.paths.infra(sandbox)):
            await self._tools.shims.clear_up(sandbox)
        await self._tools.shims.end(sandbox)
        self._cleared.discard(sandbox)

    def forget(self, sandbox: SandboxId) -> None:
        if self._env.runtime_root:
            remove_tree(f"{self._env.runtime_root}/{NAMESPACE}/{sandbox}")
        bundle = self._tools.shims.bundle(sandbox)
        if os.path.isdir(bundle):
            unmount_tree(f"{bundle}/rootfs")
            remove_tree(bundle)

    def close(self) -> None:
        """Watch nothing any more."""
        for task in tuple(self._watched.values()):
            task.cancel()

    async def _watch(self, sandbox: SandboxId) -> None:
        while True:
            try:
                shim = await self._tools.shims.find(sandbox)
            except (CribError, OSError) as error:
                _log.warning("pod sandbox %s: its shim cannot be looked at: %s; trying again", sandbox, error)
                await asyncio.sleep(RETRY_AFTER)
                continue
            if shim is None:
                break
            await shim.client.gone()
        _log.warning("pod sandbox %s: its shim has gone, and what runs for the pod is ended", sandbox)
        self._cleared.add(sandbox)
        await self._tools.shims.clear_up(sandbox)

    async def _ended(self, sandbox: SandboxId, shim: Shim) -> bool:
        """Whether the shim has ended and forgotten what runs for the pod, or knows nothing of it."""
        try:
            async with asyncio.timeout(END_TIME):
                if self._env.facts.sandbox_container:
                    service = SandboxService(shim.client, lambda: END_TIME)
                    with contextlib.suppress(CribError):  # it has none, or the pod was begun with a container
                        await service.stop(sandbox)
                        return True
                with contextlib.suppress(NotFound):
                    await shim.tasks.kill(sandbox, signal.SIGKILL, everyone=True)
                await shim.tasks.wait(sandbox)
                await shim.tasks.delete(sandbox)
        except NotFound:
            return True
        except ShimLost:
            return False
        except (CribError, TimeoutError) as error:
            _log.warning("the end of pod sandbox %s: %s", sandbox, error or "its shim does not answer")
            return False
        return True

    async def _uses_service(self, service: SandboxService, sandbox: SandboxId) -> bool:
        asked = self._env.sandbox_service
        if asked == "never" or not self._env.facts.sandbox_container:
            return False
        if await service.is_offered(sandbox):
            return True
        if asked == "always":
            raise Broken(f"sandbox {sandbox}: the shim {self._env.program.path} has no sandbox service")
        return False

    def _write_bundle(self, sandbox: SandboxId, inputs: InfraInputs) -> None:
        bundle, spec = self._tools.shims.bundle(sandbox), self._env.pod_spec(inputs)
        os.makedirs(bundle, mode=0o700, exist_ok=True)
        if self._env.facts.sandbox_container:
            # Shims of virtual machines look for the root in the bundle, and take it into the machine.
            root = f"{bundle}/rootfs"
            os.makedirs(root, mode=0o755, exist_ok=True)
            if not is_mountpoint(root):
                perform(Bind(inputs.root, root, read_only=True))
            spec = msgspec.structs.replace(spec, root=oci.Root(path=root, readonly=True))
        atomic_write(f"{bundle}/config.json", oci.encode(spec), 0o600)
        with contextlib.suppress(FileExistsError):
            os.symlink(bundle, self._env.paths.infra(sandbox))

    def _job(self, sandbox: SandboxId) -> Job:
        limit = self._env.settings.verb_timeout
        return Job(f"the container of sandbox {sandbox} itself", owner=sandbox, limit=limit)
