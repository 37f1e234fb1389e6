"""Making a container in the Engine, and unmaking whatever there is of one.

Its bundle is made as for any handler, and tells what it is to be: users, mounts, capabilities, changes by
node plugins. The Engine is given that in its own words (`translate`), with the image's layers, and mounts a
root of its own; ours is let go of again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from dataclasses import replace

from crib.backends.bundle.bundles import BundleNote
from crib.backends.bundle.rootfs import remove_writable_layer, unmount_root
from crib.backends.container_deletes import ContainerDeletes
from crib.backends.docker.api import EngineLost
from crib.backends.docker.exits import DockerExits, made_file
from crib.backends.docker.mounts import FlaggedBind, flagged_binds
from crib.backends.docker.nouns import LABEL_CONTAINER, engine_name
from crib.backends.docker.tools import DockerTools
from crib.backends.docker.translate import (
    EngineDevice,
    EnginePlan,
    engine_container,
    permissions_of,
    plain_limits,
)
from crib.backends.failures import trying
from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.files import pod_paths
from crib.backends.pods.namespaces import pod_sysctls
from crib.backends.pods.updates import Updates
from crib.backends.streams.logs import remove_unused
from crib.host.mounts import Bind, perform, unmount, unmount_tree
from crib.host.threads import FOREIGN, OURS, Job
from crib.model.container import ContainerRecord, ContainerUser
from crib.model.errors import Broken, CribError, NotFound
from crib.model.ids import ContainerId
from crib.model.sandbox import SandboxRecord
from crib.model.signals import signal_number
from crib.ocispec.init_system import STOP_SIGNAL_KEY
from crib.ports.clocks import StageTimer
from crib.ports.containers import CreatedContainer, CreateRequest
from crib.wire import oci_runtime as oci

_log = logging.getLogger(__name__)

_KILL_TIME = 10.0
_IMAGE_TRIES = 2
"""Somebody may remove an image between its load and the create: then it is loaded once more."""


class DockerMaking(ContainerDeletes):
    """Creates and deletes containers."""

    def __init__(self, tools: DockerTools, exits: DockerExits) -> None:
        super().__init__()
        self._tools = tools
        self._env = tools.environment
        self._paths = tools.environment.paths
        self._names: CgroupNames = CgroupNames.of(tools.environment.settings)
        self._updates = Updates(tools.environment, tools.bundles)
        self._exits = exits

    async def create(self, request: CreateRequest, stage: StageTimer) -> CreatedContainer:
        """See ContainerRuntime.create."""
        record, name = request.record, request.record.config.name
        await self._env.require()
        with trying(f"create of container {record.id}"):
            with stage("root", name):
                made = await self._tools.making.make(request, lambda: self._clear_away(record.id))
            with stage("create", name):
                await self._create(request, made.spec)
        user = made.spec.process.user
        return CreatedContainer(
            process=None,
            monitor=None,
            user=ContainerUser(user.uid, user.gid, user.additional_gids),
            stop_signal=signal_number(made.spec.annotations.get(STOP_SIGNAL_KEY, "")),
        )

    async def _create(self, request: CreateRequest, spec: oci.Spec) -> None:
        record, tools = request.record, self._tools
        what = f"create of container {record.id}"
        plan = await FOREIGN.run(self._job(record.id, what), self._plan, request, spec)
        with trying(what, field="log_path"):
            await tools.logs.make_log(record)
        made = await self._create_in_engine(request, plan)
        await OURS.run(self._job(record.id, what), self._note, record, made)
        await self._updates.fresh(record, plain_limits(spec))
        found = await tools.containers.find(record.id)
        await OURS.run(
            self._job(record.id, what), self._use_root, record.id, found.upper if found is not None else ""
        )

    async def _create_in_engine(self, request: CreateRequest, plan: EnginePlan) -> str:
        record, images = request.record, self._tools.images
        body = engine_container(plan)  # what is refused loads nothing
        for tries in range(_IMAGE_TRIES):
            image = body["Image"] = await images.ensure(record.layers, request.layers)
            try:
                return await self._tools.containers.create(record.id, body)
            except NotFound:
                if tries + 1 == _IMAGE_TRIES:
                    raise
            except BaseException:
                await images.release(image)
                raise
        raise AssertionError("it has returned or raised")

    def _plan(self, request: CreateRequest, spec: oci.Spec) -> EnginePlan:
        """With the mounts and device nodes that are ours to make. Blocks."""
        record, sandbox = request.record, request.sandbox
        link = self._env.link.facts
        if link is None:
            raise EngineLost(self._env.link.problem)
        binds = flagged_binds(spec.mounts, self._paths.sandboxes)
        docker, config = self._env.docker, record.config
        log = {"max-size": str(docker.log_size), "max-file": str(docker.log_files)}
        kinds = {one.type for one in spec.linux.namespaces}
        return EnginePlan(
            spec=spec,
            image="",
            joined=self._joined(record, sandbox),
            cgroup_parent=self._names.below(self._names.pod(sandbox), record.id),
            labels=self._tools.containers.labels(**{LABEL_CONTAINER: record.id}),
            api=link.api,
            log={"Type": "json-file", "Config": log} if record.log_path else {"Type": "none"},
            privileged=config.security.privileged,
            capabilities=config.security.capabilities.add,
            stdin=config.stdin,
            stdin_once=config.stdin_once,
            devices=self._devices(record, spec),
            binds={bind.destination: self._bound(record.id, n, bind) for n, bind in enumerate(binds)},
            pod_files=self._paths.sandboxes,
            sysctls=self._sysctls(sandbox) if "network" in kinds else {},
        )

    def _joined(self, record: ContainerRecord, sandbox: SandboxRecord) -> dict[str, str]:
        """The namespaces of the pod's own container, and the pids of another one, by their paths."""
        pod, own = pod_paths(self._paths, sandbox), f"container:{engine_name(sandbox.id)}"
        joined = dict.fromkeys((pod.net_namespace, pod.ipc_namespace, pod.pid_namespace), own)
        if target := record.config.security.namespaces.target_id:
            pid = self._tools.bundles.first_pid(ContainerId(target))
            joined[f"/proc/{pid}/ns/pid"] = f"container:{engine_name(target)}"
        return joined

    def _sysctls(self, sandbox: SandboxRecord) -> dict[str, str]:
        """Those of the network: the Engine writes some with each container, unless it is told others."""
        wanted = pod_sysctls(sandbox.config, self._env.options.containers.sysctls)
        return {
            path.replace("/", "."): value for path, value in wanted.items() if path.startswith("net/ipv4/")
        }

    def _devices(self, record: ContainerRecord, spec: oci.Spec) -> list[EngineDevice]:
        """A node of ours for each: the Engine copies its mode and owner. A privileged one has the host's."""
        directory = f"{self._paths.container(record.id)}/devices"
        os.makedirs(directory, mode=0o700, exist_ok=True)
        found = []
        for number, device in enumerate(spec.linux.devices):
            if record.config.security.privileged and os.path.lexists(device.path):
                continue
            node = f"{directory}/{number}"
            kind = stat.S_IFBLK if device.type == "b" else stat.S_IFCHR
            with contextlib.suppress(FileExistsError):
                os.mknod(node, kind, os.makedev(device.major, device.minor))
            os.chown(node, device.uid or 0, device.gid or 0)
            os.chmod(node, 0o666 if device.file_mode is None else device.file_mode & 0o7777)
            found.append(EngineDevice(node, device.path, permissions_of(spec, device)))
        return found

    def _bound(self, container: ContainerId, number: int, bind: FlaggedBind) -> str:
        """A mount of ours with the flags that are wanted: what the Engine binds has them too."""
        target = f"{self._binds(container)}/{number}"
        if stat.S_ISDIR(os.stat(bind.source).st_mode):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        perform(
            Bind(
                bind.source,
                target,
                read_only=bind.read_only,
                recursive_read_only=bind.recursive_read_only,
                no_suid_dev=bind.no_suid_dev,
            )
        )
        return target

    async def let_go(self, container: ContainerId) -> None:
        """Of the mounts for flags, once the Engine has mounted them: here they would keep others busy."""
        what = f"letting go of the mounts of container {container}"
        await OURS.run(self._job(container, what), unmount_tree, self._binds(container))

    def _binds(self, container: ContainerId) -> str:
        return f"{self._paths.container(container)}/binds"

    def _note(self, record: ContainerRecord, made: str) -> None:
        """Its cgroup, which is there before the Engine starts it, and what the Engine calls it. Blocks."""
        bundles = self._tools.bundles
        note = bundles.read_note(record.id)
        if note is None:
            raise Broken(f"the note of container {record.id} is gone")
        note = replace(note, cgroup=f"{note.cgroup}/{made}")
        bundles.write_note(record.id, note)
        with open(made_file(self._paths.container(record.id)), "w", encoding="ascii") as file:
            file.write(made)
        self._env.cgroups.create(note.cgroup)

    def _use_root(self, container: ContainerId, upper: str) -> None:
        """What is written to the Engine's root is what the container keeps on disk. Blocks."""
        unmount(self._paths.rootfs(container), lazy=True)
        own = f"{self._paths.writable_layer(container)}/upper"
        with contextlib.suppress(FileNotFoundError):
            os.rename(own, f"{own}.unused")
        if upper:
            os.symlink(upper, own)

    async def _delete(self, what: str, container: ContainerId, *, made: bool) -> None:
        tools = self._tools
        self._exits.leave(container)
        try:
            note = await tools.bundles.note(container)
            if note is not None and not await self._env.cgroups.kill(note.cgroup, _KILL_TIME):
                raise Broken(f"{what}: processes in {note.cgroup} do not die")
            image = await self._image(container)
            await self._remove_in_engine(container, note)
            if note is not None:
                await self._remove_cgroup(what, container, note)
            await tools.logs.release(container)
            if note is not None and note.new_log and not made:
                await remove_unused(note.log_path, note.pod)
            await OURS.run(self._job(container, what), self._erase, container)
            await remove_writable_layer(self._paths, container)
            tools.bundles.forget(container)
            if image:
                with contextlib.suppress(CribError):
                    await tools.images.release(image)
        finally:
            self._exits.left(container)

    async def _image(self, container: ContainerId) -> str:
        with contextlib.suppress(CribError):
            found = await self._tools.containers.find(container)
            return found.image if found is not None else ""
        return ""

    async def _remove_in_engine(self, container: ContainerId, note: BundleNote | None) -> None:
        """An Engine that is away may have it as long as there is a bundle, or it was listed before."""
        try:
            await self._tools.containers.remove(container)
        except EngineLost:
            if note is not None:
                raise

    async def _remove_cgroup(self, what: str, container: ContainerId, note: BundleNote) -> None:
        """With the one around it, which was made for it alone."""
        own = note.cgroup
        while os.path.basename(own) and os.path.basename(own) != container:
            own = os.path.dirname(own)
        if os.path.basename(own) != container:
            return
        if not await self._env.cgroups.kill(own, _KILL_TIME):
            raise Broken(f"{what}: processes in {own} do not die")
        await self._env.cgroups.remove(own)

    def _erase(self, container: ContainerId) -> None:
        unmount_tree(self._binds(container))
        unmount_root(self._paths, container)

    def _job(self, container: ContainerId, what: str) -> Job:
        return Job(what, owner=container, limit=self._env.settings.verb_timeout)
