"""What a process may do.

Capabilities, labels, and the paths of /proc and /sys that are hidden or read-only.
"""

from __future__ import annotations

from collections.abc import Iterable

from crib.model.errors import InvalidRequest
from crib.model.sandbox import ProfileType, SelinuxOption
from crib.ocispec.inputs import ContainerInputs
from crib.wire import oci_runtime as oci

_ALL = "ALL"
_FIELD = "config.linux.security_context.capabilities"

DEFAULT_CAPABILITIES = (
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)
"""What a container has when nothing is said: the set that docker made customary."""

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
    granted = set(KNOWN_CAPABILITIES if inputs.privileged else DEFAULT_CAPABILITIES)
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
    """As the client says: the kubelet sends the customary list, or none for an unmasked /proc."""
    return () if inputs.privileged else inputs.config.security.masked_paths


def readonly_paths(inputs: ContainerInputs) -> tuple[str, ...]:
    """As the client says."""
    return () if inputs.privileged else inputs.config.security.readonly_paths


def apparmor_profile(inputs: ContainerInputs) -> str:
    """A profile's name. Hosts without AppArmor refuse a profile that was asked for by name, and need none
    otherwise.
    """
    profile = inputs.config.security.apparmor
    if profile is None or inputs.privileged or profile.kind == ProfileType.UNCONFINED:
        return "unconfined" if inputs.host.apparmor and profile is not None else ""
    if profile.kind == ProfileType.RUNTIME_DEFAULT:
        return ""
    if not inputs.host.apparmor:
        raise InvalidRequest(
            f"profile {profile.localhost_ref!r} cannot be used: this host has no AppArmor",
            field="config.linux.security_context.apparmor",
        )
    return profile.localhost_ref.removeprefix("localhost/")


def _label(option: SelinuxOption | None, kind: str) -> str:
    if option is None or not (option.user or option.role or option.type or option.level):
        return ""
    user, role, level = option.user or "system_u", option.role or "system_r", option.level or "s0"
    return f"{user}:{role}:{option.type or kind}:{level}"


def selinux_label(inputs: ContainerInputs) -> str:
    """Label of the processes; none where SELinux is off."""
    if not inputs.host.selinux or inputs.privileged:
        return ""
    return _label(inputs.config.security.selinux, "container_t")


def mount_label(inputs: ContainerInputs) -> str:
    """Label of the files, of the same level as the processes; none where SELinux is off."""
    option = inputs.config.security.selinux
    if not inputs.host.selinux or inputs.privileged or option is None:
        return ""
    return _label(SelinuxOption("system_u", "object_r", "container_file_t", option.level), "container_file_t")
