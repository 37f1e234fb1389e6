"""Parts of an OCI spec as the protocol has them (nri/pkg/api/api.proto)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.wire import oci_runtime as oci

_Optional = TypeVar("_Optional")


def optional(kind: type[_Optional], value: Any) -> _Optional | None:
    """A value in a message of its own (OptionalInt and its like), or none."""
    return None if value is None else kind(value=value)  # type: ignore[call-arg] # each has `value`


def mount_message(mount: oci.Mount) -> pb.Mount:
    return pb.Mount(
        destination=mount.destination, type=mount.type, source=mount.source, options=mount.options
    )


def rlimit_message(limit: oci.Rlimit) -> pb.POSIXRlimit:
    return pb.POSIXRlimit(type=limit.type, hard=limit.hard, soft=limit.soft)


def namespace_messages(linux: oci.Linux) -> list[pb.LinuxNamespace]:
    return [pb.LinuxNamespace(type=one.type, path=one.path) for one in linux.namespaces]


def device_message(device: oci.Device) -> pb.LinuxDevice:
    return pb.LinuxDevice(
        path=device.path,
        type=device.type,
        major=device.major,
        minor=device.minor,
        file_mode=optional(pb.OptionalFileMode, device.file_mode),
        uid=optional(pb.OptionalUInt32, device.uid),
        gid=optional(pb.OptionalUInt32, device.gid),
    )


def device_rule_message(rule: oci.DeviceRule) -> pb.LinuxDeviceCgroup:
    return pb.LinuxDeviceCgroup(
        allow=rule.allow,
        type=rule.type,
        major=optional(pb.OptionalInt64, rule.major),
        minor=optional(pb.OptionalInt64, rule.minor),
        access=rule.access,
    )


def hooks_message(hooks: oci.Hooks) -> pb.Hooks:
    return pb.Hooks(
        prestart=_hooks(hooks.prestart),
        create_runtime=_hooks(hooks.create_runtime),
        create_container=_hooks(hooks.create_container),
        start_container=_hooks(hooks.start_container),
        poststart=_hooks(hooks.poststart),
        poststop=_hooks(hooks.poststop),
    )


def _hooks(hooks: Sequence[oci.Hook]) -> list[pb.Hook]:
    return [
        pb.Hook(path=one.path, args=one.args, env=one.env, timeout=optional(pb.OptionalInt, one.timeout))
        for one in hooks
    ]


def limits_message(limits: oci.Resources) -> pb.LinuxResources:
    """All but the classes, which a spec does not name."""
    return pb.LinuxResources(
        memory=_memory(limits.memory or oci.Memory()),
        cpu=_cpu(limits.cpu or oci.Cpu()),
        hugepage_limits=[
            pb.HugepageLimit(page_size=page.page_size, limit=page.limit) for page in limits.hugepage_limits
        ],
        unified=limits.unified,
        devices=map(device_rule_message, limits.devices),
        pids=None if limits.pids is None else pb.LinuxPids(limit=limits.pids.limit),
    )


def _memory(memory: oci.Memory) -> pb.LinuxMemory:
    return pb.LinuxMemory(
        limit=optional(pb.OptionalInt64, memory.limit),
        reservation=optional(pb.OptionalInt64, memory.reservation),
        swap=optional(pb.OptionalInt64, memory.swap),
        kernel=optional(pb.OptionalInt64, memory.kernel),
        kernel_tcp=optional(pb.OptionalInt64, memory.kernel_tcp),
        swappiness=optional(pb.OptionalUInt64, memory.swappiness),
        disable_oom_killer=optional(pb.OptionalBool, memory.disable_oom_killer),
        use_hierarchy=optional(pb.OptionalBool, memory.use_hierarchy),
    )


def _cpu(cpu: oci.Cpu) -> pb.LinuxCPU:
    return pb.LinuxCPU(
        shares=optional(pb.OptionalUInt64, cpu.shares),
        quota=optional(pb.OptionalInt64, cpu.quota),
        period=optional(pb.OptionalUInt64, cpu.period),
        realtime_runtime=optional(pb.OptionalInt64, cpu.realtime_runtime),
        realtime_period=optional(pb.OptionalUInt64, cpu.realtime_period),
        cpus=cpu.cpus,
        mems=cpu.mems,
    )


def io_priority_message(priority: oci.IoPriority | None) -> pb.LinuxIOPriority | None:
    if priority is None:
        return None
    message = pb.LinuxIOPriority(priority=priority.priority)
    # `class` is a word of Python's own.
    setattr(message, "class", pb.IOPrioClass.Value(priority.class_))
    return message


def scheduler_message(scheduler: oci.Scheduler | None) -> pb.LinuxScheduler | None:
    if scheduler is None:
        return None
    return pb.LinuxScheduler(
        policy=pb.LinuxSchedulerPolicy.Value(scheduler.policy),
        nice=scheduler.nice,
        priority=scheduler.priority,
        flags=map(pb.LinuxSchedulerFlag.Value, scheduler.flags),
        runtime=scheduler.runtime,
        deadline=scheduler.deadline,
        period=scheduler.period,
    )


def rdt_message(rdt: oci.IntelRdt | None) -> pb.LinuxRdt | None:
    if rdt is None:
        return None
    return pb.LinuxRdt(
        clos_id=pb.OptionalString(value=rdt.clos_id),
        schemata=pb.OptionalRepeatedString(value=rdt.schemata),
        enable_monitoring=pb.OptionalBool(value=rdt.enable_monitoring),
    )


@lru_cache(maxsize=16)
def seccomp_message(policy: oci.Seccomp | None) -> pb.LinuxSeccomp | None:
    """Not to be changed. Most containers have the same few profiles, and each has hundreds of names."""
    if policy is None:
        return None
    return pb.LinuxSeccomp(
        default_action=policy.default_action,
        default_errno=optional(pb.OptionalUInt32, policy.default_errno_ret),
        architectures=policy.architectures,
        flags=policy.flags,
        listener_path=policy.listener_path,
        listener_metadata=policy.listener_metadata,
        syscalls=map(_syscall, policy.syscalls),
    )


def _syscall(rule: oci.SeccompRule) -> pb.LinuxSyscall:
    return pb.LinuxSyscall(
        names=rule.names,
        action=rule.action,
        errno_ret=optional(pb.OptionalUInt32, rule.errno_ret),
        args=[
            pb.LinuxSeccompArg(index=one.index, value=one.value, value_two=one.value_two, op=one.op)
            for one in rule.args
        ],
    )
