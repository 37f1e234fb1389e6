"""Limits that a plugin wants (LinuxResources, LinuxSeccomp, …), as our nouns."""

from __future__ import annotations

import re

from crib.backends.nri.translate_checks import (
    Misfit,
    at,
    each,
    enum_name,
    matching,
    name,
    number,
    path,
    text,
    value_of,
)
from crib.model.edits import AddedDeviceRule, RdtChange, SetIoPriority, SetMemoryPolicy, SetScheduler
from crib.model.resource_change import ResourceChange
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.wire import oci_runtime as oci

_MOST = (1 << 63) - 1
_U64 = (1 << 64) - 1
_ERRNO = 4095
"""MAX_ERRNO of the kernel."""
_MAX_SYSCALLS = 4096
_ACCESS = re.compile(r"[rwm]{1,3}")
_CLASS = re.compile(r"[^/\0\n]{0,128}")
_NODES = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*")
_SCMP = {kind: re.compile(rf"SCMP_{kind}_[A-Z0-9_]{{1,40}}") for kind in ("ACT", "ARCH", "CMP")}
_SYSCALL = re.compile(r"[a-z0-9_]{1,64}")
_FLAG = re.compile(r"SECCOMP_FILTER_FLAG_[A-Z_]{1,40}")


def resource_change(resources: pb.LinuxResources, place: str) -> ResourceChange:
    """All but the rules for devices. A memory limit of 0 is none, as in NRI."""
    with at(place):
        memory, cpu = resources.memory, resources.cpu
        pages = each("hugepage_limits", resources.hugepage_limits, _page)
        with at("unified"):
            unified = {name(key): text(value) for key, value in resources.unified.items()}
        return ResourceChange(
            memory_limit=_amount(memory, "limit", -1) or None,
            memory_reservation=_amount(memory, "reservation", -1),
            memory_swap=_amount(memory, "swap", -1),
            memory_kernel=_amount(memory, "kernel", -1),
            memory_kernel_tcp=_amount(memory, "kernel_tcp", -1),
            memory_swappiness=_amount(memory, "swappiness", 0, 200),
            memory_disable_oom_killer=value_of(memory, "disable_oom_killer"),
            memory_use_hierarchy=value_of(memory, "use_hierarchy"),
            cpu_shares=_amount(cpu, "shares", 0),
            cpu_quota=_amount(cpu, "quota", -1),
            cpu_period=_amount(cpu, "period", 0),
            cpu_realtime_runtime=_amount(cpu, "realtime_runtime", -1),
            cpu_realtime_period=_amount(cpu, "realtime_period", 0),
            cpuset_cpus=text(cpu.cpus, "cpu.cpus") or None,
            cpuset_mems=text(cpu.mems, "cpu.mems") or None,
            pids_limit=number(resources.pids.limit, -1, _MOST, "pids.limit")
            if resources.HasField("pids")
            else None,
            hugepage_limits=dict(pages),
            unified=unified,
            blockio_class=_class(resources, "blockio_class"),
            rdt_class=_class(resources, "rdt_class"),
        )


def _amount(message: pb.LinuxMemory | pb.LinuxCPU, field: str, least: int, most: int = _MOST) -> int | None:
    value: int | None = value_of(message, field)
    kind = "memory" if isinstance(message, pb.LinuxMemory) else "cpu"
    return None if value is None else number(value, least, most, f"{kind}.{field}")


def _page(page: pb.HugepageLimit) -> tuple[str, int]:
    return name(page.page_size, "page_size"), page.limit


def _class(resources: pb.LinuxResources, field: str) -> str | None:
    value: str | None = value_of(resources, field)
    if value in (".", ".."):
        raise Misfit(f"{value!r} is not the name of a class", field)
    return None if value is None else matching(value, _CLASS, "the name of a class", field)


def device_rule(rule: pb.LinuxDeviceCgroup) -> AddedDeviceRule:
    """One of the devices controller."""
    if rule.type not in ("a", "b", "c", ""):
        raise Misfit(f"{rule.type[:10]!r} is not a, b or c", "type")
    major, minor = value_of(rule, "major"), value_of(rule, "minor")
    return AddedDeviceRule(
        allow=rule.allow,
        kind=rule.type or "a",
        # -1 stands for all, too (config-linux.md, Allowed Device list, in runtimes).
        major=None if major in (None, -1) else number(major, 0, (1 << 32) - 1, "major"),
        minor=None if minor in (None, -1) else number(minor, 0, (1 << 32) - 1, "minor"),
        access=matching(rule.access or "rwm", _ACCESS, "made of r, w and m", "access"),
    )


def io_priority(priority: pb.LinuxIOPriority) -> SetIoPriority:
    """A class of NONE takes the priority away."""
    class_ = enum_name(pb.IOPrioClass, getattr(priority, "class"), "class")
    level = number(priority.priority, 0, 7, "priority")
    return SetIoPriority("" if class_ == "IOPRIO_CLASS_NONE" else class_, level)


def scheduler(asked: pb.LinuxScheduler) -> SetScheduler:
    """A policy of NONE takes it away."""
    policy = enum_name(pb.LinuxSchedulerPolicy, asked.policy, "policy")
    return SetScheduler(
        policy="" if policy == "SCHED_NONE" else policy,
        nice=number(asked.nice, -20, 19, "nice"),
        priority=number(asked.priority, 0, 99, "priority"),
        flags=each("flags", asked.flags, lambda flag: enum_name(pb.LinuxSchedulerFlag, flag)),
        runtime=number(asked.runtime, 0, _MOST, "runtime"),
        deadline=number(asked.deadline, 0, _MOST, "deadline"),
        period=number(asked.period, 0, _MOST, "period"),
    )


def memory_policy(policy: pb.LinuxMemoryPolicy) -> SetMemoryPolicy:
    """Where memory comes from."""
    if policy.nodes:
        matching(policy.nodes, _NODES, "a list such as 0-2,5", "nodes")
    return SetMemoryPolicy(
        mode=enum_name(pb.MpolMode, policy.mode, "mode"),
        nodes=policy.nodes,
        flags=each("flags", policy.flags, lambda flag: enum_name(pb.MpolFlag, flag)),
    )


def rdt_change(rdt: pb.LinuxRdt) -> RdtChange:
    """All but the mark that removes what was there."""
    clos, schemata = value_of(rdt, "clos_id"), value_of(rdt, "schemata")
    return RdtChange(
        clos_id=None if clos is None else matching(clos, _CLASS, "the name of a class", "clos_id"),
        schemata=None if schemata is None else each("schemata", schemata, text),
        enable_monitoring=value_of(rdt, "enable_monitoring"),
    )


def seccomp_profile(policy: pb.LinuxSeccomp) -> bytes:
    """As JSON in the OCI's shape."""
    errno = value_of(policy, "default_errno")
    if policy.listener_path:
        path(policy.listener_path, "listener_path")
    profile = oci.Seccomp(
        default_action=_scmp("ACT", policy.default_action, "default_action"),
        default_errno_ret=None if errno is None else number(errno, 0, _ERRNO, "default_errno"),
        architectures=each("architectures", policy.architectures, lambda one: _scmp("ARCH", one)),
        flags=each("flags", policy.flags, lambda one: matching(one, _FLAG, "a flag of seccomp(2)")),
        listener_path=policy.listener_path,
        listener_metadata=text(policy.listener_metadata, "listener_metadata"),
        syscalls=each("syscalls", policy.syscalls, _syscall, _MAX_SYSCALLS),
    )
    try:
        oci.check_agent(profile)
    except ValueError as error:
        raise Misfit(str(error), "listener_path") from error
    return oci.encode(profile)


def _syscall(rule: pb.LinuxSyscall) -> oci.SeccompRule:
    errno = value_of(rule, "errno_ret")
    return oci.SeccompRule(
        names=each("names", rule.names, lambda one: matching(one, _SYSCALL, "a system call"), _MAX_SYSCALLS),
        action=_scmp("ACT", rule.action, "action"),
        errno_ret=None if errno is None else number(errno, 0, _ERRNO, "errno_ret"),
        args=each("args", rule.args, _condition),
    )


def _condition(arg: pb.LinuxSeccompArg) -> oci.SeccompArg:
    return oci.SeccompArg(
        index=number(arg.index, 0, 5, "index"),
        value=number(arg.value, 0, _U64, "value"),
        value_two=arg.value_two,
        op=_scmp("CMP", arg.op, "op"),
    )


def _scmp(kind: str, value: str, place: str = "") -> str:
    return matching(value, _SCMP[kind], f"a name that begins with SCMP_{kind}_", place)
