"""Usage figures, and the filters of the calls that ask for them."""

from __future__ import annotations

from crib.api.translate import checks
from crib.api.translate.containers import ContainerFilter
from crib.api.translate.images import encode_usage
from crib.api.translate.sandboxes import SandboxFilter
from crib.model.sandbox import SandboxRecord
from crib.model.stats import (
    ContainerUsage,
    CpuUsage,
    InterfaceUsage,
    IoUsage,
    MemoryUsage,
    NetworkUsage,
    PodUsage,
    Pressure,
    ProcessUsage,
    Stall,
    SwapUsage,
)
from crib.stubs.runtime.v1 import api_pb2 as pb


def decode_containers(
    message: pb.ListContainerStatsRequest | pb.StreamContainerStatsRequest,
) -> ContainerFilter | None:
    """None when everything is asked for."""
    if not message.HasField("filter"):
        return None
    wanted = message.filter
    return ContainerFilter(
        id=checks.prefix(wanted.id, "filter.id"),
        sandbox_id=checks.prefix(wanted.pod_sandbox_id, "filter.pod_sandbox_id"),
        labels=checks.selector(wanted.label_selector, "filter"),
    )


def decode_pods(
    message: pb.ListPodSandboxStatsRequest | pb.StreamPodSandboxStatsRequest,
) -> SandboxFilter | None:
    """None when everything is asked for."""
    if not message.HasField("filter"):
        return None
    return SandboxFilter(
        id=checks.prefix(message.filter.id, "filter.id"),
        labels=checks.selector(message.filter.label_selector, "filter"),
    )


def encode_container(usage: ContainerUsage) -> pb.ContainerStats:
    """All but the attributes. What is not known is unset, never 0."""
    return pb.ContainerStats(
        cpu=_cpu(usage.cgroup.cpu),
        memory=_memory(usage.cgroup.memory),
        writable_layer=None if usage.writable_layer is None else encode_usage(usage.writable_layer),
        swap=_swap(usage.cgroup.swap),
        io=_io(usage.cgroup.io),
    )


def encode_pod(record: SandboxRecord, usage: PodUsage) -> pb.LinuxPodSandboxStats:
    """All but the containers. What is not known is unset, never 0."""
    cgroup = usage.cgroup
    return pb.LinuxPodSandboxStats(
        cpu=_cpu(cgroup.cpu),
        memory=_memory(cgroup.memory),
        network=_network(record, usage.network),
        process=_processes(cgroup.processes),
        io=_io(cgroup.io),
    )


def _count(value: int | None) -> pb.UInt64Value | None:
    return None if value is None else pb.UInt64Value(value=max(value, 0))


def _cpu(usage: CpuUsage | None) -> pb.CpuUsage | None:
    if usage is None:
        return None
    return pb.CpuUsage(
        timestamp=usage.at,
        usage_core_nano_seconds=_count(usage.usage),
        usage_nano_cores=_count(usage.nano_cores),
        psi=_pressure(usage.pressure),
    )


def _memory(usage: MemoryUsage | None) -> pb.MemoryUsage | None:
    if usage is None:
        return None
    return pb.MemoryUsage(
        timestamp=usage.at,
        working_set_bytes=_count(usage.working_set),
        available_bytes=_count(usage.available),
        usage_bytes=_count(usage.usage),
        rss_bytes=_count(usage.rss),
        page_faults=_count(usage.page_faults),
        major_page_faults=_count(usage.major_page_faults),
        psi=_pressure(usage.pressure),
    )


def _swap(usage: SwapUsage | None) -> pb.SwapUsage | None:
    if usage is None:
        return None
    return pb.SwapUsage(
        timestamp=usage.at,
        swap_available_bytes=_count(usage.available),
        swap_usage_bytes=_count(usage.usage),
    )


def _io(usage: IoUsage | None) -> pb.IoUsage | None:
    if usage is None or usage.pressure is None:
        return None
    return pb.IoUsage(timestamp=usage.at, psi=_pressure(usage.pressure))


def _pressure(found: Pressure | None) -> pb.PsiStats | None:
    if found is None:
        return None
    return pb.PsiStats(Some=_stall(found.some), Full=None if found.full is None else _stall(found.full))


def _stall(found: Stall) -> pb.PsiData:
    return pb.PsiData(Total=found.total, Avg10=found.avg10, Avg60=found.avg60, Avg300=found.avg300)


def _processes(usage: ProcessUsage | None) -> pb.ProcessUsage | None:
    if usage is None or usage.processes is None:
        return None
    return pb.ProcessUsage(timestamp=usage.at, process_count=_count(usage.processes))


def _network(record: SandboxRecord, usage: NetworkUsage | None) -> pb.NetworkUsage | None:
    """The default interface is the one that the pod's primary address is on."""
    if usage is None:
        return None
    wanted = record.network.interface if record.network else ""
    return pb.NetworkUsage(
        timestamp=usage.at,
        default_interface=next((_interface(one) for one in usage.interfaces if one.name == wanted), None),
        interfaces=[_interface(one) for one in usage.interfaces if one.name != wanted],
    )


def _interface(usage: InterfaceUsage) -> pb.NetworkInterfaceUsage:
    return pb.NetworkInterfaceUsage(
        name=usage.name,
        rx_bytes=_count(usage.rx_bytes),
        rx_errors=_count(usage.rx_errors),
        tx_bytes=_count(usage.tx_bytes),
        tx_errors=_count(usage.tx_errors),
    )
