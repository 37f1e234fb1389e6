"""Pods of the OCI kind.

A directory of files, pinned namespaces, a shm, a cgroup; and an infra process if pids are shared.
"""

from __future__ import annotations

import asyncio
import os

from crib.backends.oci.bundles import identity, is_alive
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.failures import checked, trying
from crib.backends.oci.infra import infra_spec, install_infra, read_pid, write_bundle
from crib.backends.oci.pod_files import check_pod_files, write_pod_files
from crib.host.files import remove_tree
from crib.host.mount_table import is_mountpoint
from crib.host.mounts import Tmpfs, perform, set_propagation, unmount
from crib.host.namespaces import Kind, pin_namespaces_async, unpin
from crib.host.processes import run
from crib.host.sysctls import check_value, required_namespace, write_sysctl
from crib.model.errors import Broken, InvalidRequest
from crib.model.ids import SandboxId
from crib.model.sandbox import NamespaceMode, ProcessIdentity, SandboxConfig, SandboxRecord
from crib.ports import StageTimer

SHM_SIZE = 64 << 20
_KINDS: tuple[Kind, ...] = ("net", "ipc", "uts", "cgroup")
_KILL_TIME = 10.0


class Pods:
    """Makes pods and takes them away again."""

    def __init__(self, environment: OciEnvironment) -> None:
        self._env = environment
        self._paths = environment.paths

    async def prepare(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        """See Handler.prepare_pod. Half-made things are left for `remove`."""
        config = record.config
        _check(config)
        cgroup = self._env.pod_cgroup(record)
        with trying(f"preparing sandbox {record.id}"):
            with stage("files", record.id):
                os.makedirs(f"{self._paths.sandbox(record.id)}/ns", mode=0o711, exist_ok=True)
                if config.log_directory:
                    os.makedirs(config.log_directory, mode=0o755, exist_ok=True)
                write_pod_files(self._paths, record)
                if config.security.namespaces.ipc != NamespaceMode.NODE:
                    self._mount_shm(record.id)
            with stage("namespaces", record.id):
                await self._pin(record)
            if not config.cgroup_parent:
                with stage("cgroup", record.id):
                    self._env.cgroups.create(cgroup)
            if not config.shares_pid:
                return None
            with stage("infra", record.id):
                return await self._start_infra(record, cgroup)

    async def stop(self, record: SandboxRecord) -> None:
        """End the infra process, let go of namespaces and shm; safe to repeat."""
        await self._release(record.id, self.cgroup(record))

    def cgroup(self, record: SandboxRecord) -> str:
        """The cgroup that the pod's containers lie below, for looking and tearing down: never refused."""
        try:
            return self._env.pod_cgroup(record)
        except InvalidRequest:  # the pod was refused for its cgroup parent, so nothing was made there
            return self._own_cgroup(record.id)

    async def remove(self, record: SandboxRecord) -> None:
        """`stop`, then files and cgroup; safe to repeat."""
        await self.stop(record)
        await self._erase(record.id, own_cgroup=not record.config.cgroup_parent)

    async def remove_unknown(self, sandbox: SandboxId) -> None:
        """Take away a pod of which nothing but the id is known."""
        await self._release(sandbox, self._own_cgroup(sandbox))
        await self._erase(sandbox, own_cgroup=True)

    def alive(self, record: SandboxRecord) -> bool:
        """Whether all that it was made with is still there."""
        pins = all(is_mountpoint(self._paths.namespace(record.id, kind)) for kind in _kinds(record.config))
        return pins and (not record.config.shares_pid or is_alive(record.infra))

    def _own_cgroup(self, sandbox: SandboxId) -> str:
        return f"{self._env.settings.cgroup_root.rstrip('/')}/{sandbox}"

    def _mount_shm(self, sandbox: SandboxId) -> None:
        shm = self._paths.shm(sandbox)
        os.makedirs(shm, exist_ok=True)
        if not is_mountpoint(shm):
            perform(Tmpfs(shm, SHM_SIZE, mode=0o1777, no_exec=True))

    async def _pin(self, record: SandboxRecord) -> None:
        config = record.config
        kinds = _kinds(config)
        if not kinds:
            return
        directory = f"{self._paths.sandbox(record.id)}/ns"

        def inside() -> None:
            for name, value in config.sysctls.items():
                try:
                    write_sysctl(name, value)
                except (OSError, ValueError) as error:
                    raise InvalidRequest(
                        f"{name}={value!r}: {error}", field="config.linux.sysctls"
                    ) from error

        hostname = config.hostname if "uts" in kinds and config.hostname else None
        await pin_namespaces_async(kinds, directory, hostname=hostname, inside=inside)
        for kind in kinds:
            # A container that binds all of /run must not get a copy: it would keep the namespace alive
            # after us.
            set_propagation(f"{directory}/{kind}", "unbindable")

    async def _start_infra(self, record: SandboxRecord, cgroup: str) -> ProcessIdentity:
        paths, runtime = self._paths, self._env.runtime
        root = await asyncio.to_thread(install_infra, paths, self._env.settings.catatonit)
        bundle = f"{paths.sandbox(record.id)}/infra"
        spec = infra_spec(record, self._env.host, paths, root, f"{cgroup}/{record.id}")
        write_bundle(bundle, spec)
        pid_file = f"{bundle}/pidfile"
        what = f"infra process of sandbox {record.id}"
        limit = self._env.settings.verb_timeout
        checked(what, await run(runtime.create(record.id, bundle, pid_file), timeout=limit))
        checked(what, await run(runtime.start(record.id), timeout=limit))
        found = identity(read_pid(pid_file))
        if found is None:
            raise Broken(f"{what}: it ended at once")
        return found

    async def _release(self, sandbox: SandboxId, pod_cgroup: str) -> None:
        what = f"stopping sandbox {sandbox}"
        with trying(what):
            state = f"{self._env.runtime.root}/{sandbox}"
            if os.path.isdir(state):
                # Its failing is no failure of ours: what it made is found and removed without it too.
                await run(self._env.runtime.delete(sandbox), timeout=self._env.settings.verb_timeout)
            infra_cgroup = f"{pod_cgroup}/{sandbox}"
            if not await self._env.cgroups.kill(infra_cgroup, _KILL_TIME):
                raise Broken(f"{what}: the infra process does not die")
            await self._env.cgroups.remove(infra_cgroup)
            remove_tree(state)
            for kind in _KINDS:
                unpin(self._paths.namespace(sandbox, kind))
            while unmount(self._paths.shm(sandbox), lazy=True):
                pass

    async def _erase(self, sandbox: SandboxId, *, own_cgroup: bool) -> None:
        with trying(f"removing sandbox {sandbox}"):
            remove_tree(self._paths.sandbox(sandbox))
            if own_cgroup:
                cgroup = self._own_cgroup(sandbox)
                if not await self._env.cgroups.kill(cgroup, _KILL_TIME):
                    raise Broken(f"removing sandbox {sandbox}: processes in {cgroup} do not die")
                await self._env.cgroups.remove(cgroup)


def _kinds(config: SandboxConfig) -> tuple[Kind, ...]:
    """The namespaces that are the pod's own.

    Its host name goes with its network (the CRI has no word for UTS).
    """
    kinds: list[Kind] = []
    if not config.host_network:
        kinds += ["net", "uts"]
    if config.security.namespaces.ipc != NamespaceMode.NODE:
        kinds.append("ipc")
    return tuple(kinds)


def _check(config: SandboxConfig) -> None:
    check_pod_files(config)
    userns = config.security.namespaces.userns
    if userns is not None and userns.mode != NamespaceMode.NODE:
        raise InvalidRequest(
            "user namespaces are not offered yet",
            field="config.linux.security_context.namespace_options.userns_options",
        )
    kinds = _kinds(config)
    for name, value in config.sysctls.items():
        try:
            needed = required_namespace(name)
            check_value(name, value)
        except ValueError as error:
            raise InvalidRequest(str(error), field="config.linux.sysctls") from error
        if needed is None:
            raise InvalidRequest(f"{name} concerns the whole node, not a pod", field="config.linux.sysctls")
        if needed not in kinds:
            raise InvalidRequest(
                f"{name}: the pod uses the node's {needed} namespace", field="config.linux.sysctls"
            )
