"""Making a container, and unmaking whatever there is of one."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

from crib.backends.oci.argv import Monitored
from crib.backends.oci.bundles import BundleNote, Bundles, identity, is_alive
from crib.backends.oci.conmon import Monitors, MonitorStart
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.failures import runtime_words, trying
from crib.backends.oci.filters import SeccompFilters
from crib.backends.oci.pod_files import write_hosts
from crib.backends.oci.rootfs import LayerMounts, make_directories, mount_root, read_facts, unmount_root
from crib.backends.oci.sources import find_devices, prepare_mount_sources, read_seccomp_profile
from crib.host.files import remove_tree
from crib.host.pidfds import open_pidfd, wait_pidfd
from crib.host.processes import run
from crib.host.threads import run_to_end
from crib.model.container import ContainerRecord, ContainerUser
from crib.model.errors import Broken
from crib.model.ids import ContainerId
from crib.model.image import ImageConfig
from crib.model.sandbox import NamespaceMode, ProcessIdentity, SandboxRecord
from crib.ocispec.container import container_spec
from crib.ocispec.inputs import ContainerInputs, PodPaths
from crib.ocispec.seccomp import seccomp
from crib.ports import CreatedContainer, StageTimer
from crib.wire import oci_runtime as oci

_log = logging.getLogger(__name__)

_KILL_TIME = 10.0
_MONITOR_GRACE = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """What a container is made from."""

    record: ContainerRecord
    sandbox: SandboxRecord
    image: ImageConfig


class Containers:
    """Creates and deletes containers.

    Nothing is cleaned up but by `delete`, which needs no more than the id.
    """

    def __init__(self, environment: OciEnvironment, bundles: Bundles, layers: LayerMounts) -> None:
        self._env = environment
        self._paths = environment.paths
        self._bundles = bundles
        self._layers = layers
        self._monitors = Monitors(environment.monitor, environment.runtime)
        self._filters = SeccompFilters(environment.runtime.root)

    async def create(self, request: Request, stage: StageTimer) -> CreatedContainer:
        """See Handler.create."""
        record = request.record
        what = f"create of container {record.id}"
        with trying(what):
            with stage("root", record.config.name):
                layers = await self._layers.acquire(record.layers)
                # In a thread: host paths, devices and images may lie on file systems that are slow to answer.
                spec = await run_to_end(self._prepare, request, layers)
            with stage("create", record.config.name):
                first, monitor = await self._run_create(record, spec.process.args[0])
            if self._env.is_crun:
                self._filters.learn(record.id, spec.linux.seccomp)
        user = spec.process.user
        return CreatedContainer(
            process=first, monitor=monitor, user=ContainerUser(user.uid, user.gid, user.additional_gids)
        )

    async def delete(self, container: ContainerId) -> None:
        """Take away all there is of a container; safe to repeat."""
        what = f"delete of container {container}"
        note = self._bundles.read_note(container)
        over = note is not None and self._is_over(container, note)
        with trying(what):
            if not over:
                await self._delete_in_runtime(container)
            if note is not None:
                if not await self._env.cgroups.kill(note.cgroup, _KILL_TIME):
                    raise Broken(f"{what}: processes in {note.cgroup} do not die")
                await _end_monitor(note.monitor)
                if not over:
                    # A monitor that was in the middle of a create may have made it after the first look.
                    await self._delete_in_runtime(container)
                await self._env.cgroups.remove(note.cgroup)
            await run_to_end(unmount_root, self._paths, container)
            # A state that the runtime itself cannot read any more would otherwise stay for ever.
            remove_tree(f"{self._env.runtime.root}/{container}")
            for path in (self._paths.exit_file(container), self._paths.monitor_link(container)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def _is_over(self, container: ContainerId, note: BundleNote) -> bool:
        """Whether the runtime's delete has only a state directory and an empty cgroup left to remove.

        Then we remove both without it, which saves a program (5 ms). It holds for crun as long as our
        specs have no poststop hooks, which its delete would run.
        """
        return (
            self._env.is_crun
            and os.path.exists(self._paths.exit_file(container))
            and not self._env.cgroups.pids(note.cgroup)
        )

    async def _delete_in_runtime(self, container: ContainerId) -> None:
        """Ask the runtime.

        Its failing is no failure of ours: what it made is found and removed without it too.
        """
        if os.path.isdir(f"{self._env.runtime.root}/{container}"):
            limit = self._env.settings.verb_timeout
            completed = await run(self._env.runtime.delete(container), timeout=limit)
            if completed.exit_code != 0 or completed.timed_out:
                words = runtime_words(completed.stderr.decode("utf-8", "replace"))
                _log.warning("delete of container %s by %s: %s", container, self._env.facts.name, words)

    def _prepare(self, request: Request, layers: Sequence[str]) -> oci.Spec:
        record, config = request.record, request.record.config
        cgroup = f"{self._env.pod_cgroup(request.sandbox)}/{record.id}"
        own_pids = config.security.namespaces.pid == NamespaceMode.CONTAINER
        note = BundleNote(self._env.facts.name, cgroup, shared_pids=not own_pids)
        self._bundles.make(record.id, note)
        root = mount_root(self._paths, record.id, layers)
        target = config.security.namespaces.target_id
        write_hosts(self._paths, request.sandbox)
        inputs = ContainerInputs(
            id=record.id,
            config=config,
            sandbox=request.sandbox,
            image=request.image,
            host=self._env.host,
            handler=self._env.facts,
            rootfs=read_facts(root),
            pod=self._pod_paths(request.sandbox),
            root=root,
            cgroups_path=cgroup,
            target_pid=self._bundles.first_pid(ContainerId(target)) if target else 0,
            devices=find_devices(config),
            seccomp_profile=read_seccomp_profile(config.security.seccomp),
            default_hostname=socket.gethostname(),
        )
        if self._env.is_crun:
            inputs = replace(inputs, seccomp_filter=self._filters.known(seccomp(inputs)))
        spec = container_spec(inputs)
        # Only now, when nothing more can be refused: these last longer than the container.
        prepare_mount_sources(config, self._env.settings.missing_host_path)
        if record.log_path:
            os.makedirs(os.path.dirname(record.log_path), mode=0o755, exist_ok=True)
        make_directories(root, spec.process.cwd, request.image.volumes)
        self._bundles.write_spec(record.id, spec)
        return spec

    def _pod_paths(self, sandbox: SandboxRecord) -> PodPaths:
        paths = self._paths
        return PodPaths(
            hosts=paths.etc(sandbox.id, "hosts"),
            hostname=paths.etc(sandbox.id, "hostname"),
            resolv_conf=paths.etc(sandbox.id, "resolv.conf"),
            shm=paths.shm(sandbox.id),
            net_namespace=paths.namespace(sandbox.id, "net"),
            ipc_namespace=paths.namespace(sandbox.id, "ipc"),
            uts_namespace=paths.namespace(sandbox.id, "uts"),
            pid_namespace=f"/proc/{sandbox.infra.pid}/ns/pid"
            if is_alive(sandbox.infra) and sandbox.infra
            else "",
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
        monitor = identity(started.child.pid)
        note = self._bundles.read_note(record.id)
        if note is not None and monitor is not None:
            self._bundles.write_note(
                record.id, BundleNote(note.handler, note.cgroup, monitor, note.shared_pids)
            )
        first = identity(await started.pid(self._env.settings.verb_timeout))
        if first is None or monitor is None:
            raise Broken(f"create of container {record.id}: its first process was gone at once")
        return first, monitor


async def _end_monitor(monitor: ProcessIdentity | None) -> None:
    """Let a monitor whose container is gone write its exit file and end; kill it when it does not."""
    if monitor is None or not is_alive(monitor):
        return
    try:
        pidfd = open_pidfd(monitor.pid)
    except ProcessLookupError:
        return
    try:
        if is_alive(monitor) and not await wait_pidfd(pidfd, _MONITOR_GRACE):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await wait_pidfd(pidfd, _MONITOR_GRACE)
    finally:
        os.close(pidfd)
