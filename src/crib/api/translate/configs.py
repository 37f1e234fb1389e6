"""The configs that pods and containers were made from, as CRI messages again, and messages as plain JSON.

For verbose answers. What a request said in a deprecated field is shown in the newer one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from crib.api.translate import containers, mounts, sandboxes
from crib.model.container import ContainerConfig, ContainerRecord, ContainerSecurity
from crib.model.sandbox import (
    DnsConfig,
    PodSecurity,
    Resources,
    SandboxRecord,
    SecurityProfile,
    SelinuxOption,
)
from crib.stubs.runtime.v1 import api_pb2 as pb


def of_container(record: ContainerRecord) -> pb.ContainerConfig:
    """CRI ContainerConfig, as CreateContainer was given it."""
    config = record.config
    image = pb.ImageSpec(image=config.image, user_specified_image=config.user_specified_image)
    return pb.ContainerConfig(
        metadata=containers.metadata(record),
        image=image,
        command=config.command,
        args=config.args,
        working_dir=config.working_dir,
        envs=[pb.KeyValue(key=key, value=value) for key, value in config.envs],
        mounts=[mounts.encode(mount) for mount in config.mounts],
        devices=[
            pb.Device(container_path=d.container_path, host_path=d.host_path, permissions=d.permissions)
            for d in config.devices
        ],
        labels=config.labels,
        annotations=config.annotations,
        log_path=config.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=pb.LinuxContainerConfig(
            resources=containers.encode_resources(config.resources),
            security_context=_container_security(config),
        ),
        CDI_devices=[pb.CDIDevice(name=name) for name in config.cdi_devices],
        stop_signal=pb.Signal.ValueType(config.stop_signal),
    )


def of_sandbox(record: SandboxRecord) -> pb.PodSandboxConfig:
    """CRI PodSandboxConfig, as RunPodSandbox was given it."""
    config = record.config
    return pb.PodSandboxConfig(
        metadata=sandboxes.metadata(record),
        hostname=config.hostname,
        log_directory=config.log_directory,
        dns_config=_dns(config.dns),
        port_mappings=[
            pb.PortMapping(
                protocol=pb.Protocol.ValueType(port.protocol),
                container_port=port.container_port,
                host_port=port.host_port,
                host_ip=port.host_ip,
            )
            for port in config.port_mappings
        ],
        labels=config.labels,
        annotations=config.annotations,
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=config.cgroup_parent,
            security_context=_pod_security(config.security),
            sysctls=config.sysctls,
            overhead=_resources(config.overhead),
            resources=_resources(config.resources),
        ),
    )


def pod_resources(record: SandboxRecord) -> pb.LinuxContainerResources:
    """Of the pod's containers together, as they are in force."""
    return _resources(record.resources or record.config.resources) or pb.LinuxContainerResources()


def plain(message: Message) -> dict[str, Any]:
    """The message as Go's encoding/json writes the CRI's types: its readers expect that.

    Fields have their own names, numbers and enums are numbers, and unset fields are left out. Bytes are shown
    as text.
    """
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if isinstance(value, Mapping):
            found[field.name] = dict(value)
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            found[field.name] = [_value(item) for item in value]
        else:
            found[field.name] = _value(value)
    return found


def _value(value: Any) -> Any:
    if isinstance(value, Message):
        return plain(value)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _container_security(config: ContainerConfig) -> pb.LinuxContainerSecurityContext:
    security = config.security
    capabilities = security.capabilities
    return pb.LinuxContainerSecurityContext(
        capabilities=pb.Capability(
            add_capabilities=capabilities.add,
            drop_capabilities=capabilities.drop,
            add_ambient_capabilities=capabilities.add_ambient,
        ),
        run_as_username=security.run_as_username,
        no_new_privs=security.no_new_privs,
        masked_paths=security.masked_paths,
        readonly_paths=security.readonly_paths,
        **_security(security),
    )


def _pod_security(security: PodSecurity) -> pb.LinuxSandboxSecurityContext:
    return pb.LinuxSandboxSecurityContext(**_security(security))


def _security(security: PodSecurity | ContainerSecurity) -> dict[str, Any]:
    """The fields that pods and containers both have."""
    return {
        "privileged": security.privileged,
        "namespace_options": sandboxes.namespaces(security.namespaces),
        "selinux_options": _selinux(security.selinux),
        "run_as_user": _number(security.run_as_user),
        "run_as_group": _number(security.run_as_group),
        "readonly_rootfs": security.readonly_rootfs,
        "supplemental_groups": security.supplemental_groups,
        "supplemental_groups_policy": security.supplemental_groups_policy,
        "seccomp": _profile(security.seccomp),
        "apparmor": _profile(security.apparmor),
    }


def _dns(dns: DnsConfig | None) -> pb.DNSConfig | None:
    if dns is None:
        return None
    return pb.DNSConfig(servers=dns.servers, searches=dns.searches, options=dns.options)


def _selinux(option: SelinuxOption | None) -> pb.SELinuxOption | None:
    if option is None:
        return None
    return pb.SELinuxOption(user=option.user, role=option.role, type=option.type, level=option.level)


def _profile(profile: SecurityProfile | None) -> pb.SecurityProfile | None:
    if profile is None:
        return None
    kind = pb.SecurityProfile.ProfileType.ValueType(profile.kind)
    return pb.SecurityProfile(profile_type=kind, localhost_ref=profile.localhost_ref)


def _number(value: int | None) -> pb.Int64Value | None:
    return None if value is None else pb.Int64Value(value=value)


def _resources(resources: Resources | None) -> pb.LinuxContainerResources | None:
    return None if resources is None else containers.encode_resources(resources)
