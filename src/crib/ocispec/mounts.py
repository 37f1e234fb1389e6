"""What a container sees mounted.

The customary file systems, the pod's files, and what was asked for, in a safe order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from crib.model.container import Mount, MountPropagation
from crib.model.errors import IMAGE_VOLUME_MOUNT_FAILED, RRO_UNSUPPORTED, Broken, InvalidRequest
from crib.model.sandbox import NamespaceMode
from crib.ocispec.init_system import PLACES, is_systemd, systemd_mounts, writable_cgroups
from crib.ocispec.inputs import ContainerInputs, DeclaredVolume
from crib.ocispec.namespaces import check_mount_maps
from crib.wire import oci_runtime as oci

_PROPAGATION = {
    MountPropagation.PRIVATE: "rprivate",
    MountPropagation.HOST_TO_CONTAINER: "rslave",
    MountPropagation.BIDIRECTIONAL: "rshared",
}
_STRICT = ("nosuid", "noexec", "nodev")
_MAX_MOUNTS = 10_000
_CGROUPS = "/sys/fs/cgroup"
MOUNT_OPTIONS = ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime")
"""What CRI `mount_options` (KEP-5855) may hold: flags of a bind mount that take something away, or say how
access times are kept. All are known to every OCI runtime (config.md, Linux mount options)."""


def mounts(inputs: ContainerInputs) -> tuple[oci.Mount, ...]:
    """Ours, less those that a mount asked for takes the place of.

    Then all of them, parents before what is below.
    """
    asked = inputs.config.mounts
    if len(asked) > _MAX_MOUNTS:
        raise InvalidRequest(f"{len(asked)} mounts are more than {_MAX_MOUNTS}", field="mounts")
    wanted = [_asked_for(inputs, position, mount) for position, mount in enumerate(asked)]
    inner = [made for top, below in zip(wanted, inputs.submounts) for made in _inside(top, below)]  # noqa: B905
    shared = [made.destination for made in wanted if "rshared" in made.options]
    taken = {made.destination for made in wanted}
    node = [mount for mount in _of_node(inputs) if mount.destination not in taken]
    taken |= {made.destination for made in node}
    ours = [
        mount
        for mount in (*_customary(inputs), *_pod_files(inputs), *systemd_mounts(inputs))
        if mount.destination not in taken and not _is_below(mount.destination, shared)
    ]
    if "/dev" in taken:  # the device file systems that lie below it are that mount's own, as with the peers
        ours = [mount for mount in ours if mount.type == "bind" or not _is_below(mount.destination, ["/dev"])]
    # Images of systemd declare what it needs as volumes, for programs that do not know it.
    kept = (*PLACES, _CGROUPS) if is_systemd(inputs) else ()
    declared = [_declared(volume) for volume in inputs.declared_volumes if volume.destination not in kept]
    # The sort is stable: at equal depth ours come first, and the caller's keep their order.
    every = [*ours, *declared, *node, *wanted, *inner]
    return tuple(sorted(every, key=lambda mount: _depth(mount.destination)))


def _of_node(inputs: ContainerInputs) -> list[oci.Mount]:
    """The administrator's. Their set-uid programs and device nodes do nothing."""
    found = []
    for position, mount in enumerate(inputs.node_mounts, len(inputs.config.mounts)):
        options = ["rbind", "rprivate", "ro" if mount.read_only else "rw", "nosuid", "nodev"]
        locked = inputs.locked_options[position] if inputs.locked_options else ()
        options += (option for option in locked if option not in options)
        found.append(
            oci.Mount(destination=mount.destination, type="bind", source=mount.source, options=tuple(options))
        )
    return found


def _inside(top: oci.Mount, below: tuple[str, ...]) -> list[oci.Mount]:
    """What a recursive bind would have taken along; read-only only where that was asked for all of it."""
    if "rshared" in top.options:  # it would be mounted once more on the node, over itself
        return []
    kept = tuple(option for option in top.options if option != "ro" or "rro" in top.options)
    return [
        oci.Mount(
            destination=f"{top.destination}/{path}", type="bind", source=f"{top.source}/{path}", options=kept
        )
        for path in below
    ]


def _is_below(path: str, tops: Iterable[str]) -> bool:
    """Nothing of ours goes below a mount that is shared with the host: it would appear there."""
    return any(path.startswith(f"{top.rstrip('/')}/") for top in tops)


def _declared(volume: DeclaredVolume) -> oci.Mount:
    options = ("rbind", "rprivate", "rw")
    return oci.Mount(destination=volume.destination, type="bind", source=volume.source, options=options)


def rootfs_propagation(inputs: ContainerInputs) -> str:
    """Mounts that are to propagate need a root that lets them through (kernel, sharedsubtree)."""
    asked = [mount.propagation for mount in inputs.config.mounts]
    if MountPropagation.BIDIRECTIONAL in asked:
        if inputs.handler.own_kernel:
            at = asked.index(MountPropagation.BIDIRECTIONAL)
            problem = f"handler {inputs.handler.name}: no mount comes back from a kernel of the pod's own"
            raise InvalidRequest(problem, field=f"mounts[{at}].propagation")
        return "rshared"
    return "rslave" if MountPropagation.HOST_TO_CONTAINER in asked else ""


def container_path(mount: Mount, position: int) -> str:
    """Where it goes, absolute and without `..`; a relative path counts from the root, as with the peers."""
    path = mount.container_path
    if not path or "\0" in path:
        raise InvalidRequest("a path is needed", field=f"mounts[{position}].container_path")
    cleaned = os.path.normpath(f"/{path.lstrip('/')}")
    if cleaned == "/":
        raise InvalidRequest("the root cannot be mounted over", field=f"mounts[{position}].container_path")
    return cleaned


def _depth(path: str) -> int:
    return path.rstrip("/").count("/")


def _customary(inputs: ContainerInputs) -> list[oci.Mount]:
    sys_mode = () if inputs.privileged else ("ro",)
    cgroup_mode = () if writable_cgroups(inputs) else sys_mode
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
        _sys(inputs, sys_mode),
        oci.Mount(
            destination=_CGROUPS,
            type="cgroup",
            source="cgroup",
            options=(*_STRICT, "relatime", *cgroup_mode),
        ),
    ]


def _sys(inputs: ContainerInputs, mode: tuple[str, ...]) -> oci.Mount:
    """Its own, or the node's where the pod's root may not mount one.

    sysfs shows a network namespace, and only the user namespace that this belongs to may mount it.
    """
    config = inputs.sandbox.config
    if config.user_namespace is None or not config.host_network:
        return oci.Mount(destination="/sys", type="sysfs", source="sysfs", options=(*_STRICT, *mode))
    recursive = ("rro",) if inputs.handler.recursive_read_only else ()
    options = ("rbind", "rprivate", *_STRICT, "ro", *recursive)
    return oci.Mount(destination="/sys", type="bind", source="/sys", options=options)


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
    field = f"mounts[{position}]"
    destination = container_path(mount, position)
    source = inputs.mount_sources[position] if position < len(inputs.mount_sources) else ""
    _check_options(mount, field)
    check_mount_maps(inputs.sandbox.config, mount, field)
    if mount.image:
        options = ["rbind", "rprivate", *_image_volume_options(mount, field)]
        if not source:
            raise Broken(f"image {mount.image} is not mounted", field=field, reason=IMAGE_VOLUME_MOUNT_FAILED)
    else:
        if not mount.host_path.startswith("/") or "\0" in mount.host_path:
            raise InvalidRequest(f"{mount.host_path!r} is not absolute", field=f"{field}.host_path")
        read_only = mount.readonly or "ro" in mount.mount_options
        options = ["rbind", _PROPAGATION[mount.propagation], "ro" if read_only else "rw"]
        if mount.recursive_read_only:
            _check_recursive(inputs, mount, field)
            options.append("rro")
    locked = inputs.locked_options[position] if inputs.locked_options else ()
    options += dict.fromkeys(option for option in (*mount.mount_options, *locked) if option not in options)
    source = source or mount.host_path
    return oci.Mount(destination=destination, type="bind", source=source, options=tuple(options))


def _image_volume_options(mount: Mount, field: str) -> tuple[str, ...]:
    """Programs of the image may run, but its set-uid programs and device nodes do nothing here."""
    if not mount.readonly:
        raise InvalidRequest(
            "must be true while mounting an image",
            field=f"{field}.readonly",
            reason=IMAGE_VOLUME_MOUNT_FAILED,
        )
    return ("ro", "nosuid", "nodev")


def _check_options(mount: Mount, field: str) -> None:
    for option in mount.mount_options:
        if option not in MOUNT_OPTIONS:
            raise InvalidRequest(
                f"{option!r} is not one of {', '.join(MOUNT_OPTIONS)}", field=f"{field}.mount_options"
            )


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
