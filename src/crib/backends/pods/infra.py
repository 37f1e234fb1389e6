"""The infra process of pods that share their pids.

Catatonit as pid 1, which reaps orphans and does nothing else.
"""

from __future__ import annotations

import os
import shutil
import threading

from crib.host.directories import make_directory
from crib.host.files import atomic_write
from crib.host.mount_table import is_mountpoint
from crib.host.mounts import Tmpfs, perform
from crib.host.processes import ToolMissing
from crib.model.facts import HostFacts
from crib.model.paths import Paths
from crib.model.sandbox import NamespaceMode, SandboxRecord
from crib.ocispec.process import oom_score_adj
from crib.ocispec.userns import id_mappings
from crib.wire import oci_runtime as oci

_INSTALLING = threading.Lock()
_PROGRAM_LIMIT = 64 << 20
_NOBODY = 65535
_OOM_SCORE = -998
"""As the kubelet gives its own pod infrastructure: the last to go."""
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""As the kubelet asks for containers. Who may trace the process reaches its /proc."""


def install_infra(paths: Paths, catatonit: str) -> str:
    """The root that all infra processes share, with one static program in it.

    Made when it is not there. Blocks. A mount of its own, because /run may be noexec (Debian), and no user
    namespace can take that away.
    """
    root = paths.infra_root
    target = f"{root}/catatonit"
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


def infra_spec(record: SandboxRecord, host: HostFacts, paths: Paths, root: str, cgroup: str) -> oci.Spec:
    """Its config.json: no capabilities, a read-only root, the pod's namespaces and a new one for pids."""
    config = record.config
    user = config.security.run_as_user if config.security.run_as_user is not None else _NOBODY
    group = config.security.run_as_group if config.security.run_as_group is not None else user
    namespaces = [oci.Namespace(type="pid"), oci.Namespace(type="mount")]
    joined = [("user", "user")] if config.user_namespace is not None else []
    if not config.host_network:
        joined += [("network", "net"), ("uts", "uts")]
    if config.security.namespaces.ipc != NamespaceMode.NODE:
        joined.append(("ipc", "ipc"))
    namespaces += [oci.Namespace(type=kind, path=paths.namespace(record.id, name)) for kind, name in joined]
    uids, gids = id_mappings(config)
    return oci.Spec(
        oci_version="1.0.2",
        process=oci.Process(
            user=oci.User(uid=user, gid=group, additional_gids=config.security.supplemental_groups),
            args=("/catatonit", "-P"),
            cwd="/",
            capabilities=oci.Capabilities(),
            no_new_privileges=True,
            oom_score_adj=oom_score_adj(_OOM_SCORE, host),
        ),
        root=oci.Root(path=root, readonly=True),
        mounts=(
            # Not read-only as a whole: runc sets the process's label through it.
            oci.Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev")),
            # Without it the runtime would make its default device nodes in the root that all pods share.
            oci.Mount(
                destination="/dev",
                type="tmpfs",
                source="tmpfs",
                options=("nosuid", "noexec", "mode=755", "size=64k"),
            ),
        ),
        linux=oci.Linux(
            namespaces=tuple(namespaces),
            uid_mappings=uids,
            gid_mappings=gids,
            cgroups_path=cgroup,
            readonly_paths=_READ_ONLY,
            resources=oci.Resources(cpu=oci.Cpu(shares=2), devices=(oci.DeviceRule(allow=False),)),
        ),
    )


def write_bundle(bundle: str, spec: oci.Spec) -> None:
    """Make the bundle's directory with its config.json."""
    os.makedirs(bundle, mode=0o700, exist_ok=True)
    with open(f"{bundle}/config.json", "wb") as file:
        file.write(oci.encode(spec))


def read_pid(path: str) -> int:
    """The number in a pid file."""
    with open(path, encoding="ascii") as file:
        return int(file.read(32))
