"""For each field of a ContainerAdjustment: a message that sets it, and where in the OCI spec it arrives.

What NRI's own generator makes of the same message (pkg/runtime-tools/generate) is in `expected`, by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor

HOOKS = {
    "prestart": "prestart",
    "create_runtime": "createRuntime",
    "create_container": "createContainer",
    "start_container": "startContainer",
    "poststart": "poststart",
    "poststop": "poststop",
}
NOWHERE = "nowhere"
"""The pointer of what does not arrive in a spec as such."""


@dataclass(frozen=True, slots=True)
class AdjustmentCase:
    """`message` is in protobuf's JSON form, without the names' lowerCamelCase."""

    message: dict[str, Any]
    pointer: str
    expected: Any
    cgroup_v2: bool = False


def leaves(message: Descriptor, above: str = "") -> Iterator[str]:
    """Paths of all fields that hold no message of several fields; a message of one value is a value."""
    for field in message.fields:
        path = f"{above}.{field.name}" if above else field.name
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            inner = inner.fields_by_name["value"].message_type
        if inner is None or [one.name for one in inner.fields] == ["value"]:
            yield path
        else:
            yield from leaves(inner, path)


def _hooks() -> dict[str, AdjustmentCase]:
    cases = {}
    hook = {"path": "/bin/h", "args": ["h", "x"], "env": ["A=1"], "timeout": {"value": 5}}
    for field, stage in HOOKS.items():
        for name, expected in (("path", "/bin/h"), ("args", ["h", "x"]), ("env", ["A=1"]), ("timeout", 5)):
            message = {"hooks": {field: [hook]}}
            cases[f"hooks.{field}.{name}"] = AdjustmentCase(message, f"/hooks/{stage}/0/{name}", expected)
    return cases


def _linux(fields: dict[str, Any]) -> dict[str, Any]:
    return {"linux": fields}


def _limits(fields: dict[str, Any]) -> dict[str, Any]:
    return {"linux": {"resources": fields}}


def _memory() -> dict[str, AdjustmentCase]:
    names = {
        "limit": ("limit", 1 << 24),
        "reservation": ("reservation", 5),
        "swap": ("swap", 1 << 25),
        "kernel": ("kernel", 7),
        "kernel_tcp": ("kernelTCP", 8),
        "swappiness": ("swappiness", 9),
        "disable_oom_killer": ("disableOOMKiller", True),
        "use_hierarchy": ("useHierarchy", True),
    }
    return {
        f"linux.resources.memory.{field}": AdjustmentCase(
            _limits({"memory": {field: {"value": value}}}), f"/linux/resources/memory/{name}", value
        )
        for field, (name, value) in names.items()
    }


def _cpu() -> dict[str, AdjustmentCase]:
    numbers = {
        "shares": ("shares", 512),
        "quota": ("quota", 30_000),
        "period": ("period", 50_000),
        "realtime_runtime": ("realtimeRuntime", 11),
        "realtime_period": ("realtimePeriod", 12),
    }
    cases = {
        f"linux.resources.cpu.{field}": AdjustmentCase(
            _limits({"cpu": {field: {"value": value}}}), f"/linux/resources/cpu/{name}", value
        )
        for field, (name, value) in numbers.items()
    }
    for field, value in (("cpus", "0-1"), ("mems", "0")):
        cases[f"linux.resources.cpu.{field}"] = AdjustmentCase(
            _limits({"cpu": {field: value}}), f"/linux/resources/cpu/{field}", value
        )
    return cases


def _devices() -> dict[str, AdjustmentCase]:
    node = {
        "path": "/dev/new",
        "type": "b",
        "major": 8,
        "minor": 3,
        "file_mode": {"value": 0o640},
        "uid": {"value": 4},
        "gid": {"value": 5},
    }
    rule = {
        "allow": True,
        "type": "c",
        "major": {"value": 9},
        "minor": {"value": 10},
        "access": "rm",
    }
    made = {
        "path": ("path", "/dev/new"),
        "type": ("type", "b"),
        "major": ("major", 8),
        "minor": ("minor", 3),
        "file_mode": ("fileMode", 0o640),
        "uid": ("uid", 4),
        "gid": ("gid", 5),
    }
    cases = {
        f"linux.devices.{field}": AdjustmentCase(
            _linux({"devices": [node]}), f"/linux/devices/-1/{name}", expected
        )
        for field, (name, expected) in made.items()
    }
    for field, expected in (("allow", True), ("type", "c"), ("major", 9), ("minor", 10), ("access", "rm")):
        cases[f"linux.resources.devices.{field}"] = AdjustmentCase(
            _limits({"devices": [rule]}), f"/linux/resources/devices/-1/{field}", expected
        )
    return cases


def _scheduling() -> dict[str, AdjustmentCase]:
    asked = {
        "policy": "SCHED_DEADLINE",
        "nice": -3,
        "priority": 4,
        "flags": ["SCHED_FLAG_RECLAIM"],
        "runtime": 10,
        "deadline": 20,
        "period": 30,
    }
    cases = {
        f"linux.scheduler.{field}": AdjustmentCase(
            _linux({"scheduler": asked}), f"/process/scheduler/{field}", expected
        )
        for field, expected in asked.items()
    }
    for field, expected in (("class", "IOPRIO_CLASS_IDLE"), ("priority", 6)):
        message = _linux({"io_priority": {"class": "IOPRIO_CLASS_IDLE", "priority": 6}})
        cases[f"linux.io_priority.{field}"] = AdjustmentCase(
            message, f"/process/ioPriority/{field}", expected
        )
    for field, wanted in (
        ("mode", "MPOL_BIND"),
        ("nodes", "0-1"),
        ("flags", ["MPOL_F_STATIC_NODES"]),
    ):
        policy = {"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]}
        cases[f"linux.memory_policy.{field}"] = AdjustmentCase(
            _linux({"memory_policy": policy}), f"/linux/memoryPolicy/{field}", wanted
        )
    return cases


def _seccomp() -> dict[str, AdjustmentCase]:
    policy = {
        "default_action": "SCMP_ACT_ERRNO",
        "default_errno": {"value": 38},
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "listener_path": "/run/listener",
        "listener_metadata": "who",
        "syscalls": [
            {
                "names": ["openat"],
                "action": "SCMP_ACT_ALLOW",
                "errno_ret": {"value": 2},
                "args": [{"index": 1, "value": 2, "value_two": 3, "op": "SCMP_CMP_MASKED_EQ"}],
            }
        ],
    }
    made: dict[str, tuple[str, object]] = {
        "default_action": ("defaultAction", "SCMP_ACT_ERRNO"),
        # NRI's generator loses this one.
        "default_errno": ("defaultErrnoRet", 38),
        "architectures": ("architectures", ["SCMP_ARCH_X86_64"]),
        "flags": ("flags", ["SECCOMP_FILTER_FLAG_LOG"]),
        "listener_path": ("listenerPath", "/run/listener"),
        "listener_metadata": ("listenerMetadata", "who"),
        "syscalls.names": ("syscalls/0/names", ["openat"]),
        "syscalls.action": ("syscalls/0/action", "SCMP_ACT_ALLOW"),
        "syscalls.errno_ret": ("syscalls/0/errnoRet", 2),
        "syscalls.args.index": ("syscalls/0/args/0/index", 1),
        "syscalls.args.value": ("syscalls/0/args/0/value", 2),
        "syscalls.args.value_two": ("syscalls/0/args/0/valueTwo", 3),
        "syscalls.args.op": ("syscalls/0/args/0/op", "SCMP_CMP_MASKED_EQ"),
    }
    return {
        f"linux.seccomp_policy.{field}": AdjustmentCase(
            _linux({"seccomp_policy": policy}), f"/linux/seccomp/{name}", expected
        )
        for field, (name, expected) in made.items()
    }


def _rdt() -> dict[str, AdjustmentCase]:
    rdt = {
        "clos_id": {"value": "silver"},
        "schemata": {"value": ["MB:0=20"]},
        "enable_monitoring": {"value": True},
    }
    made = {
        "clos_id": ("closID", "silver"),
        "schemata": ("schemata", ["MB:0=20"]),
        "enable_monitoring": ("enableMonitoring", True),
    }
    cases = {
        f"linux.rdt.{field}": AdjustmentCase(_linux({"rdt": rdt}), f"/linux/intelRdt/{name}", expected)
        for field, (name, expected) in made.items()
    }
    removed = {"rdt": {"remove": True}, "resources": {"rdt_class": {"value": "gold"}}}
    cases["linux.rdt.remove"] = AdjustmentCase(_linux(removed), "/linux/intelRdt", None)
    return cases


_MOUNT = {
    "mounts": [{"destination": "/new/a/b/c", "type": "tmpfs", "source": "none", "options": ["size=1m"]}]
}
_RLIMIT = {"rlimits": [{"type": "RLIMIT_CORE", "hard": 9, "soft": 8}]}

CASES: dict[str, AdjustmentCase] = {
    "annotations": AdjustmentCase({"annotations": {"a.b/c": "x"}}, "/annotations/a.b~1c", "x"),
    "mounts.destination": AdjustmentCase(_MOUNT, "/mounts/-1/destination", "/new/a/b/c"),
    "mounts.type": AdjustmentCase(_MOUNT, "/mounts/-1/type", "tmpfs"),
    "mounts.source": AdjustmentCase(_MOUNT, "/mounts/-1/source", "none"),
    "mounts.options": AdjustmentCase(_MOUNT, "/mounts/-1/options", ["size=1m"]),
    "env.key": AdjustmentCase({"env": [{"key": "NEW", "value": "1"}]}, "/process/env/-1", "NEW=1"),
    "env.value": AdjustmentCase({"env": [{"key": "NEW", "value": "a=b"}]}, "/process/env/-1", "NEW=a=b"),
    "rlimits.type": AdjustmentCase(_RLIMIT, "/process/rlimits/-1/type", "RLIMIT_CORE"),
    "rlimits.hard": AdjustmentCase(_RLIMIT, "/process/rlimits/-1/hard", 9),
    "rlimits.soft": AdjustmentCase(_RLIMIT, "/process/rlimits/-1/soft", 8),
    "CDI_devices.name": AdjustmentCase(
        {"CDI_devices": [{"name": "vendor.com/gpu=0"}]}, "/process/env/-1", "GPU=vendor.com/gpu=0"
    ),
    "args": AdjustmentCase({"args": ["/bin/x", "", "y"]}, "/process/args", ["/bin/x", "", "y"]),
    "linux.cgroups_path": AdjustmentCase(
        _linux({"cgroups_path": "/kubepods/pod1/c/deeper"}), "/linux/cgroupsPath", "/kubepods/pod1/c/deeper"
    ),
    "linux.oom_score_adj": AdjustmentCase(
        _linux({"oom_score_adj": {"value": 123}}), "/process/oomScoreAdj", 123
    ),
    "linux.namespaces.type": AdjustmentCase(
        _linux({"namespaces": [{"type": "time"}]}), "/linux/namespaces/-1", {"type": "time"}
    ),
    "linux.namespaces.path": AdjustmentCase(
        _linux({"namespaces": [{"type": "time", "path": "/proc/1/ns/time"}]}),
        "/linux/namespaces/-1",
        {"type": "time", "path": "/proc/1/ns/time"},
    ),
    "linux.sysctl": AdjustmentCase(
        _linux({"sysctl": {"net.core.somaxconn": "5"}}), "/linux/sysctl/net.core.somaxconn", "5"
    ),
    "linux.net_devices.name": AdjustmentCase(
        _linux({"net_devices": {"eth7": {"name": "net0"}}}), "/linux/netDevices/eth7/name", "net0"
    ),
    "linux.resources.hugepage_limits.page_size": AdjustmentCase(
        _limits({"hugepage_limits": [{"page_size": "2MB", "limit": 4194304}]}),
        "/linux/resources/hugepageLimits/-1/pageSize",
        "2MB",
    ),
    "linux.resources.hugepage_limits.limit": AdjustmentCase(
        _limits({"hugepage_limits": [{"page_size": "2MB", "limit": 4194304}]}),
        "/linux/resources/hugepageLimits/-1/limit",
        4194304,
    ),
    "linux.resources.blockio_class": AdjustmentCase(
        _limits({"blockio_class": {"value": "slow"}}), "/linux/resources/blockIO/weight", 50
    ),
    "linux.resources.rdt_class": AdjustmentCase(
        _limits({"rdt_class": {"value": "gold"}}), "/linux/intelRdt/closID", "gold"
    ),
    "linux.resources.unified": AdjustmentCase(
        _limits({"unified": {"memory.high": "99"}}),
        "/linux/resources/unified/memory.high",
        "99",
        cgroup_v2=True,
    ),
    "linux.resources.pids.limit": AdjustmentCase(
        _limits({"pids": {"limit": 77}}), "/linux/resources/pids/limit", 77
    ),
    **_hooks(),
    **_memory(),
    **_cpu(),
    **_devices(),
    **_scheduling(),
    **_seccomp(),
    **_rdt(),
}
