"""CRI configurations to a v1 Pod: the way back from what `container` and `pod` make.

It is for pods that run already. What the CRI does not say is not in it: probes, hooks, restart policies.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crib.manifest.behaviour import DEFAULT_GRACE
from crib.manifest.container import GRACE
from crib.manifest.late import has_own_users
from crib.manifest.plan import INIT_CONTAINER
from crib.manifest.pod_resources import Portion, of_linux, pod_amounts
from crib.manifest.quantity import MIN_SHARES, PERIOD
from crib.manifest.resources import linux_resources
from crib.manifest.security import MASKED_PATHS
from crib.stubs.runtime.v1 import api_pb2 as cri
from crib.stubs.runtime.v1.api_pb2 import LinuxContainerResources

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crib.stubs.runtime.v1.api_pb2 import ContainerConfig, Device, Mount, PodSandboxConfig

_PROPAGATION = {
    cri.PROPAGATION_HOST_TO_CONTAINER: "HostToContainer",
    cri.PROPAGATION_BIDIRECTIONAL: "Bidirectional",
}
_PROTOCOLS = {cri.TCP: "TCP", cri.UDP: "UDP", cri.SCTP: "SCTP"}
_OURS = ("io.kubernetes.", "kubectl.kubernetes.io/last-applied")


@dataclass(frozen=True, slots=True)
class MountSource:
    """What a mount's host path is to the pod: a volume of this name and definition, or a part of it."""

    name: str
    definition: Mapping[str, object]
    inside: str = ""


@dataclass(slots=True)
class RunningParts:
    """A pod as the runtime has it, and what is known of its host paths. `containers` as they were made."""

    sandbox: PodSandboxConfig
    containers: Sequence[ContainerConfig]
    handler: str = ""
    sources: Mapping[str, MountSource] = field(default_factory=dict)
    aliases: Sequence[tuple[str, ...]] = ()
    hosts_path: str = ""
    seccomp_root: str = ""

    @property
    def own_resources(self) -> LinuxContainerResources:
        """What was said of the pod as a whole: empty where it is what its containers have together."""
        linux = self.sandbox.linux
        shares = [
            Portion(of_linux(one.linux.resources), INIT_CONTAINER in one.annotations)
            for one in self.containers
        ]
        given = _amounts(linux.resources)
        if linux.cgroup_parent or given == _amounts(linux_resources(pod_amounts(shares))):
            return LinuxContainerResources()  # the first is a kubelet's, which adds up by itself
        return linux.resources


def pod_document(parts: RunningParts) -> dict[str, Any]:
    """The Pod. Its uid is left out: who runs it gets another one."""
    volumes: dict[str, dict[str, object]] = {}
    init = [one for one in parts.containers if INIT_CONTAINER in one.annotations]
    main = [one for one in parts.containers if INIT_CONTAINER not in one.annotations]
    rendered = [_container(one, parts, volumes) for one in main]
    if rendered and (ports := _ports(parts.sandbox)):
        rendered[0]["ports"] = ports  # the CRI knows ports of pods, not of containers
    sandbox, metadata = parts.sandbox, parts.sandbox.metadata
    spec = {
        **_pod_fields(parts),
        "initContainers": [_container(one, parts, volumes) for one in init],
        "containers": rendered,
        "volumes": list(volumes.values()),
    }
    own_users = {"hostUsers": False} if has_own_users(sandbox) else {}
    return _set(
        apiVersion="v1",
        kind="Pod",
        metadata=_set(
            name=metadata.name,
            namespace=metadata.namespace if metadata.namespace != "default" else "",
            labels=_foreign(sandbox.labels),
            annotations=_foreign(sandbox.annotations),
        ),
        spec=own_users | _set(**spec),
    )


def _set(**fields: Any) -> dict[str, Any]:
    """Without what is empty or false: that is the default of all of these fields."""
    return {name: value for name, value in fields.items() if value or (value == 0 and value is not False)}


def _foreign(values: Mapping[str, str]) -> dict[str, str]:
    return {key: values[key] for key in sorted(values) if not key.startswith(_OURS)}


def _pod_fields(parts: RunningParts) -> dict[str, Any]:
    sandbox = parts.sandbox
    security = sandbox.linux.security_context
    options = security.namespace_options
    grace = next((c.annotations[GRACE] for c in parts.containers if GRACE in c.annotations), "")
    seconds = int(grace) if grace.isdecimal() else DEFAULT_GRACE
    dns = sandbox.dns_config
    name = sandbox.metadata.name[:63].rstrip("-.")
    simple = sandbox.hostname and "." not in sandbox.hostname
    return {
        "hostname": sandbox.hostname if simple and sandbox.hostname != name else "",
        "hostnameOverride": "" if simple else sandbox.hostname,
        "runtimeClassName": parts.handler,
        "terminationGracePeriodSeconds": seconds if seconds != DEFAULT_GRACE else "",
        "hostNetwork": options.network == cri.NODE,
        "hostPID": options.pid == cri.NODE,
        "hostIPC": options.ipc == cri.NODE,
        "shareProcessNamespace": options.pid == cri.POD,
        "hostAliases": [{"ip": alias[0], "hostnames": list(alias[1:])} for alias in parts.aliases],
        "dnsPolicy": "None" if dns.servers else "",
        "dnsConfig": _set(
            nameservers=list(dns.servers),
            searches=list(dns.searches),
            options=[_option(text) for text in dns.options],
        )
        if dns.servers
        else {},
        "securityContext": _set(
            supplementalGroups=list(security.supplemental_groups),
            supplementalGroupsPolicy="Strict" if security.supplemental_groups_policy == cri.Strict else "",
            sysctls=[{"name": key, "value": value} for key, value in sorted(sandbox.linux.sysctls.items())],
        ),
        "resources": _amounts(parts.own_resources),
        "overhead": _amounts(sandbox.linux.overhead).get("limits", {}),
    }


def _option(text: str) -> dict[str, str]:
    name, _, value = text.partition(":")
    return _set(name=name, value=value)


def _ports(sandbox: PodSandboxConfig) -> list[dict[str, Any]]:
    return [
        _set(
            containerPort=port.container_port,
            hostPort=port.host_port or "",
            hostIP=port.host_ip,
            protocol=_PROTOCOLS[port.protocol] if port.protocol != cri.TCP else "",
        )
        for port in sandbox.port_mappings
    ]


def _container(
    config: ContainerConfig, parts: RunningParts, volumes: dict[str, dict[str, object]]
) -> dict[str, Any]:
    signal = cri.Signal.Name(config.stop_signal).removeprefix("SIGNAL_")
    return _set(
        name=config.metadata.name,
        image=config.image.user_specified_image or config.image.image,
        imagePullPolicy="IfNotPresent",
        command=[_escaped(word) for word in config.command],
        args=[_escaped(word) for word in config.args],
        workingDir=config.working_dir,
        env=[{"name": env.key, "value": _escaped(env.value.decode(errors="replace"))} for env in config.envs],
        resources=_resources(config, parts.own_resources),
        volumeMounts=list(_mounts(config.mounts, parts, volumes)),
        volumeDevices=list(_devices(config.devices, parts, volumes)),
        securityContext=_security(config, parts.seccomp_root),
        lifecycle={"stopSignal": signal.replace("PLUS", "+").replace("MINUS", "-")}
        if config.stop_signal != cri.SIGNAL_RUNTIME_DEFAULT
        else {},
        stdin=config.stdin,
        stdinOnce=config.stdin_once,
        tty=config.tty,
    )


def _escaped(text: str) -> str:
    """What `$(NAME)` stood for is known by now; what is left of it is meant as it is."""
    return text.replace("$(", "$$(")


def _resources(config: ContainerConfig, pods: LinuxContainerResources) -> dict[str, Any]:
    """Without the limits that it has only because they are the pod's own."""
    found = LinuxContainerResources()
    found.CopyFrom(config.linux.resources)
    if found.cpu_quota == pods.cpu_quota and found.cpu_period == pods.cpu_period:
        found.cpu_quota = 0
    if found.memory_limit_in_bytes == pods.memory_limit_in_bytes:
        found.memory_limit_in_bytes = 0
    return _amounts(found)


def _amounts(found: LinuxContainerResources) -> dict[str, Any]:
    requests = {}
    if found.cpu_shares > MIN_SHARES:
        requests["cpu"] = f"{math.ceil(found.cpu_shares * 1000 / 1024)}m"
    limits = {}
    if found.cpu_quota > 0:
        limits["cpu"] = f"{found.cpu_quota * 1000 // (found.cpu_period or PERIOD)}m"
    if found.memory_limit_in_bytes > 0:
        limits["memory"] = str(found.memory_limit_in_bytes)
    return _set(requests=requests, limits=limits)


def _mounts(
    mounts: Iterable[Mount], parts: RunningParts, volumes: dict[str, dict[str, object]]
) -> Iterable[dict[str, Any]]:
    for mount in mounts:
        if mount.host_path and mount.host_path == parts.hosts_path:
            continue
        source = _source(mount, parts.sources, len(volumes))
        yield _set(
            name=_volume_of(source, volumes),
            mountPath=mount.container_path,
            readOnly=mount.readonly and not mount.HasField("image"),
            subPath=mount.image_sub_path or source.inside,
            mountPropagation=_PROPAGATION.get(mount.propagation, ""),
            recursiveReadOnly="Enabled" if mount.recursive_read_only else "",
            bindMountOptions=list(mount.mount_options),
        )


def _volume_of(source: MountSource, volumes: dict[str, dict[str, object]]) -> str:
    """The name of the pod's volume of this source; it is one of them from now on."""
    same = {"name": "", **source.definition}
    known = (name for name, one in volumes.items() if {**one, "name": ""} == same)
    name = next(known, source.name)
    volumes.setdefault(name, {"name": name, **source.definition})
    return name


def _devices(
    devices: Iterable[Device], parts: RunningParts, volumes: dict[str, dict[str, object]]
) -> Iterable[dict[str, Any]]:
    """Those that are volumes; a manifest has no word for others."""
    for device in devices:
        if (source := parts.sources.get(device.host_path)) is not None:
            yield {"name": _volume_of(source, volumes), "devicePath": device.container_path}


def _source(mount: Mount, sources: Mapping[str, MountSource], number: int) -> MountSource:
    if mount.HasField("image"):
        reference = mount.image.user_specified_image or mount.image.image
        return MountSource(
            f"image-{number}", {"image": {"reference": reference, "pullPolicy": "IfNotPresent"}}
        )
    if (known := sources.get(mount.host_path)) is not None:
        return known
    return MountSource(f"host-{number}", {"hostPath": {"path": mount.host_path}})


def _security(config: ContainerConfig, seccomp_root: str) -> dict[str, Any]:
    found = config.linux.security_context
    unmasked = not found.privileged and not found.masked_paths and bool(MASKED_PATHS)
    capabilities = found.capabilities
    return _set(
        privileged=found.privileged,
        runAsUser=found.run_as_user.value if found.HasField("run_as_user") else "",
        runAsGroup=found.run_as_group.value if found.HasField("run_as_group") else "",
        readOnlyRootFilesystem=found.readonly_rootfs,
        capabilities=_set(add=list(capabilities.add_capabilities), drop=list(capabilities.drop_capabilities)),
        procMount="Unmasked" if unmasked else "",
        seccompProfile=_profile(found.seccomp, seccomp_root) if found.HasField("seccomp") else {},
        appArmorProfile=_profile(found.apparmor, "") if found.HasField("apparmor") else {},
        seLinuxOptions=_set(
            user=found.selinux_options.user,
            role=found.selinux_options.role,
            type=found.selinux_options.type,
            level=found.selinux_options.level,
        ),
    ) | ({"allowPrivilegeEscalation": False} if found.no_new_privs else {})


def _profile(profile: cri.SecurityProfile, root: str) -> dict[str, str]:
    word = cri.SecurityProfile.ProfileType.Name(profile.profile_type)
    local = profile.localhost_ref
    if root and local.startswith(f"{root}/"):
        local = posixpath.relpath(local, root)
    return _set(type=word, localhostProfile=local)
