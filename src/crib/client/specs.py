"""What a pod and a container are to be, written by people, and the CRI's configurations made of it.

`raw` is the way to every field of the CRI that has no name here: what is set in it counts above all else.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from crib.client.errors import InvalidRequest
from crib.manifest import quantity
from crib.manifest.fields import is_uid
from crib.stubs.runtime.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from crib.manifest.plan import Dirs

LOGS_ANNOTATION = "io.crib.client.logs"
"""Names a pod's log directory, for containers that are added to it later."""
_PROTOCOLS = {"tcp": pb.TCP, "udp": pb.UDP, "sctp": pb.SCTP}
Quantity = str | int | float
"""As in Kubernetes: `2`, `0.5` or `"500m"` cores; `"64Mi"`, `"1G"` or a number of bytes."""


@dataclass(frozen=True, slots=True)
class MountSpec:
    """A path of the node (`source`) at `target` in the container."""

    source: str
    target: str
    readonly: bool = False
    propagation: Literal["private", "slave", "shared"] = "private"


@dataclass(frozen=True, slots=True)
class PortSpec:
    """A port of the pod that is reached through one of the node; `host_port` 0 gives it none."""

    port: int
    host_port: int = 0
    protocol: Literal["tcp", "udp", "sctp"] = "tcp"
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class ResourceSpec:
    """What a container gets at most (`cpu` in cores, `memory`), and its weight against others (`cpu_share`).

    None is no limit. `oom_score` is what the kernel's OOM killer adds: -1000 to 1000, 1000 dies first.
    """

    cpu: Quantity | None = None
    memory: Quantity | None = None
    cpu_share: Quantity | None = None
    oom_score: int = 0


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A pod. Only the name is needed; an empty `uid` is made up, and the host name is the pod's name."""

    name: str
    namespace: str = "default"
    uid: str = ""
    hostname: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[PortSpec] = ()
    dns_servers: Sequence[str] = ()
    """Without one the pod has the resolv.conf of the node."""
    dns_searches: Sequence[str] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    host_network: bool = False
    host_pid: bool = False
    log_directory: str = ""
    """Empty: below the client's directory for pods, where `crib run` has them, too; removed with the pod."""
    cgroup_parent: str = ""
    handler: str = ""
    """Of a RuntimeClass; empty for the runtime's default."""
    raw: pb.PodSandboxConfig | None = None


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command that differs from its container's first process; only crib can do that.

    `user` is NAME or UID, perhaps with :GROUP, of the container's own passwd and group; `workdir` is
    absolute. What is empty does not differ.
    """

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container. Without `command` and `args` it runs the image's own. `user`: UID, UID:GID or a name."""

    image: str
    command: Sequence[str] = ()
    args: Sequence[str] = ()
    name: str = "main"
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    user: str = ""
    mounts: Sequence[MountSpec] = ()
    resources: ResourceSpec = ResourceSpec()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    stdin: bool = False
    """Keep its standard input open, for `streams.attach`."""
    tty: bool = False
    privileged: bool = False
    readonly_root: bool = False
    add_capabilities: Sequence[str] = ()
    drop_capabilities: Sequence[str] = ()
    raw: pb.ContainerConfig | None = None


def pod_config(spec: PodSpec | pb.PodSandboxConfig, dirs: Dirs) -> pb.PodSandboxConfig:
    """The CRI's configuration. InvalidRequest names the field that cannot be one."""
    if isinstance(spec, pb.PodSandboxConfig):
        return spec
    if not spec.name:
        raise InvalidRequest("PodSpec.name is empty")
    uid = spec.uid or str(uuid.uuid4())
    if not is_uid(uid):
        raise InvalidRequest(f"PodSpec.uid: {uid!r} cannot be the name of a directory")
    logs = spec.log_directory or dirs.logs(uid)
    dns = None
    if spec.dns_servers or spec.dns_searches:
        dns = pb.DNSConfig(servers=spec.dns_servers, searches=spec.dns_searches)
    config = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name=spec.name, namespace=spec.namespace, uid=uid),
        hostname="" if spec.host_network else spec.hostname or spec.name,
        log_directory=logs,
        dns_config=dns,
        port_mappings=[_port(port) for port in spec.ports],
        labels=spec.labels,
        annotations={LOGS_ANNOTATION: logs, **spec.annotations},
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=spec.cgroup_parent,
            security_context=pb.LinuxSandboxSecurityContext(namespace_options=_namespaces(spec)),
            sysctls=spec.sysctls,
        ),
    )
    if spec.raw is not None:
        config.MergeFrom(spec.raw)
    return config


def container_config(
    spec: ContainerSpec | pb.ContainerConfig, pod: pb.PodSandboxConfig
) -> pb.ContainerConfig:
    """The CRI's configuration of a container in that pod. InvalidRequest names a field that cannot be one."""
    if isinstance(spec, pb.ContainerConfig):
        return spec
    if not spec.image:
        raise InvalidRequest("ContainerSpec.image is empty")
    options = pod.linux.security_context.namespace_options
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=spec.name),
        image=pb.ImageSpec(image=spec.image, user_specified_image=spec.image),
        command=spec.command,
        args=spec.args,
        working_dir=spec.workdir,
        envs=[pb.KeyValue(key=key, value=value.encode()) for key, value in spec.env.items()],
        mounts=[_mount(mount) for mount in spec.mounts],
        labels=spec.labels,
        annotations=spec.annotations,
        log_path=f"{spec.name}.log",
        stdin=spec.stdin,
        stdin_once=spec.stdin,
        tty=spec.tty,
        linux=pb.LinuxContainerConfig(
            resources=linux_resources(spec.resources),
            security_context=_security(spec, options),
        ),
    )
    if spec.raw is not None:
        config.MergeFrom(spec.raw)
    return config


def linux_resources(spec: ResourceSpec) -> pb.LinuxContainerResources:
    """As a kubelet translates limits: a quota of each period of 100 ms, bytes, a weight."""
    resources = pb.LinuxContainerResources(oom_score_adj=spec.oom_score)
    if spec.cpu is not None:
        resources.cpu_period = quantity.PERIOD
        resources.cpu_quota = quantity.cpu_quota(quantity.milli(_quantity("cpu", spec.cpu)))
    if spec.cpu_share is not None:
        resources.cpu_shares = quantity.cpu_shares(quantity.milli(_quantity("cpu_share", spec.cpu_share)))
    if spec.memory is not None:
        resources.memory_limit_in_bytes = quantity.whole(_quantity("memory", spec.memory))
    return resources


def _quantity(name: str, value: Quantity) -> Fraction:
    try:
        return quantity.parse_quantity(value)
    except ValueError as error:
        raise InvalidRequest(f"ResourceSpec.{name}: {error}") from None


def _namespaces(spec: PodSpec) -> pb.NamespaceOption:
    return pb.NamespaceOption(
        network=pb.NODE if spec.host_network else pb.POD, pid=pb.NODE if spec.host_pid else pb.CONTAINER
    )


def _port(port: PortSpec) -> pb.PortMapping:
    return pb.PortMapping(
        protocol=_PROTOCOLS[port.protocol],
        container_port=port.port,
        host_port=port.host_port,
        host_ip=port.host_ip,
    )


def _mount(mount: MountSpec) -> pb.Mount:
    propagation = {
        "private": pb.PROPAGATION_PRIVATE,
        "slave": pb.PROPAGATION_HOST_TO_CONTAINER,
        "shared": pb.PROPAGATION_BIDIRECTIONAL,
    }
    return pb.Mount(
        host_path=mount.source,
        container_path=mount.target,
        readonly=mount.readonly,
        propagation=propagation[mount.propagation],
    )


def _security(spec: ContainerSpec, options: pb.NamespaceOption) -> pb.LinuxContainerSecurityContext:
    context = pb.LinuxContainerSecurityContext(
        privileged=spec.privileged,
        readonly_rootfs=spec.readonly_root,
        namespace_options=options,
        capabilities=pb.Capability(
            add_capabilities=spec.add_capabilities, drop_capabilities=spec.drop_capabilities
        ),
    )
    user, _, group = spec.user.partition(":")
    if user.isdecimal():
        context.run_as_user.value = int(user)
    elif user:
        context.run_as_username = user
    if group:
        if not group.isdecimal():
            raise InvalidRequest(f"ContainerSpec.user: the group {group!r} is not a number")
        context.run_as_group.value = int(group)
    return context
