"""Security contexts of pods and containers, with the defaults that a kubelet fills in.

One default differs on purpose: without a seccompProfile a container gets the runtime's own profile, as with
a kubelet that runs with `--seccomp-default`.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from crib.manifest import shapes
from crib.manifest.fields import MAX_NUMBER, unique
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER,
    NODE,
    POD,
    Capability,
    Int64Value,
    LinuxContainerSecurityContext,
    LinuxSandboxSecurityContext,
    Merge,
    NamespaceOption,
    SecurityProfile,
    SELinuxOption,
    Strict,
    UserNamespace,
)

if TYPE_CHECKING:
    from crib.manifest.fields import ManifestNode
    from crib.manifest.plan import Site
    from crib.stubs.runtime.v1.api_pb2 import SupplementalGroupsPolicy

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_TYPES = {
    "RuntimeDefault": SecurityProfile.RuntimeDefault,
    "Unconfined": SecurityProfile.Unconfined,
    "Localhost": SecurityProfile.Localhost,
}


def namespaces(spec: ManifestNode) -> NamespaceOption:
    """Whose namespaces the pod's containers run in."""
    host_pid = bool(spec.flag("hostPID"))
    share = bool(spec.flag("shareProcessNamespace"))
    if host_pid and share:
        spec.wrong("shareProcessNamespace", "cannot be had together with hostPID")
    own_users = spec.flag("hostUsers") is False
    for field in ("hostPID", "hostIPC"):
        if own_users and spec.flag(field):
            spec.wrong(field, "cannot be had together with hostUsers: false")
    return NamespaceOption(
        network=NODE if spec.flag("hostNetwork") else POD,
        pid=NODE if host_pid else POD if share else CONTAINER,
        ipc=NODE if spec.flag("hostIPC") else POD,
        # its ranges are `late`: they depend on the pods that are there when it is made
        userns_options=UserNamespace(mode=POD) if own_users else None,
    )


def sandbox_security(
    spec: ManifestNode, options: NamespaceOption, *, privileged: bool
) -> LinuxSandboxSecurityContext:
    """The sandbox's own context. `privileged`: whether any of the containers is."""
    found = LinuxSandboxSecurityContext(
        namespace_options=options, privileged=privileged, seccomp=SecurityProfile()
    )
    pod = spec.child("securityContext")
    if pod is None:
        return found
    pod.check(shapes.POD_SECURITY)
    if (user := _id(pod, "runAsUser")) is not None:
        found.run_as_user.CopyFrom(user)
        if (group := _id(pod, "runAsGroup")) is not None:
            found.run_as_group.CopyFrom(group)
    found.supplemental_groups.extend(_groups(pod))
    found.supplemental_groups_policy = _groups_policy(pod)
    if (selinux := _selinux(pod)) is not None:
        found.selinux_options.CopyFrom(selinux)
    return found


def _groups(pod: ManifestNode) -> list[int]:
    """Whoever runs in the pod is of the group that owns its volumes, too."""
    group = pod.number("fsGroup", 0, MAX_NUMBER)
    others = pod.numbers("supplementalGroups")
    return others if group is None or group in others else [group, *others]


def sysctls(spec: ManifestNode) -> dict[str, str]:
    """The pod's sysctls by name."""
    found: dict[str, str] = {}
    pod = spec.child("securityContext")
    for node in unique(pod.children("sysctls"), "name", "sysctl") if pod else ():
        node.check(shapes.SYSCTL)
        found[node.need_text("name").replace("/", ".")] = node.text("value")
    return found


def must_not_be_root(spec: ManifestNode, container: ManifestNode) -> bool:
    """Whether runAsNonRoot holds for a container; refuses a context that contradicts itself."""
    for node in (container.child("securityContext"), spec.child("securityContext")):
        if node is not None and (value := node.flag("runAsNonRoot")) is not None:
            user = _effective(spec, container, "runAsUser")
            if value and user is not None and user.value == 0:
                node.wrong("runAsNonRoot", "contradicts runAsUser: 0")
            return value
    return False


def container_security(
    spec: ManifestNode, container: ManifestNode, options: NamespaceOption, site: Site
) -> LinuxContainerSecurityContext:
    """A container's context: its own fields, then the pod's, then the defaults."""
    own = container.part("securityContext")
    own.check(shapes.CONTAINER_SECURITY)
    privileged = bool(own.flag("privileged"))
    pod = spec.child("securityContext")
    unmasked = own.choice("procMount", ("Default", "Unmasked"), "Default") == "Unmasked" or privileged
    found = LinuxContainerSecurityContext(
        capabilities=_capabilities(own),
        privileged=privileged,
        namespace_options=options,
        run_as_user=_effective(spec, container, "runAsUser"),
        run_as_group=_effective(spec, container, "runAsGroup"),
        readonly_rootfs=bool(own.flag("readOnlyRootFilesystem")),
        supplemental_groups=_groups(pod) if pod else [],
        supplemental_groups_policy=_groups_policy(pod),
        no_new_privs=_no_new_privs(own, privileged=privileged),
        masked_paths=() if unmasked else MASKED_PATHS,
        readonly_paths=() if unmasked else READONLY_PATHS,
        selinux_options=_selinux(own) or (_selinux(pod) if pod else None),
    )
    seccomp = _profile(own, "seccompProfile", site.seccomp_root)
    if seccomp is None and pod is not None:
        seccomp = _profile(pod, "seccompProfile", site.seccomp_root)
    if seccomp is None:
        default = SecurityProfile.Unconfined if privileged else SecurityProfile.RuntimeDefault
        seccomp = SecurityProfile(profile_type=default)
    found.seccomp.CopyFrom(seccomp)
    apparmor = _profile(own, "appArmorProfile", "") or (_profile(pod, "appArmorProfile", "") if pod else None)
    if apparmor is not None:
        found.apparmor.CopyFrom(apparmor)
    return found


def _effective(spec: ManifestNode, container: ManifestNode, name: str) -> Int64Value | None:
    for node in (container.child("securityContext"), spec.child("securityContext")):
        if node is not None and (value := _id(node, name)) is not None:
            return value
    return None


def _id(node: ManifestNode, name: str) -> Int64Value | None:
    value = node.number(name, 0, MAX_NUMBER)
    return None if value is None else Int64Value(value=value)


def _groups_policy(pod: ManifestNode | None) -> SupplementalGroupsPolicy.ValueType:
    word = pod.choice("supplementalGroupsPolicy", ("Merge", "Strict"), "Merge") if pod else "Merge"
    return Strict if word == "Strict" else Merge


def _capabilities(own: ManifestNode) -> Capability | None:
    node = own.child("capabilities")
    if node is None:
        return None
    node.check(shapes.CAPABILITIES)
    return Capability(add_capabilities=node.texts("add"), drop_capabilities=node.texts("drop"))


def _no_new_privs(own: ManifestNode, *, privileged: bool) -> bool:
    if own.flag("allowPrivilegeEscalation") is not False:
        return False
    if privileged:
        own.wrong("allowPrivilegeEscalation", "cannot be false for a privileged container")
    capabilities = own.child("capabilities")
    added = capabilities.texts("add") if capabilities else []
    if any(name.upper().removeprefix("CAP_") == "SYS_ADMIN" for name in added):
        own.wrong("allowPrivilegeEscalation", "cannot be false with the capability SYS_ADMIN")
    return True


def _profile(owner: ManifestNode, name: str, root: str) -> SecurityProfile | None:
    node = owner.child(name)
    if node is None:
        return None
    node.check(shapes.PROFILE)
    word = node.choice("type", tuple(_TYPES), "")
    local = node.text("localhostProfile")
    if not word:
        return None
    if (word == "Localhost") != bool(local):
        node.wrong("localhostProfile", "goes with type: Localhost, and only with it")
    elif local and root:
        if local.startswith("/") or ".." in local.split("/"):
            node.wrong("localhostProfile", f"{local!r} must be a relative path without '..'")
        local = posixpath.join(root, local)
    return SecurityProfile(profile_type=_TYPES[word], localhost_ref=local)


def _selinux(owner: ManifestNode) -> SELinuxOption | None:
    node = owner.child("seLinuxOptions")
    if node is None:
        return None
    node.check(shapes.SELINUX)
    return SELinuxOption(
        user=node.text("user"), role=node.text("role"), type=node.text("type"), level=node.text("level")
    )
