"""What a plugin answers with, as NRI's messages have it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crib import nri
from crib.nri import messages
from crib.nri.changes import Adjustment, ContainerChanges, ResourceUpdate, host_device

SECCOMP = messages.LinuxSeccomp(default_action="SCMP_ACT_ERRNO")
SCHEDULER = messages.LinuxScheduler(policy=messages.SCHED_BATCH, nice=5)
FIELDS: dict[str, tuple[Callable[[Adjustment], object], str]] = {
    "Annotations": (lambda a: a.add_annotation("k", "v"), 'annotations { key: "k" value: "v" }'),
    "Mounts": (
        lambda a: a.add_mount("/in", "/out", ["rbind", "ro"]),
        'mounts { destination: "/in" type: "bind" source: "/out" options: "rbind" options: "ro" }',
    ),
    "OciHooks": (
        lambda a: a.add_hook("create_runtime", "/bin/h", ["h", "x"], ["A=b"], 5),
        'hooks { create_runtime { path: "/bin/h" args: "h" args: "x" env: "A=b" timeout { value: 5 } } }',
    ),
    "Devices": (
        lambda a: a.add_device(messages.LinuxDevice(path="/dev/x", type="c", major=1, minor=3)),
        'linux { devices { path: "/dev/x" type: "c" major: 1 minor: 3 } }',
    ),
    "CdiDevices": (lambda a: a.add_cdi_device("v.com/c=n"), 'CDI_devices { name: "v.com/c=n" }'),
    "Env": (lambda a: a.add_env("A", "b"), 'env { key: "A" value: "b" }'),
    "Args": (lambda a: a.set_args(["sh", "-c"]), 'args: "sh" args: "-c"'),
    "MemLimit": (lambda a: a.set_memory(limit=0), "linux { resources { memory { limit { } } } }"),
    "MemReservation": (
        lambda a: a.set_memory(reservation=1),
        "linux { resources { memory { reservation { value: 1 } } } }",
    ),
    "MemSwapLimit": (
        lambda a: a.set_memory(swap=-1),
        "linux { resources { memory { swap { value: -1 } } } }",
    ),
    "MemKernelLimit": (
        lambda a: a.set_memory(kernel=1),
        "linux { resources { memory { kernel { value: 1 } } } }",
    ),
    "MemTCPLimit": (
        lambda a: a.set_memory(kernel_tcp=1),
        "linux { resources { memory { kernel_tcp { value: 1 } } } }",
    ),
    "MemSwappiness": (
        lambda a: a.set_memory(swappiness=60),
        "linux { resources { memory { swappiness { value: 60 } } } }",
    ),
    "MemDisableOomKiller": (
        lambda a: a.set_memory(disable_oom_killer=True),
        "linux { resources { memory { disable_oom_killer { value: true } } } }",
    ),
    "MemUseHierarchy": (
        lambda a: a.set_memory(use_hierarchy=False),
        "linux { resources { memory { use_hierarchy { } } } }",
    ),
    "CPUShares": (lambda a: a.set_cpu(shares=2), "linux { resources { cpu { shares { value: 2 } } } }"),
    "CPUQuota": (lambda a: a.set_cpu(quota=-1), "linux { resources { cpu { quota { value: -1 } } } }"),
    "CPUPeriod": (lambda a: a.set_cpu(period=9), "linux { resources { cpu { period { value: 9 } } } }"),
    "CPURealtimeRuntime": (
        lambda a: a.set_cpu(realtime_runtime=1),
        "linux { resources { cpu { realtime_runtime { value: 1 } } } }",
    ),
    "CPURealtimePeriod": (
        lambda a: a.set_cpu(realtime_period=1),
        "linux { resources { cpu { realtime_period { value: 1 } } } }",
    ),
    "CPUSetCPUs": (lambda a: a.set_cpu(cpus="0-3"), 'linux { resources { cpu { cpus: "0-3" } } }'),
    "CPUSetMems": (lambda a: a.set_cpu(mems="1"), 'linux { resources { cpu { mems: "1" } } }'),
    "PidsLimit": (lambda a: a.set_pids(100), "linux { resources { pids { limit: 100 } } }"),
    "HugepageLimits": (
        lambda a: a.set_hugepages("2MB", 1),
        'linux { resources { hugepage_limits { page_size: "2MB" limit: 1 } } }',
    ),
    "BlockioClass": (
        lambda a: a.set_blockio_class("slow"),
        'linux { resources { blockio_class { value: "slow" } } }',
    ),
    "RdtClass": (
        lambda a: a.set_rdt_class("gold"),
        'linux { resources { rdt_class { value: "gold" } } }',
    ),
    "CgroupsUnified": (
        lambda a: a.set_unified("memory.high", "1"),
        'linux { resources { unified { key: "memory.high" value: "1" } } }',
    ),
    "CgroupsPath": (lambda a: a.set_cgroups_path("/x"), 'linux { cgroups_path: "/x" }'),
    "OomScoreAdj": (lambda a: a.set_oom_score_adj(0), "linux { oom_score_adj { } }"),
    "Rlimits": (
        lambda a: a.add_rlimit("RLIMIT_CORE", 2, 1),
        'rlimits { type: "RLIMIT_CORE" hard: 2 soft: 1 }',
    ),
    "IoPriority": (
        lambda a: a.set_io_priority(messages.IOPRIO_CLASS_BE, 7),
        "linux { io_priority { class: IOPRIO_CLASS_BE priority: 7 } }",
    ),
    "SeccompPolicy": (
        lambda a: a.set_seccomp(SECCOMP),
        'linux { seccomp_policy { default_action: "SCMP_ACT_ERRNO" } }',
    ),
    "Namespace": (
        lambda a: a.add_namespace("network", "/run/n"),
        'linux { namespaces { type: "network" path: "/run/n" } }',
    ),
    "Sysctl": (lambda a: a.set_sysctl("k", "v"), 'linux { sysctl { key: "k" value: "v" } }'),
    "LinuxNetDevices": (
        lambda a: a.add_net_device("eth1", "data"),
        'linux { net_devices { key: "eth1" value { name: "data" } } }',
    ),
    "LinuxSched": (
        lambda a: a.set_scheduler(SCHEDULER),
        "linux { scheduler { policy: SCHED_BATCH nice: 5 } }",
    ),
    "RdtClosID": (lambda a: a.set_rdt("gold"), 'linux { rdt { clos_id { value: "gold" } } }'),
    "RdtSchemata": (
        lambda a: a.set_rdt(schemata=["L3:0=f"]),
        'linux { rdt { schemata { value: "L3:0=f" } } }',
    ),
    "RdtEnableMonitoring": (
        lambda a: a.set_rdt(enable_monitoring=False),
        "linux { rdt { enable_monitoring { } } }",
    ),
    "MemoryPolicy": (
        lambda a: a.set_memory_policy(messages.MPOL_BIND, "0-1", [messages.MPOL_F_STATIC_NODES]),
        'linux { memory_policy { mode: MPOL_BIND nodes: "0-1" flags: MPOL_F_STATIC_NODES } }',
    ),
}
"""By the interface's own list of what can be adjusted."""


def said(message: object) -> str:
    return " ".join(str(message).split())


def test_every_field_of_the_interface_can_be_adjusted() -> None:
    assert {"None", *FIELDS} == set(messages.Field.keys())


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_set_as_the_interface_has_it(field: str) -> None:
    change, message = FIELDS[field]
    adjustment = Adjustment()
    assert change(adjustment) is adjustment, "so that calls can be chained"
    assert said(adjustment.message) == message


REMOVALS: list[tuple[Callable[[Adjustment], object], str]] = [
    (lambda a: a.remove_annotation("k"), 'annotations { key: "-k" value: "" }'),
    (lambda a: a.remove_mount("/in"), 'mounts { destination: "-/in" }'),
    (lambda a: a.remove_env("A"), 'env { key: "-A" }'),
    (lambda a: a.remove_device("/dev/x"), 'linux { devices { path: "-/dev/x" } }'),
    (lambda a: a.remove_namespace("ipc"), 'linux { namespaces { type: "-ipc" } }'),
    (lambda a: a.remove_sysctl("k"), 'linux { sysctl { key: "-k" value: "" } }'),
    (lambda a: a.remove_net_device("eth1"), 'linux { net_devices { key: "-eth1" value { } } }'),
    (lambda a: a.remove_rdt(), "linux { rdt { remove: true } }"),
    (lambda a: a.set_args(["sh"], over_others=True), 'args: "" args: "sh"'),
]


@pytest.mark.parametrize(("change", "message"), REMOVALS)
def test_what_others_set_is_marked_for_removal(change: Callable[[Adjustment], object], message: str) -> None:
    adjustment = Adjustment()
    change(adjustment)
    assert said(adjustment.message) == message


def test_a_plugin_that_adjusts_nothing_says_nothing() -> None:
    changes = nri.NewContainerChanges()
    assert (changes.adjust.message.ByteSize(), changes.updates, changes.evictions) == (0, [], [])


def test_a_container_has_one_update_and_one_eviction() -> None:
    changes = ContainerChanges()
    changes.update("c1").set_cpu(cpus="0")
    changes.update("c2").set_memory(limit=5).ignore_failure()
    changes.update("c1").set_pids(3)
    changes.evict("c3", "first")
    changes.evict("c3", "a better reason")
    assert [said(update) for update in changes.updates] == [
        'container_id: "c1" linux { resources { cpu { cpus: "0" } pids { limit: 3 } } }',
        'container_id: "c2" linux { resources { memory { limit { value: 5 } } } } ignore_failure: true',
    ]
    assert [said(eviction) for eviction in changes.evictions] == [
        'container_id: "c3" reason: "a better reason"'
    ]


def test_an_update_sets_every_limit_that_an_adjustment_sets() -> None:
    update = ResourceUpdate("c").set_hugepages("1GB", 2).set_unified("a", "b").set_blockio_class("x")
    update.set_rdt_class("y").set_cpu(shares=1, mems="0")
    assert said(update.message.linux.resources) == (
        'cpu { shares { value: 1 } mems: "0" } hugepage_limits { page_size: "1GB" limit: 2 }'
        ' blockio_class { value: "x" } rdt_class { value: "y" } unified { key: "a" value: "b" }'
    )


def test_a_limit_that_there_is_not_is_refused() -> None:
    with pytest.raises(AttributeError):
        Adjustment().set_memory(limitt=1)  # type: ignore[call-arg]  # what the test is about


def test_a_device_of_the_host_is_described_as_it_is(tmp_path: Path) -> None:
    device = host_device("/dev/null")
    assert (device.path, device.type, device.major, device.minor) == ("/dev/null", "c", 1, 3)
    assert device.file_mode.value == 0o666
    with pytest.raises(ValueError, match="is no device"):
        host_device(str(tmp_path))
