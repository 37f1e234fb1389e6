"""Usage figures, and the filters of the calls that ask for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crib.api.translate import checks, containers, sandboxes
from crib.api.translate.containers import ContainerFilter
from crib.api.translate.images import encode_usage
from crib.api.translate.sandboxes import SandboxFilter
from crib.model.container import ContainerRecord
from crib.model.sandbox import SandboxRecord
from crib.model.stats import (
    CgroupUsage,
    ContainerUsage,
    CpuUsage,
    InterfaceUsage,
    IoUsage,
    MemoryUsage,
    PodUsage,
    Pressure,
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


def encode_container(record: ContainerRecord, usage: ContainerUsage) -> pb.ContainerStats:
    """What is not known is unset, never 0."""
    return pb.ContainerStats(
        attributes=containers.encode_attributes(record),
        cpu=_cpu(usage.cgroup.cpu),
        memory=_memory(usage.cgroup.memory),
        writable_layer=None if usage.writable_layer is None else encode_usage(usage.writable_layer),
        swap=_swap(usage.cgroup.swap),
        io=_io(usage.cgroup.io),
    )


def encode_pod(
    record: SandboxRecord,
    usage: PodUsage,
    interfaces: Sequence[InterfaceUsage],
    of_containers: Iterable[tuple[ContainerRecord, ContainerUsage]],
) -> pb.PodSandboxStats:
    """What is not known is unset, never 0."""
    cgroup = usage.cgroup
    return pb.PodSandboxStats(
        attributes=sandboxes.encode_attributes(record),
        linux=pb.LinuxPodSandboxStats(
            cpu=_cpu(cgroup.cpu),
            memory=_memory(cgroup.memory),
            network=_network(record, interfaces or usage.interfaces, _moment(usage)),
            process=_processes(cgroup, _moment(usage)),
            containers=[encode_container(row, used) for row, used in of_containers],
            io=_io(cgroup.io),
        ),
    )


def _moment(usage: PodUsage) -> int:
    """When the figures without a time of their own were read."""
    if usage.at:
        return usage.at
    part = usage.cgroup.cpu or usage.cgroup.memory
    return 0 if part is None else part.at


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
    return None if usage is None else pb.IoUsage(timestamp=usage.at, psi=_pressure(usage.pressure))


def _pressure(found: Pressure | None) -> pb.PsiStats | None:
    if found is None:
        return None
    return pb.PsiStats(Some=_stall(found.some), Full=None if found.full is None else _stall(found.full))


def _stall(found: Stall) -> pb.PsiData:
    return pb.PsiData(Total=found.total, Avg10=found.avg10, Avg60=found.avg60, Avg300=found.avg300)


def _processes(usage: CgroupUsage, at: int) -> pb.ProcessUsage | None:
    if usage.processes is None:
        return None
    return pb.ProcessUsage(timestamp=at, process_count=_count(usage.processes))


def _network(record: SandboxRecord, interfaces: Sequence[InterfaceUsage], at: int) -> pb.NetworkUsage | None:
    """The default interface is the one that the pod's primary address is on."""
    if not interfaces:
        return None
    wanted = record.network.interface if record.network else ""
    default = next((i for i in interfaces if i.name == wanted), None)
    if default is None:
        default = next((i for i in interfaces if i.name != "lo"), None)
    return pb.NetworkUsage(
        timestamp=at,
        default_interface=None if default is None else _interface(default),
        interfaces=[_interface(i) for i in interfaces if i is not default],
    )


def _interface(usage: InterfaceUsage) -> pb.NetworkInterfaceUsage:
    return pb.NetworkInterfaceUsage(
        name=usage.name,
        rx_bytes=_count(usage.rx_bytes),
        rx_errors=_count(usage.rx_errors),
        tx_bytes=_count(usage.tx_bytes),
        tx_errors=_count(usage.tx_errors),
    )
