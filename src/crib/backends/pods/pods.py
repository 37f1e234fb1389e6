"""Pods: a directory of files, pinned namespaces, a shm, a cgroup; and an infra process where one is needed.

That is where pids are shared, and where the runtime wants a container that holds the others. The process is
catatonit as pid 1, which reaps orphans and does nothing else. Whoever runs the containers runs it, in a
root that all pods share.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from typing import Protocol

from crib.backends.bundle.bundles import Bundles
from crib.backends.bundle.host_resources import make_log_directory
from crib.backends.bundle.id_maps import let_through, own, pod_id_map
from crib.backends.bundle.labels import Labels
from crib.backends.environment import HandlerEnvironment
from crib.backends.failures import trying
from crib.backends.known_processes import is_alive
from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.files import check_pod_files, write_pod_files
from crib.backends.pods.namespaces import (
    check_namespaces,
    is_whole,
    pin_pod_namespaces,
    pins,
    unpin_all,
)
from crib.backends.pods.slices import stop_slice
from crib.backends.pods.updates import Updates
from crib.backends.together import Together
from crib.host.directories import make_directory
from crib.host.files import atomic_write, remove_tree
from crib.host.mount_table import is_mountpoint
from crib.host.mounts import Tmpfs, perform, unmount
from crib.host.processes import ToolMissing
from crib.host.threads import FOREIGN, OURS, Job
from crib.model.errors import Broken, InvalidRequest, below
from crib.model.ids import SandboxId
from crib.model.paths import Paths
from crib.model.sandbox import NamespaceMode, ProcessIdentity, SandboxRecord
from crib.ocispec.defaults import check_notifier, shm_size
from crib.ocispec.infra import InfraInputs, PodConfinement
from crib.ports.clocks import StageTimer

FILES_SIZE = 4 << 20
"""Bytes of a pod's own directory: containers may write to hosts, hostname and resolv.conf (docs/adr/0042)."""
_KILL_TIME = 10.0
PROGRAM = "catatonit"
_INSTALLING = threading.Lock()
_PROGRAM_LIMIT = 64 << 20


class InfraProcesses(Protocol):
    """Runs infra processes. A handler's runner of containers does it. Each is known by its pod's id."""

    async def start(self, sandbox: SandboxId, inputs: InfraInputs, stage: StageTimer) -> ProcessIdentity:
        """Make its bundle in `Paths.infra`, and run it. Half-made things are left for `end`."""
        ...

    def exists(self, sandbox: SandboxId) -> bool:
        """Whether there is one, or what is left of one. Blocks."""
        ...

    async def end(self, sandbox: SandboxId) -> None:
        """Kill it and take it away. What survives that is killed by its cgroup."""
        ...

    def forget(self, sandbox: SandboxId) -> None:
        """Remove what `end` could not. Blocks; safe to repeat."""
        ...


def install_infra(paths: Paths, catatonit: str) -> str:
    """The root that all infra processes share, with one static program in it.

    Made when it is not there. Blocks. A mount of its own, because /run may be noexec (Debian), and no user
    namespace can take that away.
    """
    root = paths.infra_root
    target = f"{root}/{PROGRAM}"
    with _INSTALLING:
        if is_mountpoint(root) and os.path.exists(target):
            return root
        found = shutil.which(catatonit)
        if found is None:
            raise ToolMissing(catatonit)
        make_directory(root, 0o755)
        if not is_mountpoint(root):
            perform(Tmpfs(root, _PROGRAM_LIMIT))
        for name in ("proc", "dev"):
            make_directory(f"{root}/{name}", 0o755)
        with open(found, "rb") as file:
            atomic_write(target, file.read(_PROGRAM_LIMIT), 0o555)
    return root


class Pods:
    """Makes pods and takes them away again."""

    def __init__(self, environment: HandlerEnvironment, infra: InfraProcesses) -> None:
        self._env = environment
        self._infra = infra
        self._names: CgroupNames = CgroupNames.of(environment.settings)
        self._paths = environment.paths
        self._looks: Together[SandboxRecord, bool] = Together(
            "looking at pods", lambda record: is_whole(environment.paths, record)
        )
        self._labels = Labels(environment.paths, environment.host)
        self._updates = Updates(environment, Bundles(environment.paths))

    async def prepare(self, record: SandboxRecord, stage: StageTimer) -> None:
        """See PodRuntime.prepare. Half-made things are left for `remove`."""
        config = record.config
        self._env.require_usable()
        check_pod_files(config)
        check_namespaces(config, self._env.facts)
        check_notifier(config, self._env.options)
        size = shm_size(config, self._env.options)
        cgroup = self._names.pod(record)
        with trying(f"preparing sandbox {record.id}"):
            with stage("files", record.id):
                security = config.security
                await self._labels.load_default_profile(security.apparmor, privileged=security.privileged)
                profile = await self._labels.seccomp_profile(record)
                if config.log_directory:
                    await self._make_log_directory(record)
                await OURS.run(self._job(record.id), self._make_files, record, size, profile)
            with stage("namespaces", record.id):
                await self._make_namespaces(record, stage)
            if not config.cgroup_parent:
                with stage("cgroup", record.id):
                    if not self._names.systemd:
                        self._env.cgroups.create(cgroup)
                    with below("linux.resources"):
                        await self._updates.pod(record)

    async def start(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        """See PodRuntime.start: the infra process, where one is needed."""
        if not self._needs_infra(record):
            return None
        with trying(f"starting sandbox {record.id}"), stage("infra", record.id):
            profile = await self._labels.seccomp_profile(record)
            confinement = await OURS.run(self._job(record.id), self._labels.confine, record, profile)
            inputs = await self._infra_inputs(record, self._names.pod(record), confinement)
            return await self._infra.start(record.id, inputs, stage)

    def _needs_infra(self, record: SandboxRecord) -> bool:
        return record.config.shares_pid or self._env.facts.sandbox_container

    async def _make_namespaces(self, record: SandboxRecord, stage: StageTimer) -> None:
        await pin_pod_namespaces(self._paths, record, self._env.options.containers.sysctls)

    def _job(self, sandbox: SandboxId) -> Job:
        limit = self._env.settings.verb_timeout
        return Job(f"the files of sandbox {sandbox}", owner=sandbox, limit=limit)

    async def _make_log_directory(self, record: SandboxRecord) -> None:
        """Logs may lie on a file system that does not answer."""
        path, limit = record.config.log_directory, self._env.settings.verb_timeout
        job = Job(f"making the log directory {path}", owner=record.id, limit=limit)
        await FOREIGN.run(job, make_log_directory, path, "log_directory")

    def _make_files(self, record: SandboxRecord, shm: int, profile: bytes | None) -> None:
        self._make_directory(record)
        self._labels.confine(record, profile)  # refused for every pod, though only an infra process needs it
        write_pod_files(self._paths, record)
        if record.config.security.namespaces.ipc != NamespaceMode.NODE:
            self._mount_shm(record, shm)
        self._labels.label_pod(record)

    async def stop(self, record: SandboxRecord) -> None:
        """End the infra process, let go of namespaces and shm; safe to repeat."""
        await self._release(record.id, self.cgroup(record))

    def cgroup(self, record: SandboxRecord) -> str:
        """The cgroup that the pod's containers lie below, for looking and tearing down: never refused."""
        try:
            return self._names.pod(record)
        except InvalidRequest:  # the pod was refused for its cgroup parent, so nothing was made there
            return self._names.own_pod(record.id)

    async def remove(self, record: SandboxRecord) -> None:
        """`stop`, unless that has been done, then files and cgroup; safe to repeat."""
        if not record.released:
            await self.stop(record)
        await self._erase(record.id, own_cgroup=not record.config.cgroup_parent)

    async def remove_unknown(self, sandbox: SandboxId) -> None:
        """Take away a pod of which nothing but the id is known."""
        await self._release(sandbox, self._names.own_pod(sandbox))
        await self._erase(sandbox, own_cgroup=True)

    async def alive(self, record: SandboxRecord) -> bool:
        """Whether all that it was made with is still there."""
        # The setting may have changed since: what the pod was made with counts.
        if (record.config.shares_pid or record.infra is not None) and not is_alive(record.infra):
            return False
        return await self._looks.ask(record)

    def made_spec(self, record: SandboxRecord) -> bytes:
        """See PodRuntime.made_spec. Blocks."""
        try:
            with open(f"{self._paths.infra(record.id)}/config.json", "rb") as file:
                document = json.load(file)
        except (FileNotFoundError, ValueError):
            places = [{"type": kind, "path": path} for kind, path in pins(self._paths, record).items()]
            document = {"ociVersion": self._env.facts.oci_version, "linux": {"namespaces": places}}
        linux = document["linux"]
        linux["namespaces"] = [
            place for place in linux["namespaces"] if "path" not in place or is_mountpoint(place["path"])
        ]
        return json.dumps(document).encode()

    def _make_directory(self, record: SandboxRecord) -> None:
        """Only root gets there (a shm is open to all who do), and the root of its own user namespace."""
        directory, idmap = self._paths.sandbox(record.id), pod_id_map(self._paths, record)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if not is_mountpoint(directory):
            perform(Tmpfs(directory, FILES_SIZE, mode=0o700, no_exec=True))
        if idmap is not None:
            let_through(directory, idmap)
        make_directory(f"{directory}/ns", 0o711)
        with open(self._paths.pod_handler(record.id), "w", encoding="utf-8") as file:
            file.write(self._env.facts.name)

    def _mount_shm(self, record: SandboxRecord, size: int) -> None:
        shm = self._paths.shm(record.id)
        os.makedirs(shm, exist_ok=True)
        if not is_mountpoint(shm):
            perform(Tmpfs(shm, size, mode=0o1777, no_exec=True))
            own(shm, pod_id_map(self._paths, record))

    async def _infra_inputs(
        self, record: SandboxRecord, cgroup: str, confinement: PodConfinement
    ) -> InfraInputs:
        return InfraInputs(
            sandbox=record.id,
            config=record.config,
            host=self._env.host,
            oci_version=self._env.facts.oci_version,
            root=await OURS.run(self._job(record.id), self._infra_root),
            program=PROGRAM,
            cgroups_path=self._names.oci_path(cgroup, record.id),
            namespaces=pins(self._paths, record),
            confinement=confinement,
            holds_containers=self._env.facts.sandbox_container,
        )

    def _infra_root(self) -> str:
        root = install_infra(self._paths, self._env.settings.catatonit)
        self._labels.label_for_all(root)
        return root

    async def _release(self, sandbox: SandboxId, pod_cgroup: str) -> None:
        what = f"stopping sandbox {sandbox}"
        with trying(what):
            infra_cgroup = self._names.below(pod_cgroup, sandbox)
            job = self._job(sandbox)
            if await OURS.run(job, self._let_go_without_infra, sandbox, infra_cgroup):
                return
            await self._infra.end(sandbox)
            if not await self._env.cgroups.kill(infra_cgroup, _KILL_TIME):
                raise Broken(f"{what}: the infra process does not die")
            await self._env.cgroups.remove(infra_cgroup)
            await OURS.run(job, self._forget_infra_and_let_go, sandbox)

    def _let_go_without_infra(self, sandbox: SandboxId, infra_cgroup: str) -> bool:
        """`_let_go` at once where there is no infra process to end first, as in most pods."""
        if self._infra.exists(sandbox) or self._env.cgroups.exists(infra_cgroup):
            return False
        self._let_go(sandbox)
        return True

    def _forget_infra_and_let_go(self, sandbox: SandboxId) -> None:
        self._infra.forget(sandbox)
        self._let_go(sandbox)

    def _let_go(self, sandbox: SandboxId) -> None:
        # All that is mounted inside goes along: each unmount waits for the readers in the kernel (RCU).
        while unmount(self._paths.sandbox(sandbox), lazy=True):
            pass
        # Pods whose files have no mount of their own: made by an older version, or half-made.
        unpin_all(self._paths, sandbox)
        while unmount(self._paths.shm(sandbox), lazy=True):
            pass

    async def _erase(self, sandbox: SandboxId, *, own_cgroup: bool) -> None:
        with trying(f"removing sandbox {sandbox}"):
            await OURS.run(self._job(sandbox), remove_tree, self._paths.sandbox(sandbox))
            if own_cgroup:
                cgroup = self._names.own_pod(sandbox)
                if not await self._env.cgroups.kill(cgroup, _KILL_TIME):
                    raise Broken(f"removing sandbox {sandbox}: processes in {cgroup} do not die")
                if self._names.systemd:
                    await stop_slice(os.path.basename(cgroup))
                await self._env.cgroups.remove(cgroup)
