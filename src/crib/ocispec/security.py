"""What a process may do.

Capabilities, labels, and the paths of /proc and /sys that are hidden or read-only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from crib.model.errors import InvalidRequest
from crib.model.sandbox import ProfileType, SecurityProfile
from crib.model.settings import DEFAULT_CAPABILITIES
from crib.ocispec.init_system import is_systemd
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.selinux import file_label, process_label
from crib.wire import oci_runtime as oci

_ALL = "ALL"
_FIELD = "linux.security_context.capabilities"
_APPARMOR = "linux.security_context.apparmor"
_SUPER_PRIVILEGED = "spc_t"
_ALWAYS_MASKED = ("/sys/devices/virtual/powercap",)

DEFAULT_PROFILE = "crib-default"
"""Our AppArmor profile, which stands for RuntimeDefault."""

KNOWN_CAPABILITIES = (
    *DEFAULT_CAPABILITIES,
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "NET_ADMIN",
    "NET_BROADCAST",
    "PERFMON",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
)
"""capabilities(7), without the prefix."""


def capabilities(inputs: ContainerInputs) -> oci.Capabilities:
    """Bounding, effective and permitted alike; only what the daemon itself may hand on.

    Inheritable is empty (CVE-2022-24769) but for what is asked for as ambient, which the kernel takes from
    there.
    """
    wanted = inputs.config.security.capabilities
    granted = set(KNOWN_CAPABILITIES if inputs.privileged else inputs.options.containers.capabilities)
    if not inputs.privileged:
        added = _names(wanted.add, "add_capabilities")
        dropped = _names(wanted.drop, "drop_capabilities")
        if _ALL in added:
            granted = set(KNOWN_CAPABILITIES)
        if _ALL in dropped:
            granted = set()
        granted = (granted | (added - {_ALL})) - dropped
    ambient = _names(wanted.add_ambient, "add_ambient_capabilities")
    if _ALL in ambient:
        ambient = set(granted)
    granted |= ambient
    ours = set(inputs.host.capabilities)
    held = tuple(sorted(name for name in map("CAP_{}".format, granted) if name in ours))
    raised = tuple(name for name in held if name.removeprefix("CAP_") in ambient)
    return oci.Capabilities(bounding=held, effective=held, permitted=held, inheritable=raised, ambient=raised)


def _names(given: Iterable[str], part: str) -> set[str]:
    names = set()
    for position, text in enumerate(given):
        name = text.upper().removeprefix("CAP_")
        if name != _ALL and name not in KNOWN_CAPABILITIES:
            raise InvalidRequest(f"{text!r} is not a capability", field=f"{_FIELD}.{part}[{position}]")
        names.add(name)
    return names


def masked_paths(inputs: ContainerInputs) -> tuple[str, ...]:
    """As the client says: the kubelet sends the customary list, or none for an unmasked /proc.

    A list that hides anything hides the power meters too (GHSA-7ww5-4wqc-m92c), of which older kubelets do
    not know.
    """
    paths = inputs.config.security.masked_paths
    if inputs.privileged or not paths:
        return ()
    return tuple(dict.fromkeys((*paths, *_ALWAYS_MASKED)))


def readonly_paths(inputs: ContainerInputs) -> tuple[str, ...]:
    """As the client says."""
    return () if inputs.privileged else inputs.config.security.readonly_paths


def wanted_profile(profile: SecurityProfile | None, *, privileged: bool) -> str:
    """Name of the AppArmor profile that a security context asks for; empty for none (unconfined)."""
    if privileged or (profile is not None and profile.kind == ProfileType.UNCONFINED):
        return ""
    if profile is None or profile.kind == ProfileType.RUNTIME_DEFAULT:
        return DEFAULT_PROFILE
    return profile.localhost_ref.removeprefix("localhost/")


def confinement(
    profile: SecurityProfile | None, *, privileged: bool, enabled: bool, loaded: frozenset[str]
) -> str:
    """The OCI's apparmorProfile. One that was asked for and is not there is refused, never left out.

    A host without AppArmor needs no default profile. A container that asks for nothing gets ours, as with
    the peers, or runs without where it could not be loaded.
    """
    name = wanted_profile(profile, privileged=privileged)
    named = profile is not None and profile.kind == ProfileType.LOCALHOST and not privileged
    if not enabled:
        if named:
            raise InvalidRequest(
                f"profile {name!r} cannot be used: this host has no AppArmor", field=_APPARMOR
            )
        return ""
    if not name and not named:
        return "unconfined"
    if name in loaded:
        return name
    if profile is None:
        return ""
    raise InvalidRequest(f"profile {name!r} is not loaded in the kernel", field=_APPARMOR)


def apparmor_profile(inputs: ContainerInputs) -> str:
    """A profile's name, `unconfined`, or nothing where there is no AppArmor."""
    return confinement(
        inputs.config.security.apparmor,
        privileged=inputs.privileged,
        enabled=inputs.host.apparmor,
        loaded=inputs.profiles,
    )


def selinux_label(inputs: ContainerInputs) -> str:
    """Label of the processes; none where SELinux is off."""
    host = inputs.host
    if host.selinux_init and is_systemd(inputs):
        host = replace(host, selinux_process=host.selinux_init)
    return process_label(inputs.config, inputs.sandbox.config, host, inputs.selinux_level)


def volume_label(inputs: ContainerInputs) -> str:
    """What volumes are relabelled with (CRI Mount.selinux_relabel); empty where nothing needs it.

    Who is not kept apart (privileged, the node's pids or ipc, `spc_t`) can use a volume as it is, and a
    label of its own would shut the others out.
    """
    kind = selinux_label(inputs).split(":")
    return mount_label(inputs) if len(kind) > 2 and kind[2] != _SUPER_PRIVILEGED else ""


def mount_label(inputs: ContainerInputs) -> str:
    """Label of the files, of the same level as the processes; none where SELinux is off."""
    return file_label(inputs.config, inputs.sandbox.config, inputs.host, inputs.selinux_level)
