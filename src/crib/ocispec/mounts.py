"""What a container sees mounted.

The customary file systems, the pod's files, and what was asked for, in a safe order.
"""

from __future__ import annotations

import os

from crib.model.container import Mount, MountPropagation
from crib.model.errors import RRO_UNSUPPORTED, InvalidRequest, NotBuilt
from crib.model.sandbox import NamespaceMode
from crib.ocispec.inputs import ContainerInputs
from crib.wire import oci_runtime as oci

_PROPAGATION = {
    MountPropagation.PRIVATE: "rprivate",
    MountPropagation.HOST_TO_CONTAINER: "rslave",
    MountPropagation.BIDIRECTIONAL: "rshared",
}
_STRICT = ("nosuid", "noexec", "nodev")
_MAX_MOUNTS = 10_000


def mounts(inputs: ContainerInputs) -> tuple[oci.Mount, ...]:
    """Ours, less those that a mount asked for takes the place of.

    Then all of them, parents before what is below.
    """
    wanted = [_asked_for(inputs, position, mount) for position, mount in enumerate(inputs.config.mounts)]
    if len(wanted) > _MAX_MOUNTS:
        raise InvalidRequest(f"{len(wanted)} mounts are more than {_MAX_MOUNTS}", field="config.mounts")
    taken = {mount.destination for mount in wanted}
    ours = [mount for mount in (*_customary(inputs), *_pod_files(inputs)) if mount.destination not in taken]
    # The sort is stable: at equal depth ours come first, and the caller's keep their order.
    return tuple(sorted([*ours, *wanted], key=lambda mount: _depth(mount.destination)))


def rootfs_propagation(inputs: ContainerInputs) -> str:
    """Mounts that shall travel need a root that lets them through (kernel, sharedsubtree)."""
    asked = {mount.propagation for mount in inputs.config.mounts}
    if MountPropagation.BIDIRECTIONAL in asked:
        return "rshared"
    return "rslave" if MountPropagation.HOST_TO_CONTAINER in asked else ""


def container_path(mount: Mount, position: int) -> str:
    """Where it goes, absolute and without `..`; a relative path counts from the root, as with the peers."""
    path = mount.container_path
    if not path or "\0" in path:
        raise InvalidRequest("a path is needed", field=f"config.mounts[{position}].container_path")
    cleaned = os.path.normpath(f"/{path.lstrip('/')}")
    if cleaned == "/":
        raise InvalidRequest(
            "the root cannot be mounted over", field=f"config.mounts[{position}].container_path"
        )
    return cleaned


def _depth(path: str) -> int:
    return path.rstrip("/").count("/")


def _customary(inputs: ContainerInputs) -> list[oci.Mount]:
    sys_mode = () if inputs.privileged else ("ro",)
    return [
        oci.Mount(destination="/proc", type="proc", source="proc", options=_STRICT),
        oci.Mount(
            destination="/dev",
            type="tmpfs",
            source="tmpfs",
            options=("nosuid", "strictatime", "mode=755", "size=65536k"),
        ),
        oci.Mount(
            destination="/dev/pts",
            type="devpts",
            source="devpts",
            options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        oci.Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=_STRICT),
        oci.Mount(destination="/sys", type="sysfs", source="sysfs", options=(*_STRICT, *sys_mode)),
        oci.Mount(
            destination="/sys/fs/cgroup",
            type="cgroup",
            source="cgroup",
            options=(*_STRICT, "relatime", *sys_mode),
        ),
    ]


def _pod_files(inputs: ContainerInputs) -> list[oci.Mount]:
    pod = inputs.pod
    writable = ("ro",) if inputs.config.security.readonly_rootfs else ("rw",)
    files = [
        ("/etc/hosts", pod.hosts),
        ("/etc/hostname", pod.hostname),
        ("/etc/resolv.conf", pod.resolv_conf),
    ]
    found = [
        oci.Mount(
            destination=target,
            type="bind",
            source=source,
            options=("rbind", "rprivate", *writable, "nosuid", "nodev", "noexec"),
        )
        for target, source in files
        if source
    ]
    host_ipc = inputs.sandbox.config.security.namespaces.ipc == NamespaceMode.NODE
    shm = "/dev/shm" if host_ipc else pod.shm  # noqa: S108 - the host's shm is part of its IPC
    if shm:
        options = ("rbind", "rprivate", "rw", *_STRICT)
        found.append(oci.Mount(destination="/dev/shm", type="bind", source=shm, options=options))  # noqa: S108
    return found


def _asked_for(inputs: ContainerInputs, position: int, mount: Mount) -> oci.Mount:
    field = f"config.mounts[{position}]"
    destination = container_path(mount, position)
    if mount.image:
        raise NotBuilt(f"{field}: image volumes are not offered yet")
    if mount.uid_mappings or mount.gid_mappings:
        raise InvalidRequest("id-mapped mounts are not offered yet", field=f"{field}.uid_mappings")
    if not mount.host_path.startswith("/") or "\0" in mount.host_path:
        raise InvalidRequest(f"{mount.host_path!r} is not absolute", field=f"{field}.host_path")
    options = ["rbind", _PROPAGATION[mount.propagation], "ro" if mount.readonly else "rw"]
    if mount.recursive_read_only:
        _check_recursive(inputs, mount, field)
        options.append("rro")
    return oci.Mount(destination=destination, type="bind", source=mount.host_path, options=tuple(options))


def _check_recursive(inputs: ContainerInputs, mount: Mount, field: str) -> None:
    if not mount.readonly:
        raise InvalidRequest("it needs readonly too", field=f"{field}.recursive_read_only")
    if mount.propagation != MountPropagation.PRIVATE:
        raise InvalidRequest("it needs private propagation", field=f"{field}.recursive_read_only")
    if not inputs.handler.recursive_read_only:
        raise InvalidRequest(
            f"handler {inputs.handler.name} ({inputs.handler.program} {inputs.handler.version}) "
            "cannot make a mount read-only with all that is below it",
            field=f"{field}.recursive_read_only",
            reason=RRO_UNSUPPORTED,
        )
