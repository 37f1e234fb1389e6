"""LinuxContainerResources at the create and by UpdateContainerResources, and devices."""

from __future__ import annotations

import os

from crib.conform.case import Level, case
from crib.conform.expect import NotApplicable, equal, refused, true
from crib.conform.trial import NOBODY, Box, Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

_MIB = 1 << 20
_VERSION_2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
"""Whether the node has cgroup v2 alone."""


async def _limit(box: Box, version_1: str, version_2: str) -> str:
    """A file of the container's own cgroup; NotApplicable where it does not see it."""
    name = version_2 if _VERSION_2 else version_1
    reply = await box.execute("cat", f"/sys/fs/cgroup/{name}")
    if reply.exit_code:
        raise NotApplicable(f"the container does not see /sys/fs/cgroup/{name}")
    return reply.stdout.decode().strip()


async def _limited(trial: Trial, **resources: object) -> Box:
    config = trial.config()
    wanted = pb.LinuxContainerResources(**resources)  # type: ignore[arg-type]  # each case names fields of this message
    config.linux.resources.CopyFrom(wanted)
    return await trial.box(config)


async def _update(trial: Trial, container: str, **resources: object) -> None:
    wanted = pb.LinuxContainerResources(**resources)  # type: ignore[arg-type]  # as above
    request = pb.UpdateContainerResourcesRequest(container_id=container, linux=wanted)
    request.annotations["conform"] = "update"
    await trial.call(trial.runtime.UpdateContainerResources, request)


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: LinuxContainerResources",
    "LinuxContainerResources.memory_limit_in_bytes",
    "LinuxContainerConfig.resources",
)
async def memory_limit_is_the_cgroups(trial: Trial) -> None:
    """memory_limit_in_bytes is the limit of the container's cgroup."""
    box = await _limited(trial, memory_limit_in_bytes=64 * _MIB)
    equal("the limit", await _limit(box, "memory/memory.limit_in_bytes", "memory.max"), str(64 * _MIB))


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: LinuxContainerResources",
    "LinuxContainerResources.cpu_shares,cpu_quota,cpu_period",
)
async def cpu_limits_are_the_cgroups(trial: Trial) -> None:
    """Quota, period and shares are those of the container's cgroup."""
    box = await _limited(trial, cpu_shares=512, cpu_quota=50_000, cpu_period=100_000)
    if _VERSION_2:
        equal("cpu.max", await _limit(box, "", "cpu.max"), "50000 100000")
        weight = int(await _limit(box, "", "cpu.weight"))
        true("cpu.weight", 1 < weight < 100, "less than the default of 100", weight)
        return
    found = [await _limit(box, f"cpu/cpu.{name}", "") for name in ("cfs_quota_us", "cfs_period_us", "shares")]
    equal("quota, period and shares", found, ["50000", "100000", "512"])


@case("CreateContainer", Level.MUST, "CRI: oom_score_adj", "LinuxContainerResources.oom_score_adj")
async def oom_score_is_the_programs(trial: Trial) -> None:
    """oom_score_adj is that of the container's first process."""
    box = await _limited(trial, oom_score_adj=789)
    equal("/proc/1/oom_score_adj", await box.sh("cat /proc/1/oom_score_adj"), "789")


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: cpuset_cpus and cpuset_mems",
    "LinuxContainerResources.cpuset_cpus,cpuset_mems",
)
async def cpusets_bind_the_program(trial: Trial) -> None:
    """cpuset_cpus and cpuset_mems are what the program may use."""
    cpu = str(min(os.sched_getaffinity(0)))
    box = await _limited(trial, cpuset_cpus=cpu, cpuset_mems="0")
    found = await box.sh(
        "sed -n -e 's/^Cpus_allowed_list:[^0-9]*//p' -e 's/^Mems_allowed_list:[^0-9]*//p' /proc/1/status"
    )
    equal("CPUs and memory nodes", found.split(), [cpu, "0"])


@case(
    "CreateContainer",
    Level.SHOULD,
    "CRI: memory_swap_limit_in_bytes",
    "LinuxContainerResources.memory_swap_limit_in_bytes",
)
async def swap_is_limited(trial: Trial) -> None:
    """A swap limit that equals the memory limit means no swap."""
    box = await _limited(trial, memory_limit_in_bytes=64 * _MIB, memory_swap_limit_in_bytes=64 * _MIB)
    name = "memory/memory.memsw.limit_in_bytes"
    found = await _limit(box, name, "memory.swap.max")
    equal("the limit", found, "0" if _VERSION_2 else str(64 * _MIB))


@case(
    "CreateContainer",
    Level.SHOULD,
    "KEP-1539: huge pages",
    "LinuxContainerResources.hugepage_limits",
    "HugepageLimit.page_size,limit",
)
async def huge_pages_are_limited(trial: Trial) -> None:
    """A limit of huge pages is that of the container's cgroup."""
    box = await _limited(trial, hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=4 * _MIB)])
    found = await _limit(box, "hugetlb/hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max")
    equal("the limit", found, str(4 * _MIB))


@case(
    "CreateContainer", Level.SHOULD, "CRI: LinuxContainerResources.unified", "LinuxContainerResources.unified"
)
async def files_of_version_2_are_written(trial: Trial) -> None:
    """`unified` is written to the files of the container's cgroup, on nodes with cgroup v2."""
    if not _VERSION_2:
        raise NotApplicable("this node has no cgroup v2")
    box = await _limited(trial, memory_limit_in_bytes=64 * _MIB, unified={"memory.high": str(32 * _MIB)})
    equal("memory.high", await _limit(box, "", "memory.high"), str(32 * _MIB))


@case(
    "CreateContainer",
    Level.SHOULD,
    "CRI: LinuxContainerResources",
    "LinuxContainerResources.memory_limit_in_bytes,oom_score_adj",
)
async def impossible_limits_are_refused(trial: Trial) -> None:
    """An OOM score out of its range, and CPUs that the node does not have, are errors."""
    await refused("CreateContainer with oom_score_adj 5000", _limited(trial, oom_score_adj=5000))
    await refused("CreateContainer with cpuset_cpus 8190", _limited(trial, cpuset_cpus="8190"))


@case(
    "UpdateContainerResources",
    Level.MUST,
    "CRI: UpdateContainerResources; KEP-1287",
    "UpdateContainerResourcesRequest.container_id,linux,annotations",
)
async def limits_of_a_running_container_change(trial: Trial) -> None:
    """New limits are in force at once; those that are zero stay."""
    box = await _limited(trial, memory_limit_in_bytes=64 * _MIB, cpu_quota=50_000, cpu_period=100_000)
    await _update(trial, box.id, memory_limit_in_bytes=96 * _MIB)
    equal("the memory limit", await _limit(box, "memory/memory.limit_in_bytes", "memory.max"), str(96 * _MIB))
    await _update(trial, box.id, cpu_quota=20_000, cpu_period=100_000)
    found = (await _limit(box, "cpu/cpu.cfs_quota_us", "cpu.max")).split()[0]
    equal("the CPU quota", found, "20000")
    equal(
        "the memory limit after it",
        await _limit(box, "memory/memory.limit_in_bytes", "memory.max"),
        str(96 * _MIB),
    )


@case(
    "UpdateContainerResources", Level.SHOULD, "CRI: before the start", "UpdateContainerResourcesRequest.linux"
)
async def limits_of_a_created_container_change(trial: Trial) -> None:
    """New limits of a created container hold when it starts."""
    config = trial.config()
    config.linux.resources.memory_limit_in_bytes = 64 * _MIB
    pod = await trial.subject.shared_pod()
    container = await trial.create(config, pod)
    await _update(trial, container, memory_limit_in_bytes=96 * _MIB)
    await trial.start(container)
    found = await _limit(Box(container, pod, trial), "memory/memory.limit_in_bytes", "memory.max")
    equal("the memory limit", found, str(96 * _MIB))


@case(
    "UpdateContainerResources",
    Level.MUST,
    "kubelet: NOT_FOUND means gone",
    "UpdateContainerResourcesRequest.container_id",
)
async def of_an_unknown_container_is_no_update(trial: Trial) -> None:
    """An update of a container that never was is NOT_FOUND."""
    await refused(
        "UpdateContainerResources of an unknown id", _update(trial, NOBODY, cpu_shares=2), "NOT_FOUND"
    )


@case(
    "UpdateContainerResources",
    Level.SHOULD,
    "CRI: UpdateContainerResources",
    "UpdateContainerResourcesRequest.container_id",
)
async def of_an_ended_container_is_refused(trial: Trial) -> None:
    """An update of a container that has ended is an error."""
    status = await trial.ended(trial.config("true"))
    await refused("UpdateContainerResources of it", _update(trial, status.id, cpu_shares=512))


@case(
    "ContainerStatus",
    Level.OPTIONAL,
    "KEP-1287: ContainerStatus.resources",
    "ContainerStatus.resources",
    "ContainerResources.linux",
)
async def tells_the_limits_in_force(trial: Trial) -> None:
    """The status has the limits of the create, and those of an update after it."""
    box = await _limited(trial, memory_limit_in_bytes=64 * _MIB, cpu_shares=512)
    status = await box.status()
    if not status.HasField("resources"):
        raise NotApplicable("ContainerStatus has no resources")
    equal("ContainerStatus: memory limit", status.resources.linux.memory_limit_in_bytes, 64 * _MIB)
    await _update(trial, box.id, memory_limit_in_bytes=96 * _MIB)
    found = (await box.status()).resources.linux
    equal("ContainerStatus: memory limit after an update", found.memory_limit_in_bytes, 96 * _MIB)


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: Device",
    "ContainerConfig.devices",
    "Device.container_path,host_path,permissions",
)
async def a_device_has_its_permissions(trial: Trial) -> None:
    """A device node appears under its name, and only what its permissions allow can be done."""
    config = trial.config()
    # /dev/loop-control is in no container by default
    host = "/dev/loop-control"
    if not os.path.exists(host):
        raise NotApplicable(f"this node has no {host}")
    config.devices.add(container_path="/dev/conform", host_path=host, permissions="r")
    box = await trial.box(config)
    true("the node", await box.can("test -c /dev/conform"), "a character device", await box.sh("ls -l /dev"))
    true("opening it to read", await box.can(": </dev/conform"), "it succeeds", "it fails")
    true("opening it to write", not await box.can(": >/dev/conform"), "it fails", "it succeeds")


@case("CreateContainer", Level.MUST, "CRI: Device.host_path", "Device.host_path")
async def a_missing_device_is_refused(trial: Trial) -> None:
    """A device that the node does not have is an error."""
    config = trial.config()
    config.devices.add(container_path="/dev/conform", host_path="/dev/no-such-device", permissions="rw")
    await refused("CreateContainer and StartContainer with it", trial.box(config))


@case(
    "CreateContainer",
    Level.OPTIONAL,
    "KEP-4009: CDI devices",
    "ContainerConfig.CDI_devices",
    "CDIDevice.name",
)
async def an_unknown_cdi_device_is_refused(trial: Trial) -> None:
    """A CDI device that no file describes is an error."""
    config = trial.config()
    config.CDI_devices.add(name="crib.example/conform=missing")
    await refused("CreateContainer with it", trial.box(config))
