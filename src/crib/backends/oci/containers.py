"""Making a container, and unmaking whatever there is of one."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import replace

from crib.backends.bundle.bundles import BundleNote, Bundles
from crib.backends.bundle.rootfs import remove_writable_layer, unmount_root
from crib.backends.container_bundles import ContainerBundles, MadeBundle
from crib.backends.container_deletes import ContainerDeletes
from crib.backends.failures import trying
from crib.backends.known_processes import identity
from crib.backends.oci.command_lines import Monitored, RuntimeProgram
from crib.backends.oci.conmon import Monitors, MonitorStart, end_monitor
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.restores import BEGUN, WAITS, Restores, keeping_hostname
from crib.backends.oci.runtime_notes import delete_state, forget_state, knowing
from crib.backends.oci.seccomp_cache import SeccompFilters
from crib.backends.streams.logs import remove_unused
from crib.host.null_device import keep_null_device
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord, ContainerUser
from crib.model.errors import Broken, CribError, WrongState
from crib.model.ids import ContainerId
from crib.model.sandbox import ProcessIdentity
from crib.model.signals import signal_number
from crib.ocispec.init_system import STOP_SIGNAL_KEY
from crib.ports.clocks import StageTimer
from crib.ports.containers import CreatedContainer, CreateRequest, RestoredProcesses

_log = logging.getLogger(__name__)

_KILL_TIME = 10.0


class Containers(ContainerDeletes):
    """Creates and deletes containers."""

    def __init__(
        self,
        environment: OciEnvironment,
        bundles: Bundles,
        making: ContainerBundles,
        filters: SeccompFilters,
        restores: Restores,
    ) -> None:
        super().__init__()
        self._env = environment
        self._paths = environment.paths
        self._bundles = bundles
        self._making = making
        self._filters = filters
        self._restores = restores
        self._waiting: dict[ContainerId, tuple[CreateRequest, MadeBundle]] = {}
        """What was made of those that are restored when they start."""
        self._monitors = Monitors(environment.monitor, environment.runtime, environment.criu)
        self._told_of_null_device = False

    async def create(self, request: CreateRequest, stage: StageTimer) -> CreatedContainer:
        """See ContainerRuntime.create."""
        record = request.record
        self._env.require_usable()
        with trying(f"create of container {record.id}"):
            if request.restore is not None:
                with stage("checkpoint", record.config.name):
                    await self._restores.prepare(record, request.restore)
            with stage("root", record.config.name):
                made = await self._making.make(request, lambda: self._clear_away(record.id))
            if request.restore is not None:
                if request.restore.is_compared:
                    await self._restores.compare(record, request.restore, made.spec.process)
                self._waiting[record.id] = request, made
                await self._note_restore(record.id, WAITS)
                return _created(made, None, None)
            if self._env.runtime.stand_in:
                await OURS.run(self._ours(record.id), self._write_cgroup, record.id)
            with stage("create", record.config.name):
                own_users = request.sandbox.config.user_namespace is not None
                try:
                    first, monitor = await self._run_create(record, made.spec.process.args[0])
                finally:
                    if own_users:
                        self._keep_null_device(record.id)
                await self._making.check_started(request, made, first)
            profile = made.spec.linux.seccomp
            if self._filters.is_new(profile):
                await OURS.run(self._ours(record.id), self._filters.learn, record.id, profile)
        return _created(made, first, monitor)

    async def restore(self, record: ContainerRecord) -> RestoredProcesses:
        """The start of a container that was made from a checkpoint. It runs when this returns."""
        what = f"start of container {record.id}"
        with trying(what):
            note = await self._bundles.note(record.id)
            if note is None or note.restore != WAITS:
                raise WrongState(f"{what}: its restore was begun before")
            await self._note_restore(record.id, BEGUN)
            images = self._paths.restored_images(record.id)
            try:
                async with keeping_hostname(self._paths.namespace(record.sandbox_id, "uts")):
                    first, monitor = await self._run_create(record, "restore", images)
            except CribError as error:
                if reasons := await self._restores.reasons(record.id):
                    raise Broken(f"{what}: it cannot be restored: {reasons}") from error
                raise
            if (waiting := self._waiting.pop(record.id, None)) is not None:
                await self._making.check_started(*waiting, first)
            await self._restores.forget(record.id)
        return RestoredProcesses(first, monitor)

    async def _note_restore(self, container: ContainerId, restore: str) -> None:
        if (note := await self._bundles.note(container)) is not None:
            note = replace(note, restore=restore)
            await OURS.run(self._ours(container), self._bundles.write_note, container, note)

    async def _delete(self, what: str, container: ContainerId, *, made: bool) -> None:
        note = await self._bundles.note(container)
        over, runtimes = await OURS.run(self._ours(container), self._left_to_do, container, note)
        if note is not None and self._env.runtime_of(note.handler).stand_in:
            # The runtime would try for seconds to remove a cgroup with somebody in it.
            await self._env.cgroups.kill(note.cgroup, _KILL_TIME)
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
        self._waiting.pop(container, None)

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

    def _write_cgroup(self, container: ContainerId) -> None:
        """For the script that stands in for the container."""
        note, bundle = self._bundles.read_note(container), self._paths.container(container)
        directories = self._env.cgroups.directories(note.cgroup) if note is not None else ()
        with open(f"{bundle}/stand_in.cgroup", "w", encoding="utf-8") as file:
            file.writelines(f"{directory}/cgroup.procs\n" for directory in directories)

    def _ours(self, container: ContainerId) -> Job:
        limit = self._env.settings.verb_timeout
        return Job(f"the files of container {container}", owner=container, limit=limit)

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

    def _keep_null_device(self, container: ContainerId) -> None:
        """The monitor had /dev/null for what the container has no stream for (docs/adr/0038).

        Every create looks at what its own runtime did, so it does not matter which of two looks first.
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
        self, record: ContainerRecord, command: str, restore: str = ""
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
                restore=restore,
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


def _created(
    made: MadeBundle, first: ProcessIdentity | None, monitor: ProcessIdentity | None
) -> CreatedContainer:
    user = made.spec.process.user
    return CreatedContainer(
        process=first,
        monitor=monitor,
        user=ContainerUser(user.uid, user.gid, user.additional_gids),
        stop_signal=signal_number(made.spec.annotations.get(STOP_SIGNAL_KEY, "")),
    )
