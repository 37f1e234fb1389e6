"""Making a container, and unmaking whatever there is of one."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from crib.backends.bundle.bundles import BundleNote, Bundles
from crib.backends.bundle.cdi import CdiRegistry
from crib.backends.bundle.hook_files import HookFiles
from crib.backends.bundle.host_resources import (
    ForeignLook,
    find_devices,
    find_node_devices,
    find_node_mounts,
    make_log_directory,
    prepare_mount_sources,
    read_seccomp_profile,
)
from crib.backends.bundle.id_maps import locked_options, mounts_inside, pod_id_map
from crib.backends.bundle.labels import Labels
from crib.backends.bundle.mount_targets import Landing, Placed, check_landings, check_places
from crib.backends.bundle.rootfs import (
    SharedLayers,
    check_mount_points,
    make_directories,
    mount_root,
    read_facts,
    remove_writable_layer,
    unmount_root,
)
from crib.backends.bundle.volumes import Stacks, Volumes
from crib.backends.failures import trying
from crib.backends.known_processes import identity
from crib.backends.oci.command_lines import Monitored, RuntimeProgram
from crib.backends.oci.conmon import Monitors, MonitorStart, end_monitor
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.late import clear_away
from crib.backends.oci.logs import check_log
from crib.backends.oci.runtime_notes import delete_state, forget_state, knowing
from crib.backends.oci.seccomp_cache import SeccompFilters
from crib.backends.oci.unused_logs import remove_unused
from crib.backends.pods.files import pod_paths, write_hosts
from crib.backends.pods.oom import OomKills
from crib.host.null_device import keep_null_device
from crib.host.threads import FOREIGN, OURS, Job, Overdue
from crib.model.container import ContainerRecord, ContainerUser
from crib.model.errors import Broken, Unavailable
from crib.model.ids import ContainerId
from crib.model.image import ImageConfig
from crib.model.sandbox import NamespaceMode, ProcessIdentity, SandboxRecord
from crib.model.signals import signal_number
from crib.ocispec.container import container_document, container_spec, made_mounts, runs_hooks_at_delete
from crib.ocispec.init_system import STOP_SIGNAL_KEY
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.process import process_args
from crib.ocispec.seccomp import seccomp
from crib.ocispec.security import volume_label
from crib.ocispec.selinux import file_label
from crib.ports.clocks import StageTimer
from crib.ports.handler import CreatedContainer
from crib.wire import oci_runtime as oci

_log = logging.getLogger(__name__)

_KILL_TIME = 10.0


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """What a container is made from."""

    record: ContainerRecord
    sandbox: SandboxRecord
    image: ImageConfig


class Containers:
    """Creates and deletes containers. Nothing is cleaned up but by `delete`, which needs the id alone."""

    def __init__(
        self,
        environment: OciEnvironment,
        bundles: Bundles,
        layers: SharedLayers,
        oom: OomKills,
        filters: SeccompFilters,
    ) -> None:
        self._env = environment
        self._filters = filters
        self._paths = environment.paths
        self._bundles = bundles
        self._layers = layers
        self._oom = oom
        self._volumes = Volumes(self._paths, layers, environment.settings)
        self._monitors = Monitors(environment.monitor, environment.runtime)
        self._labels = Labels(environment.paths, environment.host)
        self._cdi = CdiRegistry(environment.settings.cdi_spec_dirs)
        self._hooks = HookFiles(environment.settings.oci_hooks_dirs)
        self._told_of_null_device = False
        self._deletes: WeakValueDictionary[ContainerId, asyncio.Lock] = WeakValueDictionary()

    async def create(self, request: ContainerRequest, stage: StageTimer) -> CreatedContainer:
        """See Handler.create."""
        record = request.record
        self._env.require_usable()
        with trying(f"create of container {record.id}"):
            with stage("root", record.config.name):
                layers = await self._layers.acquire(record.layers)
                security = record.config.security
                await self._labels.load_default_profile(security.apparmor, privileged=security.privileged)
                stacks = await self._volumes.acquire(record)
                spec, landings = await self._prepared(request, layers, stacks)
            with stage("create", record.config.name):
                own_users = request.sandbox.config.user_namespace is not None
                try:
                    first, monitor = await self._run_create(record, spec.process.args[0])
                finally:
                    if own_users:
                        self._keep_null_device(record.id)
                if landings:
                    job = self._foreign("looking at its mounts", record)
                    await FOREIGN.run(job, check_landings, landings, f"/proc/{first.pid}")
                if own_users:
                    job = self._foreign("letting go of its volumes", record)
                    await FOREIGN.run(job, self._volumes.let_go, record.id)
            if self._filters.is_new(spec.linux.seccomp):
                await OURS.run(self._ours(record.id), self._filters.learn, record.id, spec.linux.seccomp)
        user = spec.process.user
        return CreatedContainer(
            process=first,
            monitor=monitor,
            user=ContainerUser(user.uid, user.gid, user.additional_gids),
            stop_signal=signal_number(spec.annotations.get(STOP_SIGNAL_KEY, "")),
        )

    async def delete(self, container: ContainerId, *, made: bool = True) -> None:
        """Take away all there is of a container; safe to repeat. Not its log, unless it was never `made`.

        One at a time, as one of them may be asked for by a thread that came too late (`_prepared`).
        """
        what = f"delete of container {container}"
        async with self._deletes.setdefault(container, asyncio.Lock()):
            with trying(what):
                await self._delete(what, container, made=made)

    async def _delete(self, what: str, container: ContainerId, *, made: bool) -> None:
        note = await self._bundles.note(container)
        over, runtimes = await OURS.run(self._ours(container), self._left_to_do, container, note)
        if not over:
            await self._delete_in_runtimes(container, runtimes)
        if note is not None:
            if not await self._env.cgroups.kill(note.cgroup, _KILL_TIME):
                raise Broken(f"{what}: processes in {note.cgroup} do not die")
            await end_monitor(note.monitor)
            if not over:
                # A monitor that was in the middle of a create may have made it after the first look.
                await self._delete_in_runtimes(container, runtimes)
            await self._env.cgroups.remove(note.cgroup)
            if note.new_log and not made:
                await remove_unused(note.log_path, note.pod)
        await OURS.run(self._ours(container), self._erase, container, runtimes)
        await remove_writable_layer(self._paths, container)
        self._bundles.forget(container)

    def _left_to_do(
        self, container: ContainerId, note: BundleNote | None
    ) -> tuple[bool, Sequence[RuntimeProgram]]:
        """Whether it `_is_over`, and which runtimes may know it."""
        theirs = (self._env.runtime_of(note.handler),) if note is not None else ()
        over = note is not None and self._is_over(container, note)
        return over, tuple(dict.fromkeys((*theirs, *self._env.runtimes())))

    def _erase(self, container: ContainerId, runtimes: Sequence[RuntimeProgram]) -> None:
        unmount_root(self._paths, container)
        for runtime in runtimes:
            forget_state(runtime, container)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._paths.monitor_link(container))
        exit_file = self._paths.exit_file(container)
        try:
            os.unlink(exit_file)
        except FileNotFoundError:  # its monitor may have been killed over what it would rename
            for draft in glob.glob(f"{exit_file}.*"):
                os.unlink(draft)

    def _ours(self, container: ContainerId) -> Job:
        limit = self._env.settings.verb_timeout
        return Job(f"the files of container {container}", owner=container, limit=limit)

    def _foreign(self, what: str, record: ContainerRecord) -> Job:
        limit = self._env.settings.verb_timeout
        return Job(f"create of container {record.id}: {what}", owner=record.sandbox_id, limit=limit)

    def _is_over(self, container: ContainerId, note: BundleNote) -> bool:
        """Whether the runtime's delete has only a state directory and an empty cgroup left to remove.

        Then we remove both without it, which saves a program (5 ms). It holds for crun, and for a spec
        without poststop hooks, which the delete runs; where systemd made the cgroup, it must be told.
        """
        return (
            self._env.is_crun
            and not self._env.names.systemd
            and note.handler == self._env.facts.name
            and not note.poststop
            and os.path.exists(self._paths.exit_file(container))
            and not self._env.cgroups.pids(note.cgroup)
        )

    async def _delete_in_runtimes(self, container: ContainerId, runtimes: Sequence[RuntimeProgram]) -> None:
        for runtime in await OURS.run(self._ours(container), knowing, runtimes, container):
            await delete_state(runtime, container, self._env.settings.verb_timeout)

    async def _prepared(
        self, request: ContainerRequest, layers: Sequence[str], stacks: Stacks
    ) -> tuple[oci.Spec, Sequence[Landing]]:
        """`_prepare` in a thread: host paths and devices may lie on file systems that do not answer."""
        record, look = request.record, ForeignLook()

        def late() -> None:
            clear_away(f"create of container {record.id}", self.delete(record.id))

        job = replace(self._foreign("preparing its root", record), stop=look.stop, late=late)
        try:
            return await FOREIGN.run(job, self._prepare, request, layers, stacks, look)
        except Overdue as error:
            raise Unavailable(f"{error}{look.where}") from error

    def _prepare(
        self, request: ContainerRequest, layers: Sequence[str], stacks: Stacks, look: ForeignLook
    ) -> tuple[oci.Spec, Sequence[Landing]]:
        record, config = request.record, request.record.config
        look.at_all(record, self._env.options.containers)
        names = self._env.names
        cgroup = names.below(names.pod(request.sandbox), record.id)
        own_pids = config.security.namespaces.pid == NamespaceMode.CONTAINER
        if record.log_path:
            check_log(record.log_path, "config.log_path")
        note = BundleNote(
            self._env.facts.name,
            cgroup,
            shared_pids=not own_pids,
            log_path=record.log_path,
            new_log=bool(record.log_path) and not os.path.lexists(record.log_path),
            pod=request.sandbox.id,
            oom_kills=self._oom.before(cgroup),
        )
        self._bundles.make(record.id, note)
        idmap = pod_id_map(self._paths, request.sandbox)
        level = self._labels.level(request.sandbox.id)
        files = file_label(config, request.sandbox.config, self._env.host, level)
        self._labels.check(files)  # the mount would only say EINVAL
        root = mount_root(self._paths, record.id, layers, idmap, files)
        check_mount_points(root)
        self._volumes.mount_images(record.id, stacks, idmap, files)
        write_hosts(self._paths, request.sandbox)
        self._labels.label_pod(request.sandbox)
        inputs = self.gather(request, root)
        look.go_on()
        spec = container_spec(inputs)
        self._labels.check(spec.process.selinux_label)
        document = container_document(inputs, spec)
        placed = Placed(
            mounts=made_mounts(inputs, spec),
            devices=[device.path for device in spec.linux.devices],
            contents=self._volumes.contents(record, root, inputs),
        )
        landings = check_places(root, config, placed)
        look.go_on()
        if runs_hooks_at_delete(inputs, spec):
            self._bundles.write_note(record.id, replace(note, poststop=True))
        # Only now, when nothing more can be refused: these last longer than the container.
        prepare_mount_sources(config, self._env.settings.missing_host_path)
        self._volumes.prepare(record, idmap, volume_label(inputs))
        look.go_on()
        if record.log_path:
            make_log_directory(os.path.dirname(record.log_path), "config.log_path")
        make_directories(root, spec.process.cwd, self._volumes.plain(request.image), idmap)
        self._volumes.fill(root, inputs.declared_volumes, files)
        self._bundles.write_spec(record.id, document)
        return spec, landings

    def gather(self, request: ContainerRequest, root: str) -> ContainerInputs:
        """All that the recipe needs to know. It only reads: explanations are made from it too."""
        names = self._env.names
        config, options = request.record.config, self._env.options
        target = config.security.namespaces.target_id
        inputs = ContainerInputs(
            id=request.record.id,
            config=config,
            sandbox=request.sandbox,
            image=request.image,
            host=self._env.host,
            handler=self._env.facts,
            rootfs=read_facts(root, process_args(config, request.image)[0]),
            pod=pod_paths(self._paths, request.sandbox),
            root=root,
            cgroups_path=names.oci_path(names.pod(request.sandbox), request.record.id),
            target_pid=self._bundles.first_pid(ContainerId(target)) if target else 0,
            devices=find_devices(config, withhold=options.privileged_without_host_devices),
            node_mounts=find_node_mounts(options.containers),
            node_devices=find_node_devices(options.containers),
            default_seccomp=self._env.default_seccomp,
            options=options,
            base_spec=self._env.base_spec,
            edits=self._cdi.edits(config),
            hook_rules=self._hooks.rules(),
            device_ownership=self._env.settings.device_ownership_from_security_context,
            seccomp_profile=read_seccomp_profile(config.security.seccomp),
            profiles=self._labels.loaded_profiles(
                config.security.apparmor, privileged=config.security.privileged
            ),
            selinux_level=self._labels.level(request.sandbox.id),
            pids_limit=self._env.settings.pids_limit,
            default_hostname=socket.gethostname(),
            mount_sources=self._volumes.sources(request.record, request.sandbox),
            declared_volumes=self._volumes.declared(request.record, root, request.image),
        )
        if request.sandbox.config.user_namespace is not None:
            inputs = self._with_mount_facts(inputs)
        if self._filters.kept:
            inputs = replace(inputs, seccomp_filter=self._filters.known(seccomp(inputs)))
        return inputs

    def _with_mount_facts(self, inputs: ContainerInputs) -> ContainerInputs:
        """What a runtime in a user namespace does not see of its own about the sources of mounts."""
        sources = [mount.host_path for mount in inputs.config.mounts]
        forgets = not self._env.facts.recursive_binds
        return replace(
            inputs,
            locked_options=locked_options([*sources, *(mount.source for mount in inputs.node_mounts)]),
            submounts=mounts_inside(sources) if forgets else (),
        )

    def _keep_null_device(self, container: ContainerId) -> None:
        """The monitor had /dev/null for what the container has no stream for (docs/adr/0038).

        Every create looks after what its own runtime did, so it matters not which of two looks first.
        """
        if keep_null_device() and not self._told_of_null_device:
            self._told_of_null_device = True
            _log.warning(
                "create of container %s: %s gave the host's /dev/null to the pod's users; it was put back"
                " (crun 1.24 does not)",
                container,
                self._env.runtime.program,
            )

    async def _run_create(
        self, record: ContainerRecord, command: str
    ) -> tuple[ProcessIdentity, ProcessIdentity]:
        config = record.config
        started = self._monitors.spawn(
            Monitored(
                id=record.id,
                name=config.name,
                bundle=self._paths.container(record.id),
                pid_file=self._bundles.pid_file(record.id),
                command=command,
                short_id=os.path.basename(self._paths.monitor_link(record.id)),
                log_path=record.log_path,
                terminal=config.tty,
                stdin=config.stdin,
                stdin_once=config.stdin_once,
            )
        )
        with contextlib.closing(started):
            return await self._hear(record, started)

    async def _hear(
        self, record: ContainerRecord, started: MonitorStart
    ) -> tuple[ProcessIdentity, ProcessIdentity]:
        try:
            monitor = identity(started.child.pid)
            note = await self._bundles.note(record.id)
            if note is not None and monitor is not None:
                note = replace(note, monitor=monitor)
                await OURS.run(self._ours(record.id), self._bundles.write_note, record.id, note)
        except BaseException:
            await started.end()  # `delete` would not know of it
            raise
        first = identity(await started.pid(self._env.settings.verb_timeout))
        if first is None or monitor is None:
            raise Broken(f"create of container {record.id}: its first process was gone at once")
        return first, monitor
