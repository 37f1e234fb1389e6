"""Security contexts, namespaces and resources: the parts that pods and containers share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from crib.api.translate import checks, limits
from crib.model.container import Capabilities, ContainerSecurity
from crib.model.sandbox import (
    IdMapping,
    NamespaceMode,
    NamespaceOptions,
    PodSecurity,
    ProfileType,
    Resources,
    SecurityProfile,
    SelinuxOption,
    UserNamespace,
)
from crib.stubs.runtime.v1 import api_pb2 as pb

_MODE = NamespaceMode
_CAPABILITY = re.compile(r"[A-Z0-9_]{1,64}")
_CPUSET = re.compile(r"(?:[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*)?")
_PAGE_SIZE = re.compile(r"[0-9]{1,10}[KMG]B")
_UNIFIED = re.compile(r"[a-z0-9_]+(?:\.[A-Za-z0-9_]+)+")
MIN_BANDWIDTH = 1000
"""Microseconds: shortest period and quota of CFS (kernel/sched/core.c, min_cfs_quota_period)."""
MAX_PERIOD = 1_000_000
"""Microseconds (max_cfs_quota_period)."""
MAX_QUOTA = (1 << 44) - 1
"""Microseconds (MAX_BW)."""
MIN_IDS = 65536
"""Minimum ids of a user namespace: 0 to 65535, as the kubelet gives (images use 65534 for nobody)."""
MIN_HOST_ID = 1000
"""Below are root and the accounts of the node's system (SYS_UID_MAX of login.defs). critest asks for 1000."""
_NO_LIMIT = -1


def pod_security(message: pb.LinuxSandboxSecurityContext, field: str) -> PodSecurity:
    """CRI LinuxSandboxSecurityContext."""
    user = _user_id(message.run_as_user, f"{field}.run_as_user") if message.HasField("run_as_user") else None
    group = (
        _user_id(message.run_as_group, f"{field}.run_as_group") if message.HasField("run_as_group") else None
    )
    if group is not None and user is None:
        checks.refuse(f"{field}.run_as_group", "is set without run_as_user")
    return PodSecurity(
        namespaces=namespaces(message.namespace_options, f"{field}.namespace_options", of_pod=True),
        selinux=selinux(message.selinux_options, field) if message.HasField("selinux_options") else None,
        run_as_user=user,
        run_as_group=group,
        readonly_rootfs=message.readonly_rootfs,
        supplemental_groups=_groups(message.supplemental_groups, f"{field}.supplemental_groups"),
        supplemental_groups_policy=_policy(message.supplemental_groups_policy, field),
        privileged=message.privileged,
        seccomp=seccomp(message, field),
        apparmor=profile(message.apparmor, f"{field}.apparmor") if message.HasField("apparmor") else None,
    )


def container_security(message: pb.LinuxContainerSecurityContext, field: str) -> ContainerSecurity:
    """CRI LinuxContainerSecurityContext."""
    user = _user_id(message.run_as_user, f"{field}.run_as_user") if message.HasField("run_as_user") else None
    group = (
        _user_id(message.run_as_group, f"{field}.run_as_group") if message.HasField("run_as_group") else None
    )
    username = checks.no_nul(message.run_as_username, f"{field}.run_as_username")
    checks.short(username, limits.MAX_NAME, f"{field}.run_as_username")
    if user is not None and username:
        checks.refuse(f"{field}.run_as_username", "is set together with run_as_user")
    if group is not None and user is None and not username:
        checks.refuse(f"{field}.run_as_group", "is set without run_as_user or run_as_username")
    return ContainerSecurity(
        capabilities=capabilities(message.capabilities, f"{field}.capabilities"),
        privileged=message.privileged,
        namespaces=namespaces(message.namespace_options, f"{field}.namespace_options", of_pod=False),
        selinux=selinux(message.selinux_options, field) if message.HasField("selinux_options") else None,
        run_as_user=user,
        run_as_group=group,
        run_as_username=username,
        readonly_rootfs=message.readonly_rootfs,
        supplemental_groups=_groups(message.supplemental_groups, f"{field}.supplemental_groups"),
        supplemental_groups_policy=_policy(message.supplemental_groups_policy, field),
        no_new_privs=message.no_new_privs,
        masked_paths=_paths(message.masked_paths, f"{field}.masked_paths"),
        readonly_paths=_paths(message.readonly_paths, f"{field}.readonly_paths"),
        seccomp=seccomp(message, field),
        apparmor=apparmor(message, field),
    )


def namespaces(message: pb.NamespaceOption, field: str, *, of_pod: bool) -> NamespaceOptions:
    """CRI NamespaceOption. The kinds that only a pod can decide are POD or NODE."""
    shared = (_MODE.POD, _MODE.NODE)
    pid_modes = (_MODE.POD, _MODE.CONTAINER, _MODE.NODE) if of_pod else ()
    pid = checks.choice(_MODE, message.pid, f"{field}.pid", pid_modes)
    target = message.target_id
    if pid == _MODE.TARGET:
        checks.identifier(target, f"{field}.target_id")
    elif target:
        checks.refuse(f"{field}.target_id", "is set, but pid is not TARGET")
    userns = None
    if message.HasField("userns_options"):
        userns = user_namespace(message.userns_options, f"{field}.userns_options")
    return NamespaceOptions(
        network=checks.choice(_MODE, message.network, f"{field}.network", shared),
        pid=pid,
        ipc=checks.choice(_MODE, message.ipc, f"{field}.ipc", shared),
        target_id=target,
        userns=userns,
    )


def user_namespace(message: pb.UserNamespace, field: str) -> UserNamespace:
    """CRI UserNamespace: one range of each kind with POD (the CRI's tests demand that), none with NODE."""
    mode = checks.choice(_MODE, message.mode, f"{field}.mode", (_MODE.POD, _MODE.NODE))
    uids, gids = (
        id_mappings(ranges, f"{field}.{kind}")
        for kind, ranges in (("uids", message.uids), ("gids", message.gids))
    )
    for kind, ranges in (("uids", uids), ("gids", gids)):
        if mode == _MODE.POD and len(ranges) != 1:
            checks.refuse(f"{field}.{kind}", f"has {len(ranges)} ranges, and exactly one is supported")
        for part in ranges if mode == _MODE.POD else ():
            if part.container_id != 0:
                checks.refuse(f"{field}.{kind}[0].container_id", "is not 0, so the pod would have no root")
            if part.host_id < MIN_HOST_ID:
                text = f"{part.host_id} is one of the node's own: ids from {MIN_HOST_ID} on are possible"
                checks.refuse(f"{field}.{kind}[0].host_id", text)
            if part.length < MIN_IDS:
                checks.refuse(f"{field}.{kind}[0].length", f"{part.length} is less than {MIN_IDS}")
        if mode == _MODE.NODE and ranges:
            checks.refuse(f"{field}.{kind}", "has ranges, but the mode is NODE")
    return UserNamespace(mode, uids, gids)


def id_mappings(messages: Sequence[pb.IDMapping], field: str) -> tuple[IdMapping, ...]:
    """CRI IDMapping: each range within what the kernel can map."""
    found = []
    for index, message in enumerate(checks.at_most(messages, limits.MAX_ID_MAPPINGS, field)):
        mapping = IdMapping(message.host_id, message.container_id, message.length)
        if not mapping.length or max(mapping.host_id, mapping.container_id) + mapping.length > 1 << 32:
            checks.refuse(f"{field}[{index}]", "is empty or goes beyond the highest id")
        found.append(mapping)
    return tuple(found)


def selinux(message: pb.SELinuxOption, field: str) -> SelinuxOption:
    """CRI SELinuxOption."""
    option = SelinuxOption(message.user, message.role, message.type, message.level)
    for part in (option.user, option.role, option.type, option.level):
        if part:
            checks.line(part, f"{field}.selinux_options")
    return option


def profile(message: pb.SecurityProfile, field: str) -> SecurityProfile:
    """CRI SecurityProfile. Only a Localhost profile has a reference, and it must have one."""
    kind = checks.choice(ProfileType, message.profile_type, f"{field}.profile_type")
    reference = checks.path(message.localhost_ref, f"{field}.localhost_ref")
    if kind == ProfileType.LOCALHOST and not reference:
        checks.refuse(f"{field}.localhost_ref", "is empty with profile_type Localhost")
    if kind != ProfileType.LOCALHOST and reference:
        checks.refuse(f"{field}.localhost_ref", "is set, but profile_type is not Localhost")
    return SecurityProfile(kind, reference)


def seccomp(
    message: pb.LinuxSandboxSecurityContext | pb.LinuxContainerSecurityContext, field: str
) -> SecurityProfile | None:
    """The seccomp profile; the deprecated path counts only when the newer field is unset, as the CRI says."""
    deprecated = message.seccomp_profile_path
    if message.HasField("seccomp"):
        found = profile(message.seccomp, f"{field}.seccomp")
        where = f"{field}.seccomp.localhost_ref"
    else:
        where = f"{field}.seccomp_profile_path"
        legacy = _legacy_profile(deprecated, ("runtime/default", "docker/default"), where)
        if legacy is None:
            return None
        found = legacy
    if found.kind == ProfileType.LOCALHOST:
        checks.absolute(found.localhost_ref, where)
    return found


def apparmor(message: pb.LinuxContainerSecurityContext, field: str) -> SecurityProfile | None:
    """The AppArmor profile; the deprecated name is read only when the newer field is unset."""
    deprecated = message.apparmor_profile
    if message.HasField("apparmor"):
        return profile(message.apparmor, f"{field}.apparmor")
    return _legacy_profile(deprecated, ("runtime/default",), f"{field}.apparmor_profile")


def _legacy_profile(text: str, defaults: tuple[str, ...], field: str) -> SecurityProfile | None:
    if not text:
        return None
    if text in defaults:
        return SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    if text == "unconfined":
        return SecurityProfile(ProfileType.UNCONFINED)
    reference = text.removeprefix("localhost/")
    if reference == text or not reference:
        checks.refuse(field, f"{text[:100]!r} is not {defaults[0]}, unconfined or localhost/PROFILE")
    return SecurityProfile(ProfileType.LOCALHOST, checks.path(reference, field))


def capabilities(message: pb.Capability, field: str) -> Capabilities:
    """CRI Capability, with or without the CAP_ prefix, in any case."""

    def names(values: Sequence[str], kind: str) -> tuple[str, ...]:
        checks.at_most(values, limits.MAX_CAPABILITIES, f"{field}.{kind}")
        found = tuple(value.upper().removeprefix("CAP_") for value in values)
        for value in found:
            if not _CAPABILITY.fullmatch(value):
                checks.refuse(f"{field}.{kind}", f"{value[:100]!r} is not the name of a capability")
        return found

    return Capabilities(
        add=names(message.add_capabilities, "add_capabilities"),
        drop=names(message.drop_capabilities, "drop_capabilities"),
        add_ambient=names(message.add_ambient_capabilities, "add_ambient_capabilities"),
    )


def resources(message: pb.LinuxContainerResources, field: str) -> Resources:
    """CRI LinuxContainerResources; 0 means "not set", a negative value "no limit" where that exists.

    A kubelet that resizes a pod subtracts its overhead from every quota, even from -1 (kuberuntime,
    subtractOverheadFromResourceConfig).
    """
    pages: dict[str, int] = {}
    sizes = checks.at_most(message.hugepage_limits, limits.MAX_HUGEPAGE_LIMITS, f"{field}.hugepage_limits")
    for index, limit in enumerate(sizes):
        if not _PAGE_SIZE.fullmatch(limit.page_size) or limit.page_size in pages:
            checks.refuse(
                f"{field}.hugepage_limits[{index}].page_size",
                f"{limit.page_size[:100]!r} is not a size, or appears twice",
            )
        pages[limit.page_size] = limit.limit
    unified = dict(checks.at_most(message.unified, limits.MAX_UNIFIED, f"{field}.unified"))
    for key, value in unified.items():
        where = f"{field}.unified[{key[:100]!r}]"
        if not _UNIFIED.fullmatch(key) or "\0" in value:
            checks.refuse(where, "is not a cgroup v2 file, or its value has a NUL")
        checks.short(value, limits.MAX_VALUE, where)
        if len(key) > limits.MAX_NAME:
            checks.refuse(where, f"is longer than {limits.MAX_NAME} characters")
    _number_list(message.cpuset_cpus, f"{field}.cpuset_cpus")
    _number_list(message.cpuset_mems, f"{field}.cpuset_mems")
    return Resources(
        cpu_period=_bandwidth(message.cpu_period, MAX_PERIOD, f"{field}.cpu_period"),
        cpu_quota=_bandwidth(
            max(message.cpu_quota, _NO_LIMIT), MAX_QUOTA, f"{field}.cpu_quota", unlimited=True
        ),
        cpu_shares=checks.number(message.cpu_shares, 0, 262144, f"{field}.cpu_shares"),
        memory_limit_in_bytes=max(message.memory_limit_in_bytes, _NO_LIMIT),
        oom_score_adj=checks.number(message.oom_score_adj, -1000, 1000, f"{field}.oom_score_adj"),
        cpuset_cpus=message.cpuset_cpus,
        cpuset_mems=message.cpuset_mems,
        hugepage_limits=pages,
        unified=unified,
        memory_swap_limit_in_bytes=max(message.memory_swap_limit_in_bytes, _NO_LIMIT),
    )


def _bandwidth(value: int, most: int, field: str, *, unlimited: bool = False) -> int:
    """Microseconds that the kernel's CFS takes; 0 is "not set", -1 as a quota "no limit"."""
    if value == 0 or (unlimited and value == _NO_LIMIT):
        return value
    return checks.number(value, MIN_BANDWIDTH, most, field)


def _number_list(text: str, field: str) -> None:
    """A list of processors or memory nodes (cpuset(7), List format)."""
    checks.short(text, limits.MAX_VALUE, field)
    if not _CPUSET.fullmatch(text):
        checks.refuse(field, f"{text[:100]!r} is not a list such as 0-3,7")
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            checks.refuse(field, f"{part} ends before it begins")


def _user_id(message: pb.Int64Value, field: str) -> int:
    return checks.number(message.value, 0, checks.MAX_UID, field)


def _groups(values: Sequence[int], field: str) -> tuple[int, ...]:
    checks.at_most(values, limits.MAX_GROUPS, field)
    return tuple(checks.number(value, 0, checks.MAX_UID, field) for value in values)


def _policy(value: int, field: str) -> int:
    return checks.number(value, 0, 1, f"{field}.supplemental_groups_policy")


def _paths(values: Sequence[str], field: str) -> tuple[str, ...]:
    checks.at_most(values, limits.MAX_HIDDEN_PATHS, field)
    return tuple(checks.absolute(value, field) for value in values)
