"""A pod's own namespaces: made with its host name and its sysctls, pinned below its directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from crib.backends.bundle.id_maps import pod_id_map
from crib.host.libc import set_thread_euid, setns
from crib.host.mount_table import is_mountpoint
from crib.host.mounts import set_propagation
from crib.host.namespaces import Kind, pin, pin_namespaces_async, unpin
from crib.host.sysctls import check_value, required_namespace, sysctl_path, write_sysctl
from crib.host.threads import OURS, Job
from crib.host.user_namespaces import IdMaps, IdRange, pin_user_namespace
from crib.model.errors import Broken, InvalidRequest
from crib.model.facts import HandlerFacts
from crib.model.ids import SandboxId
from crib.model.paths import Paths
from crib.model.sandbox import IdMapping, NamespaceMode, SandboxConfig, SandboxRecord, UserNamespace
from crib.ocispec.namespaces import check_pod_namespaces, groups_outside

_ALL = ("net", "ipc", "uts", "cgroup", "user")
_SYSCTLS = "linux.sysctls"
_PING_GROUPS = "net/ipv4/ping_group_range"
_UNPRIVILEGED = {"net/ipv4/ip_unprivileged_port_start": "0", _PING_GROUPS: "0 2147483647"}
"""In a network of its own a pod may serve every port and send pings as any user, as images made for the peers
expect (containerd since 2.0)."""


def check_namespaces(config: SandboxConfig, facts: HandlerFacts) -> None:
    """InvalidRequest for namespaces that do not go together, or not here, and for sysctls of the node."""
    check_pod_namespaces(config)
    if config.user_namespace is not None and not facts.user_namespaces:
        raise InvalidRequest(
            f"handler {facts.name} ({facts.program} {facts.version}), or the kernel, cannot shift ids",
            field="linux.security_context.namespace_options.userns_options",
        )
    namespaces = config.security.namespaces
    for kind, mode in (("pid", namespaces.pid), ("ipc", namespaces.ipc)):
        if facts.own_kernel and mode == NamespaceMode.NODE:
            raise InvalidRequest(
                f"handler {facts.name} runs pods on a kernel of their own,"
                f" which has no {kind} namespace of the node",
                field=f"linux.security_context.namespace_options.{kind}",
            )
    kinds = _kinds(config)
    for name, value in config.sysctls.items():
        try:
            needed = required_namespace(name)
            check_value(name, value)
        except ValueError as error:
            raise InvalidRequest(str(error), field=_SYSCTLS) from error
        if needed is None:
            raise InvalidRequest(f"{name} concerns the whole node, not a pod", field=_SYSCTLS)
        if needed not in kinds:
            raise InvalidRequest(f"{name}: the pod uses the node's {needed} namespace", field=_SYSCTLS)


async def pin_pod_namespaces(paths: Paths, record: SandboxRecord, defaults: Mapping[str, str]) -> None:
    """Make and pin what the pod has of its own, its sysctls and host name set.

    `defaults` are the node's sysctls (setting `containers.sysctls`). OSError, InvalidRequest, Broken.
    """
    config = record.config
    kinds, userns = _kinds(config), config.user_namespace
    if not kinds and userns is None:
        return
    directory = f"{paths.sandbox(record.id)}/ns"
    hostname = config.hostname if "uts" in kinds and config.hostname else None

    def inside() -> None:
        _write_sysctls(paths, record, defaults)

    if userns is None:
        await pin_namespaces_async(kinds, directory, hostname=hostname, inside=inside)
    else:
        maps = IdMaps(_ranges(userns.uids), _ranges(userns.gids))
        await pin_user_namespace(maps, kinds, directory, hostname=hostname, inside=inside)
    await OURS.run(Job(f"the namespaces of sandbox {record.id}", owner=record.id), _note_pins, paths, record)


async def adopt_pod_namespaces(
    paths: Paths, record: SandboxRecord, defaults: Mapping[str, str], process: int
) -> None:
    """The same with those of a process that somebody else has made for the pod, with its host name."""
    kinds = _kinds(record.config)
    if not kinds:
        return

    def adopt() -> None:
        for kind in kinds:
            pin(f"/proc/{process}/ns/{kind}", paths.namespace(record.id, kind))
        _note_pins(paths, record)
        for kind in kinds:
            fd = os.open(paths.namespace(record.id, kind), os.O_RDONLY | os.O_CLOEXEC)
            try:
                setns(fd, 0)
            finally:
                os.close(fd)
        _write_sysctls(paths, record, defaults)

    job = Job(f"the namespaces of sandbox {record.id}", owner=record.id, spends_thread=True)
    await OURS.run(job, adopt)


def _note_pins(paths: Paths, record: SandboxRecord) -> None:
    for path in pins(paths, record).values():
        # A container that binds all of /run must not get a copy: it would keep the namespace alive after us.
        set_propagation(path, "unbindable")
    # A link is written and read in one step, and is as short-lived as the pins.
    os.symlink(" ".join(map(_thing_at, _places(paths, record))), _note(paths, record))


def _places(paths: Paths, record: SandboxRecord) -> list[str]:
    """Where something is mounted as long as the pod is whole."""
    shm = [paths.shm(record.id)] if "ipc" in _kinds(record.config) else []
    return [*pins(paths, record).values(), *shm]


def held_by(paths: Paths, record: SandboxRecord) -> dict[str, str]:
    """Where something must be mounted for the pod to be whole, and what, as `mount_roots_below` returns it.

    Empty where any will do: in a pod of a daemon that did not write it down.
    """
    made: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        made = {name.partition(":")[0]: name for name in os.readlink(_note(paths, record)).split()}
    # For a namespace the kernel names its kind too, for a file system only its device.
    return {
        place: made.get(os.path.basename(place), "").removeprefix("shm:") for place in _places(paths, record)
    }


def is_whole(paths: Paths, record: SandboxRecord) -> bool:
    """Whether all of it is there, and nothing else in its place."""
    return all(
        is_mountpoint(place) and thing in ("", _thing_at(place).removeprefix("shm:"))
        for place, thing in held_by(paths, record).items()
    )


def _note(paths: Paths, record: SandboxRecord) -> str:
    return paths.namespace(record.id, "made")


def _thing_at(place: str) -> str:
    """`net:[4026532212]`, or `shm:0:57`."""
    name, found = os.path.basename(place), os.stat(place)
    if name == "shm":
        return f"shm:{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
    return f"{name}:[{found.st_ino}]"


def unpin_all(paths: Paths, sandbox: SandboxId) -> None:
    """Let go of whatever there is; safe to repeat."""
    for kind in _ALL:
        unpin(paths.namespace(sandbox, kind))


def pins(paths: Paths, record: SandboxRecord) -> dict[str, str]:
    """Where each of them is mounted, by its type in the words of the OCI runtime spec."""
    user = ("user",) if record.config.user_namespace is not None else ()
    kinds = (*user, *_kinds(record.config))
    return {"network" if kind == "net" else kind: paths.namespace(record.id, kind) for kind in kinds}


def _kinds(config: SandboxConfig) -> tuple[Kind, ...]:
    """The namespaces that are the pod's own, but for that of its users.

    Its host name goes with its network (the CRI has no word for UTS).
    """
    kinds: list[Kind] = []
    if not config.host_network:
        kinds += ["net", "uts"]
    if config.security.namespaces.ipc != NamespaceMode.NODE:
        kinds.append("ipc")
    return tuple(kinds)


def _write_sysctls(paths: Paths, record: SandboxRecord, defaults: Mapping[str, str]) -> None:
    """In a thread inside of the pod's namespaces, which ends."""
    userns, idmap = record.config.user_namespace, pod_id_map(paths, record)
    own = {sysctl_path(name): name for name in record.config.sysctls}
    # Those of an IPC namespace want its own root as the writer, who then has no rights over the network.
    for name, value in sorted(
        pod_sysctls(record.config, defaults).items(), key=lambda item: _of_ipc(item[0])
    ):
        try:
            if idmap is not None and _of_ipc(name):
                set_thread_euid(idmap.uid)
            write_sysctl(name, _value(userns, name, value))
        except (OSError, ValueError) as error:
            if name in own:
                raise InvalidRequest(f"{own[name]}={value!r}: {error}", field=_SYSCTLS) from error
            raise Broken(f"setting containers.sysctls: {name}={value!r}: {error}") from error


def pod_sysctls(config: SandboxConfig, defaults: Mapping[str, str]) -> dict[str, str]:
    """By path: the pod's own over the node's over `_UNPRIVILEGED`, of namespaces that are the pod's own."""
    kinds = _kinds(config)
    found: dict[str, str] = {}
    for sysctls in (_UNPRIVILEGED, defaults, config.sysctls):
        found |= {sysctl_path(name): value for name, value in sysctls.items()}
    return {path: value for path, value in found.items() if required_namespace(path) in kinds}


def _of_ipc(sysctl: str) -> bool:
    return required_namespace(sysctl) == "ipc"


def _value(userns: UserNamespace | None, name: str, value: str) -> str:
    """The pod means its own groups, the kernel those of the writer (icmp(7), ping_group_range)."""
    if userns is None or sysctl_path(name) != _PING_GROUPS:
        return value
    return groups_outside(userns, value)


def _ranges(mappings: tuple[IdMapping, ...]) -> tuple[IdRange, ...]:
    return tuple(IdRange(part.container_id, part.host_id, part.length) for part in mappings)
