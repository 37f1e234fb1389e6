"""Which namespaces are joined, made, or left as the host's; and the ids in those of users."""

from __future__ import annotations

from collections.abc import Sequence

from crib.model.container import Mount
from crib.model.errors import Broken, InvalidRequest
from crib.model.sandbox import IdMapping, NamespaceMode, NamespaceOptions, SandboxConfig, UserNamespace
from crib.ocispec.inputs import ContainerInputs
from crib.wire import oci_runtime as oci

_OPTIONS = "security_context.namespace_options"


def namespaces(inputs: ContainerInputs) -> tuple[oci.Namespace, ...]:
    """Network and IPC are the pod's.

    UTS follows the network; pid is the container's own choice; users are the pod's (CRI NamespaceOption).
    """
    pod = inputs.sandbox.config.security.namespaces
    check_container_namespaces(inputs.sandbox.config, inputs.config.security.namespaces)
    made = [oci.Namespace(type="mount")]
    if inputs.sandbox.config.user_namespace is not None:
        made.append(oci.Namespace(type="user", path=inputs.pod.user_namespace))
    if pod.network != NamespaceMode.NODE:
        made += [
            oci.Namespace(type="network", path=inputs.pod.net_namespace),
            oci.Namespace(type="uts", path=inputs.pod.uts_namespace),
        ]
    if pod.ipc != NamespaceMode.NODE:
        made.append(oci.Namespace(type="ipc", path=inputs.pod.ipc_namespace))
    if inputs.host.cgroup_layout == "v2" and not inputs.privileged:
        made.append(oci.Namespace(type="cgroup"))
    return (*made, *_pid(inputs))


def _pid(inputs: ContainerInputs) -> tuple[oci.Namespace, ...]:
    if inputs.handler.own_kernel:
        return _pid_inside(inputs)
    mode = inputs.config.security.namespaces.pid
    match mode:
        case NamespaceMode.NODE:
            return ()
        case NamespaceMode.POD if inputs.sandbox.config.shares_pid:
            if not inputs.pod.pid_namespace:
                raise Broken(f"sandbox {inputs.sandbox.id} shares its pid namespace but has no infra process")
            return (oci.Namespace(type="pid", path=inputs.pod.pid_namespace),)
        case NamespaceMode.TARGET:
            if inputs.target_pid <= 0:
                raise InvalidRequest(
                    f"container {inputs.config.security.namespaces.target_id!r} does not run",
                    field="linux.security_context.namespace_options.target_id",
                )
            return (oci.Namespace(type="pid", path=f"/proc/{inputs.target_pid}/ns/pid"),)
        case _:
            return (oci.Namespace(type="pid"),)


def _pid_inside(inputs: ContainerInputs) -> tuple[oci.Namespace, ...]:
    """On the pod's own kernel: those with equal paths share a namespace, whatever is at the path."""
    options = inputs.config.security.namespaces
    if options.pid != NamespaceMode.CONTAINER and inputs.sandbox.config.shares_pid:
        return ()  # that of the sandbox container
    whose = options.target_id if options.pid == NamespaceMode.TARGET else inputs.id
    return (oci.Namespace(type="pid", path=f"/containers/{whose}/ns/pid"),)


def id_mappings(config: SandboxConfig) -> tuple[tuple[oci.IdMapping, ...], tuple[oci.IdMapping, ...]]:
    """Users and groups of the pod's user namespace as the spec has them; empty without one.

    They are given beside the namespace's path: runc refuses a user namespace without them, and crun gives
    device nodes and terminals to the mapped root by them.
    """
    userns = config.user_namespace
    if userns is None:
        return (), ()
    return _mappings(userns.uids), _mappings(userns.gids)


def _mappings(ranges: Sequence[IdMapping]) -> tuple[oci.IdMapping, ...]:
    return tuple(oci.IdMapping(part.container_id, part.host_id, part.length) for part in ranges)


def host_id(ranges: Sequence[IdMapping], inside: int) -> int | None:
    """What a container's id is on the node; None when it has no place there."""
    for part in ranges:
        if part.container_id <= inside < part.container_id + part.length:
            return part.host_id + inside - part.container_id
    return None


def check_pod_namespaces(config: SandboxConfig) -> None:
    """Refuse what cannot go with a user namespace: its root has no rights over the node's pids and IPC."""
    if config.user_namespace is None:
        return
    options = config.security.namespaces
    for name, mode in (("pid", options.pid), ("ipc", options.ipc)):
        if mode == NamespaceMode.NODE:
            raise InvalidRequest(
                f"a pod with a user namespace cannot use the node's {name} namespace",
                field=f"linux.{_OPTIONS}.{name}",
            )


def check_container_namespaces(pod: SandboxConfig, options: NamespaceOptions) -> None:
    """A container has the user namespace of its pod.

    It may leave the choice out; one that says something else is refused (CRI NamespaceOption.userns_options).
    """
    wanted, found = options.userns, pod.user_namespace
    none_wanted = wanted is None or wanted.mode == NamespaceMode.NODE
    if wanted is not None and (found is not None or not none_wanted) and wanted != found:
        raise InvalidRequest(
            "it differs from the pod's user namespace", field=f"linux.{_OPTIONS}.userns_options"
        )
    if found is not None and options.pid == NamespaceMode.NODE:
        raise InvalidRequest(
            "a pod with a user namespace cannot use the node's pid namespace",
            field=f"linux.{_OPTIONS}.pid",
        )


def check_user(config: SandboxConfig, user: oci.User) -> None:
    """Refuse a user or group that the pod's user namespace has no place for, with its number."""
    userns = config.user_namespace
    if userns is None:
        return
    wanted = [
        ("run_as_user", "user", user.uid, userns.uids),
        ("run_as_group", "group", user.gid, userns.gids),
    ]
    wanted += [("supplemental_groups", "group", gid, userns.gids) for gid in user.additional_gids]
    for name, kind, number, ranges in wanted:
        if host_id(ranges, number) is None:
            raise InvalidRequest(
                f"{kind} {number} is not in the pod's user namespace",
                field=f"linux.security_context.{name}",
            )


def check_mount_maps(config: SandboxConfig, mount: Mount, field: str) -> None:
    """Ids of a mount may be shifted by the pod's user namespace only (CRI Mount.uid_mappings)."""
    userns = config.user_namespace
    if not (mount.uid_mappings or mount.gid_mappings):
        return
    for name, asked, ranges in (
        ("uidMappings", mount.uid_mappings, userns.uids if userns else ()),
        ("gidMappings", mount.gid_mappings, userns.gids if userns else ()),
    ):
        if asked != ranges:
            found = (
                "differ from those of the pod's user namespace"
                if userns
                else "need a user namespace of the pod"
            )
            raise InvalidRequest(f"they {found}", field=f"{field}.{name}")


def groups_outside(userns: UserNamespace, span: str) -> str:
    """A first and a last group of the pod, as the node numbers them; what is beyond its last one is cut off.

    A text that is no such pair, or a span that is empty on purpose (`1 0`), stays as it is.
    """
    numbers = span.split()
    if len(numbers) != 2 or not all(number.isdecimal() and number.isascii() for number in numbers):
        return span
    first, last = map(int, numbers)
    highest = max((part.container_id + part.length - 1 for part in userns.gids), default=0)
    ends = host_id(userns.gids, first), host_id(userns.gids, min(last, highest))
    if first > last or None in ends:
        return span
    return f"{ends[0]} {ends[1]}"
