"""ContainerStats, PodSandboxStats and their lists."""

from __future__ import annotations

import time

from crib.conform.case import Level, case
from crib.conform.expect import NotApplicable, equal, refused, true
from crib.conform.trial import NOBODY, Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

_RECENT = 300 * 10**9
"""Nanoseconds by which a figure may be old: some runtimes read them now and then."""
_SUMMARY = "kubelet: the Summary API reads it"


async def _stats(trial: Trial, container: str) -> pb.ContainerStats:
    return (
        await trial.call(trial.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=container))
    ).stats


def _is_recent(asked: str, timestamp: int) -> None:
    true(asked, abs(time.time_ns() - timestamp) < _RECENT, "a time just now, in nanoseconds", timestamp)


@case(
    "ContainerStats",
    Level.MUST,
    _SUMMARY,
    "ContainerStatsRequest.container_id",
    "ContainerStatsResponse.stats",
    "ContainerStats.attributes,cpu,memory",
    "ContainerAttributes.id,metadata,labels,annotations",
    "CpuUsage.timestamp,usage_core_nano_seconds",
    "MemoryUsage.timestamp,working_set_bytes",
    "UInt64Value.value",
)
async def has_cpu_and_memory(trial: Trial) -> None:
    """The figures have CPU time and working set of a container, with its id, metadata, labels and times."""
    config = trial.config("sh", "-c", "i=0; while test $i -lt 20000; do i=$((i+1)); done; sleep 3600")
    box = await trial.box(config)
    stats = await _stats(trial, box.id)
    equal("ContainerStats: id", stats.attributes.id, box.id)
    equal("ContainerStats: metadata", stats.attributes.metadata, config.metadata)
    equal("ContainerStats: labels", dict(stats.attributes.labels), dict(config.labels))
    equal("ContainerStats: annotations", dict(stats.attributes.annotations), dict(config.annotations))
    true(
        "ContainerStats: usage_core_nano_seconds",
        stats.cpu.usage_core_nano_seconds.value > 0,
        "more than 0",
        stats.cpu,
    )
    true(
        "ContainerStats: working_set_bytes",
        stats.memory.working_set_bytes.value > 0,
        "more than 0",
        stats.memory,
    )
    _is_recent("ContainerStats: cpu.timestamp", stats.cpu.timestamp)
    _is_recent("ContainerStats: memory.timestamp", stats.memory.timestamp)


@case(
    "ContainerStats",
    Level.MUST,
    _SUMMARY,
    "ContainerStats.writable_layer",
    "FilesystemUsage.timestamp,fs_id,used_bytes,inodes_used",
    "FilesystemIdentifier.mountpoint",
)
async def has_the_writable_layer(trial: Trial) -> None:
    """The figures have a writable layer with its file system, space and inodes."""
    box = await trial.box()
    await box.sh("dd if=/dev/zero of=/conform bs=65536 count=16 2>/dev/null")
    layer = (await _stats(trial, box.id)).writable_layer
    true("ContainerStats: fs_id.mountpoint", layer.fs_id.mountpoint, "a path", layer)
    true("ContainerStats: used_bytes is set", layer.HasField("used_bytes"), "a figure", layer)
    true("ContainerStats: inodes_used is set", layer.HasField("inodes_used"), "a figure", layer)


@case(
    "ContainerStats",
    Level.SHOULD,
    _SUMMARY,
    "MemoryUsage.usage_bytes,rss_bytes,page_faults,major_page_faults,available_bytes",
)
async def has_more_of_memory(trial: Trial) -> None:
    """The figures have usage, RSS and page faults, and what is left of a limit."""
    config = trial.config()
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    memory = (await _stats(trial, (await trial.box(config)).id)).memory
    for name in ("usage_bytes", "rss_bytes", "page_faults", "major_page_faults", "available_bytes"):
        true(f"ContainerStats: {name}", memory.HasField(name), "it is set", memory)
    true(
        "ContainerStats: available_bytes",
        0 < memory.available_bytes.value <= 64 << 20,
        "within the limit",
        memory,
    )


@case(
    "ContainerStats",
    Level.OPTIONAL,
    "KEP-2400: swap; KEP-4205: PSI",
    "ContainerStats.swap,io",
    "SwapUsage.timestamp,swap_available_bytes,swap_usage_bytes",
    "CpuUsage.psi,usage_nano_cores",
    "MemoryUsage.psi",
    "IoUsage.timestamp,psi",
    "PsiStats.Full,Some",
    "PsiData.Total,Avg10,Avg60,Avg300",
)
async def pressure_is_whole(trial: Trial) -> None:
    """A runtime that tells pressure tells both lines of it, with plausible shares."""
    stats = await _stats(trial, (await trial.box()).id)
    if not stats.cpu.HasField("psi"):
        raise NotApplicable("ContainerStats has no pressure")
    for part in (stats.cpu.psi, stats.memory.psi, stats.io.psi):
        for line in (part.Full, part.Some):
            shares = (line.Avg10, line.Avg60, line.Avg300)
            true(
                "ContainerStats: shares of pressure",
                all(0 <= one <= 100 for one in shares),
                "0 to 100",
                shares,
            )


@case(
    "ContainerStats",
    Level.MUST,
    "CRI: an error if the container does not exist",
    "ContainerStatsRequest.container_id",
)
async def of_an_unknown_container_is_none(trial: Trial) -> None:
    """Figures of a container that never was are an error."""
    await refused("ContainerStats of an unknown id", _stats(trial, NOBODY))


@case("ContainerStats", Level.SHOULD, "kubelet: NOT_FOUND means gone", "ContainerStatsRequest.container_id")
async def of_an_unknown_container_is_not_found_by_code(trial: Trial) -> None:
    """The error for an unknown container is NOT_FOUND."""
    await refused("ContainerStats of an unknown id", _stats(trial, NOBODY), "NOT_FOUND")


@case(
    "ListContainerStats",
    Level.MUST,
    _SUMMARY,
    "ListContainerStatsRequest.filter",
    "ContainerStatsFilter.id,pod_sandbox_id,label_selector",
    "ListContainerStatsResponse.stats",
)
async def figures_are_filtered(trial: Trial) -> None:
    """Figures are of the containers whose id, sandbox and labels are those of the filter."""
    pod = await trial.pod()
    config = trial.config()
    config.labels["conform/a"] = "1"
    one, other = await trial.box(config, pod), await trial.box(pod=pod)

    async def listed(**fields: object) -> set[str]:
        wanted = pb.ContainerStatsFilter(**fields)  # type: ignore[arg-type]  # fields of this message
        request = pb.ListContainerStatsRequest(filter=wanted)
        reply = await trial.call(trial.runtime.ListContainerStats, request)
        return {stats.attributes.id for stats in reply.stats}

    equal("ListContainerStats by id", await listed(id=one.id), {one.id})
    equal("ListContainerStats by sandbox", await listed(pod_sandbox_id=pod.id), {one.id, other.id})
    equal("ListContainerStats by labels", await listed(label_selector=dict(config.labels)), {one.id})
    equal(
        "ListContainerStats by sandbox and labels",
        await listed(pod_sandbox_id=pod.id, label_selector={"conform/a": "2"}),
        set(),
    )


async def _pod_stats(trial: Trial, pod_id: str) -> pb.PodSandboxStats:
    request = pb.PodSandboxStatsRequest(pod_sandbox_id=pod_id)
    return (await trial.call(trial.runtime.PodSandboxStats, request)).stats


@case(
    "PodSandboxStats",
    Level.OPTIONAL,
    "KEP-2371: pod statistics from CRI",
    "PodSandboxStatsRequest.pod_sandbox_id",
    "PodSandboxStatsResponse.stats",
    "PodSandboxStats.attributes,linux",
    "PodSandboxAttributes.id,metadata,labels,annotations",
    "LinuxPodSandboxStats.cpu,memory,network,process,containers,io",
    "NetworkUsage.timestamp,default_interface,interfaces",
    "NetworkInterfaceUsage.name,rx_bytes,rx_errors,tx_bytes,tx_errors",
    "ProcessUsage.timestamp,process_count",
)
async def has_the_pods_figures(trial: Trial) -> None:
    """A pod's figures have CPU, memory, the network's default interface, processes and its containers."""
    pod = await trial.pod()
    box = await trial.box(pod=pod)
    stats = await _pod_stats(trial, pod.id)
    equal("PodSandboxStats: id", stats.attributes.id, pod.id)
    equal("PodSandboxStats: metadata", stats.attributes.metadata, pod.config.metadata)
    equal("PodSandboxStats: labels", dict(stats.attributes.labels), dict(pod.config.labels))
    equal("PodSandboxStats: containers", [one.attributes.id for one in stats.linux.containers], [box.id])
    true(
        "PodSandboxStats: memory",
        stats.linux.memory.working_set_bytes.value > 0,
        "more than 0",
        stats.linux.memory,
    )
    true(
        "PodSandboxStats: process_count",
        stats.linux.process.process_count.value > 0,
        "more than 0",
        stats.linux.process,
    )
    network = stats.linux.network
    true("PodSandboxStats: default_interface", network.default_interface.name, "a name", network)
    true("PodSandboxStats: rx_bytes", network.default_interface.HasField("rx_bytes"), "it is set", network)
    _is_recent("PodSandboxStats: cpu.timestamp", stats.linux.cpu.timestamp)


@case(
    "PodSandboxStats",
    Level.OPTIONAL,
    "kubelet: NOT_FOUND means gone",
    "PodSandboxStatsRequest.pod_sandbox_id",
)
async def of_an_unknown_pod_is_an_error(trial: Trial) -> None:
    """Figures of a sandbox that never was are an error."""
    error = await refused("PodSandboxStats of an unknown id", _pod_stats(trial, NOBODY))
    if error.code == "UNIMPLEMENTED":
        raise NotApplicable(error.message)


@case(
    "ListPodSandboxStats",
    Level.OPTIONAL,
    "KEP-2371: pod statistics from CRI",
    "ListPodSandboxStatsRequest.filter",
    "PodSandboxStatsFilter.id,label_selector",
    "ListPodSandboxStatsResponse.stats",
)
async def figures_of_pods_are_filtered(trial: Trial) -> None:
    """Figures are of the sandboxes whose id and labels are those of the filter."""
    one, other = await trial.pod(), await trial.pod()

    async def listed(**fields: object) -> set[str]:
        wanted = pb.PodSandboxStatsFilter(**fields)  # type: ignore[arg-type]  # fields of this message
        request = pb.ListPodSandboxStatsRequest(filter=wanted)
        reply = await trial.call(trial.runtime.ListPodSandboxStats, request)
        return {stats.attributes.id for stats in reply.stats}

    equal("ListPodSandboxStats by id", await listed(id=one.id), {one.id})
    equal("ListPodSandboxStats by labels", await listed(label_selector=dict(other.config.labels)), {other.id})
