"""The CRI's metrics of real pods: the numbers of the kernel, as a kubelet would print them."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass

import pytest

from crib.client import metrics
from crib.client.pods import Pod
from crib.host.cgroup_files import content, number
from crib.host.cgroups import Cgroups, detect_layout
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

MIB = 1 << 20
LIMITS = pb.LinuxContainerResources(
    cpu_period=100_000,
    cpu_quota=50_000,
    cpu_shares=512,
    memory_limit_in_bytes=64 * MIB,
    memory_swap_limit_in_bytes=64 * MIB,
)
BASE = ("container", "id", "image", "name", "namespace", "pod")
Series = dict[tuple[str, ...], int]
"""Values by those of the labels that a family has of its own."""


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
def keeping() -> Iterator[Cribd]:
    chosen = '[statistics]\npod_metrics = ["cpu", "oom"]\npod_metrics_period = 300\n'
    with running_cribd(extra=chosen) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


@dataclass(frozen=True)
class Told:
    """What the metrics say of one pod."""

    message: pb.PodSandboxMetrics
    box: str

    def of_box(self, family: str) -> Series:
        (found,) = (each for each in self.message.container_metrics if each.container_id == self.box)
        return series(found.metrics, family)

    def of_pod(self, family: str, container: str = "") -> Series:
        return series((m for m in self.message.metrics if m.label_values[0] == container), family)

    def one(self, family: str) -> int:
        """Of a family without labels of its own."""
        return self.of_box(family)[()]


def series(found: Iterable[pb.Metric], family: str) -> Series:
    return {
        tuple(metric.label_values[len(BASE) :]): metric.value.value
        for metric in found
        if metric.name == family
    }


async def ask(cri: Cri, pod: Pod, box: str) -> Told:
    every = [message async for message in metrics.of_pods(cri.connection)]
    (message,) = (message for message in every if message.pod_sandbox_id == pod.id)
    return Told(message, box)


class Files:
    """The files of a container's cgroup, whichever version the kernel has."""

    def __init__(self, cribd: Cribd, pod: Pod, box: str) -> None:
        self.cgroups, self.path = Cgroups(detect_layout()), f"{cribd.cgroup}/{pod.id}/{box}"
        self.v1 = self.cgroups.layout.mode != "v2"

    def text(self, v1: str, v2: str) -> str:
        return self.cgroups.read(self.path, v1 if self.v1 else v2)

    def figure(self, v1: tuple[str, str], v2: tuple[str, str]) -> int:
        """A line of a file; of one without keys its content."""
        name, key = v1 if self.v1 else v2
        text = self.text(name, name)
        if not key:
            return int(text)
        found = number(text.encode(), key.encode())
        assert found is not None, (name, key)
        return found


async def test_counters_under_load_are_those_of_the_cgroup(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("busy")
    burn = ("sh", "-c", "while true; do true; done")
    fast = await cri.run_container(pod, *burn, name="fast")
    scarce = pb.LinuxContainerResources(cpu_period=100_000, cpu_quota=2_000)
    slow = await cri.run_container(pod, *burn, name="slow", resources=scarce)
    used, held = Files(cribd, pod, fast), Files(cribd, pod, slow)

    def nanoseconds() -> int:
        return used.figure(("cpuacct.usage", ""), ("cpu.stat", "usage_usec")) * (1 if used.v1 else 1000)

    def periods(key: str) -> int:
        return held.figure(("cpu.stat", key), ("cpu.stat", key))

    async def is_busy() -> bool:
        return nanoseconds() > 1_100_000_000 and periods("nr_throttled") > 0

    await until(is_busy)
    before = nanoseconds() // 1_000_000_000, periods("nr_periods"), periods("nr_throttled")
    of_fast, of_slow = await ask(cri, pod, fast), await ask(cri, pod, slow)
    told = (
        of_fast.of_box("container_cpu_usage_seconds_total")[("total",)],
        of_slow.one("container_cpu_cfs_periods_total"),
        of_slow.one("container_cpu_cfs_throttled_periods_total"),
    )
    after = nanoseconds() // 1_000_000_000, periods("nr_periods"), periods("nr_throttled")
    assert all(low <= value <= high for low, value, high in zip(before, told, after, strict=True)), (
        before,
        told,
        after,
    )
    assert of_slow.of_pod("container_cpu_usage_seconds_total")[("total",)] >= told[0]
    without_quota = {metric.name for metric in of_fast.message.metrics}
    assert "container_cpu_cfs_periods_total" not in without_quota
    assert of_fast.of_box("container_cpu_cfs_periods_total") == {}


async def test_memory_files_processes_and_limits_are_those_of_the_cgroup(cri: Cri, cribd: Cribd) -> None:
    script = "head -c 8388608 /dev/zero >/dev/shm/held; head -c 1048576 /dev/zero >/kept; "
    pod = await cri.run_pod("held")
    box = await cri.run_container(
        pod, "sh", "-c", f"{script} sleep 1000 & sleep 1000 & touch /ready; wait", resources=LIMITS
    )
    await until(lambda: cri.sh(box, "ls /ready || true"))
    files = Files(cribd, pod, box)
    gauges = {
        "container_memory_usage_bytes": (("memory.usage_in_bytes", ""), ("memory.current", "")),
        "container_memory_cache": (("memory.stat", "total_cache"), ("memory.stat", "file")),
        "container_memory_rss": (("memory.stat", "total_rss"), ("memory.stat", "anon")),
        "container_memory_mapped_file": (
            ("memory.stat", "total_mapped_file"),
            ("memory.stat", "file_mapped"),
        ),
        "container_memory_failcnt": (("memory.failcnt", ""), ("memory.events", "max")),
        "container_spec_memory_limit_bytes": (("memory.limit_in_bytes", ""), ("memory.max", "")),
        "container_threads": (("pids.current", ""), ("pids.current", "")),
    }

    async def all_agree() -> bool:
        """The kernel brings its sums of memory up to date now and then, and tells nobody."""
        before = {family: files.figure(*places) for family, places in gauges.items()}
        found = await ask(cri, pod, box)
        return before == {family: found.one(family) for family in gauges}

    await until(all_agree)
    found = await ask(cri, pod, box)
    assert found.one("container_memory_cache") >= 8 * MIB
    assert found.one("container_memory_max_usage_bytes") >= found.one("container_memory_usage_bytes")
    assert found.one("container_spec_cpu_shares") == 512
    assert found.one("container_spec_cpu_quota") == 50_000
    assert found.one("container_spec_cpu_period") == 100_000
    assert found.one("container_oom_events_total") == 0

    async def processes_agree() -> bool:
        """What looked for /ready may still be there for a moment."""
        told, pids = await ask(cri, pod, box), files.text("cgroup.procs", "cgroup.procs").split()
        opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for pid in pids for fd in os.listdir(f"/proc/{pid}/fd")]
        sockets = sum(link.startswith("socket:") for link in opened)
        return (len(pids), len(opened), sockets) == (
            told.one("container_processes"),
            told.one("container_file_descriptors"),
            told.one("container_sockets"),
        )

    await until(lambda: len(files.text("cgroup.procs", "cgroup.procs").split()) == 3)
    await until(processes_agree)
    nofile = int(await cri.sh(box, "ulimit -Sn"))
    assert found.of_box("container_ulimits_soft") == {("max_open_files",): nofile}
    (((device,), usage),) = found.of_box("container_fs_usage_bytes").items()
    assert usage >= MIB
    space = os.statvfs(cribd.data)
    assert found.of_box("container_fs_limit_bytes") == {(device,): space.f_blocks * space.f_frsize}
    assert found.of_box("container_fs_inodes_total") == {(device,): space.f_files}
    status = await cri.status(box)
    assert found.one("container_start_time_seconds") == status.started_at // 1_000_000_000
    assert found.of_pod("container_memory_usage_bytes")[()] >= found.one("container_memory_usage_bytes")


async def test_a_kill_for_want_of_memory_is_counted(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("hog")
    script = "tail /dev/zero; touch /over; exec sleep 1000"
    box = await cri.run_container(pod, "sh", "-c", script, resources=LIMITS)
    await until(lambda: cri.sh(box, "ls /over || true"))
    files = Files(cribd, pod, box)
    kills = files.figure(("memory.oom_control", "oom_kill"), ("memory.events", "oom_kill"))
    found = await ask(cri, pod, box)
    assert found.one("container_oom_events_total") == kills >= 1


async def test_what_passed_the_pods_interface_is_told_under_the_name_of_the_pod(
    cri: Cri, cribd: Cribd
) -> None:
    pod = await cri.run_pod("talk")
    box = await cri.run_container(pod, "sleep", "1000")
    address = (await cri.pod_status(pod)).network.ip
    sent = 50
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        for _ in range(sent):
            host.sendto(bytes(1000), (address, 9))
    (pid, *_) = Files(cribd, pod, box).text("cgroup.procs", "cgroup.procs").split()

    def counters() -> dict[str, int]:
        lines = content(f"/proc/{pid}/net/dev").decode().splitlines()
        (line,) = (line for line in lines if line.strip().startswith("eth0:"))
        values = [int(value) for value in line.partition(":")[2].split()]
        names = ("bytes", "packets", "errors", "packets_dropped")
        received = {
            f"container_network_receive_{name}_total": n for name, n in zip(names, values, strict=False)
        }
        return received | {
            f"container_network_transmit_{name}_total": n for name, n in zip(names, values[8:], strict=False)
        }

    before = counters()
    found = await ask(cri, pod, box)
    after = counters()
    for family, least in before.items():
        assert list(found.of_pod(family, "POD")) == [("eth0",)]
        assert least <= found.of_pod(family, "POD")[("eth0",)] <= after[family], family
    assert found.of_pod("container_network_receive_packets_total", "POD")[("eth0",)] >= sent
    assert found.of_pod("container_network_receive_bytes_total", "POD")[("eth0",)] >= sent * 1000


async def test_metrics_that_are_kept_are_told_again_with_the_time_of_their_reading(keeping: Cribd) -> None:
    async with keeping.story() as cri:
        pod = await cri.run_pod("first")
        box = await cri.run_container(pod, "sleep", "1000")
        first = await ask(cri, pod, box)
        await cri.sh(box, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
        assert (await ask(cri, pod, box)).message == first.message
        second = await cri.run_pod("second")
        assert (await ask(cri, second, "")).message.metrics
        told = [*first.message.metrics, *first.message.container_metrics[0].metrics]
        assert len({metric.timestamp for metric in told}) == 1
        assert told[0].timestamp > 0
        listed = await metrics.descriptors(cri.connection)
        assert {metric.name for metric in told} <= {one.name for one in listed}
        assert {one.name for one in listed} == {
            "container_last_seen",
            "container_oom_events_total",
            *(name for name, _, _ in CADVISOR if name.startswith("container_cpu")),
        }


async def test_the_stream_tells_what_the_list_tells(cri: Cri) -> None:
    pod = await cri.run_pod("both")
    await cri.run_container(pod, "sleep", "1000")
    method, request = cri.runtime.ListPodSandboxMetrics, pb.ListPodSandboxMetricsRequest()
    (listed,) = (await cri.call(method, request)).pod_metrics
    (streamed,) = [message async for message in metrics.of_pods(cri.connection)]

    def labels(message: pb.PodSandboxMetrics) -> list[tuple[str, tuple[str, ...]]]:
        every = [*message.metrics, *(m for one in message.container_metrics for m in one.metrics)]
        assert all(metric.timestamp == 0 for metric in every)
        return [(metric.name, tuple(metric.label_values)) for metric in every]

    assert labels(listed) == labels(streamed)


CADVISOR = (
    ("container_blkio_device_usage_total", "counter", "device major minor operation"),
    ("container_cpu_cfs_periods_total", "counter", ""),
    ("container_cpu_cfs_throttled_periods_total", "counter", ""),
    ("container_cpu_cfs_throttled_seconds_total", "counter", ""),
    ("container_cpu_system_seconds_total", "counter", ""),
    ("container_cpu_usage_seconds_total", "counter", "cpu"),
    ("container_cpu_user_seconds_total", "counter", ""),
    ("container_file_descriptors", "gauge", ""),
    ("container_fs_inodes_free", "gauge", "device"),
    ("container_fs_inodes_total", "gauge", "device"),
    ("container_fs_limit_bytes", "gauge", "device"),
    ("container_fs_reads_bytes_total", "counter", "device"),
    ("container_fs_reads_total", "counter", "device"),
    ("container_fs_usage_bytes", "gauge", "device"),
    ("container_fs_writes_bytes_total", "counter", "device"),
    ("container_fs_writes_total", "counter", "device"),
    ("container_last_seen", "gauge", ""),
    ("container_memory_cache", "gauge", ""),
    ("container_memory_failcnt", "counter", ""),
    ("container_memory_failures_total", "counter", "failure_type scope"),
    ("container_memory_kernel_usage", "gauge", ""),
    ("container_memory_mapped_file", "gauge", ""),
    ("container_memory_max_usage_bytes", "gauge", ""),
    ("container_memory_rss", "gauge", ""),
    ("container_memory_swap", "gauge", ""),
    ("container_memory_usage_bytes", "gauge", ""),
    ("container_memory_working_set_bytes", "gauge", ""),
    ("container_network_receive_bytes_total", "counter", "interface"),
    ("container_network_receive_errors_total", "counter", "interface"),
    ("container_network_receive_packets_dropped_total", "counter", "interface"),
    ("container_network_receive_packets_total", "counter", "interface"),
    ("container_network_transmit_bytes_total", "counter", "interface"),
    ("container_network_transmit_errors_total", "counter", "interface"),
    ("container_network_transmit_packets_dropped_total", "counter", "interface"),
    ("container_network_transmit_packets_total", "counter", "interface"),
    ("container_oom_events_total", "counter", ""),
    ("container_processes", "gauge", ""),
    ("container_sockets", "gauge", ""),
    ("container_spec_cpu_period", "gauge", ""),
    ("container_spec_cpu_quota", "gauge", ""),
    ("container_spec_cpu_shares", "gauge", ""),
    ("container_spec_memory_limit_bytes", "gauge", ""),
    ("container_spec_memory_reservation_limit_bytes", "gauge", ""),
    ("container_spec_memory_swap_limit_bytes", "gauge", ""),
    ("container_start_time_seconds", "gauge", ""),
    ("container_threads", "gauge", ""),
    ("container_threads_max", "gauge", ""),
    ("container_ulimits_soft", "gauge", "ulimit"),
)
"""Name, type and own labels of what a kubelet's /metrics/cadvisor has of a container (cAdvisor 0.53,
metrics/prometheus.go), as far as the CRI's metrics have it. All have the labels of BASE besides."""
OPTIONAL = {name for name, _, labels in CADVISOR if "device" in labels and "usage_bytes" not in name} - {
    "container_fs_inodes_free",
    "container_fs_inodes_total",
    "container_fs_limit_bytes",
}
"""There only once something was read from or written to a disk."""


def exposition(descriptors: object, pods: object) -> list[tuple[str, str, dict[str, str], int]]:
    """As a kubelet makes it (pkg/kubelet/metrics/collectors/cri_metrics.go): a sample whose family has not
    been described, or that has another number of labels, is left out; one that is there twice spoils all.
    """
    keys = {one.name: tuple(one.label_keys) for one in descriptors}  # type: ignore[attr-defined]
    found, seen = [], set()
    for pod in pods:  # type: ignore[attr-defined]
        for metric in (*pod.metrics, *(m for one in pod.container_metrics for m in one.metrics)):
            labels = keys.get(metric.name, ())
            if len(labels) == len(metric.label_values):
                identity = (metric.name, *metric.label_values)
                assert identity not in seen
                seen.add(identity)
                kind = pb.MetricType.Name(metric.metric_type).lower()
                found.append(
                    (
                        metric.name,
                        kind,
                        dict(zip(labels, metric.label_values, strict=True)),
                        metric.value.value,
                    )
                )
    return found


async def test_a_kubelet_prints_what_it_prints_of_cadvisor(cri: Cri, cribd: Cribd) -> None:
    for name in ("one", "two"):
        pod = await cri.run_pod(name)
        await cri.run_container(pod, "sleep", "1000", resources=LIMITS)
        await cri.run_container(pod, "sleep", "1000", name="second")
    pods = [message async for message in metrics.of_pods(cri.connection)]
    printed = exposition(await metrics.descriptors(cri.connection), pods)
    shapes = {(name, kind, tuple(labels)) for name, kind, labels, _ in printed}
    wanted = {(name, kind, (*BASE, *labels.split())) for name, kind, labels in CADVISOR}
    assert {shape for shape in wanted if shape[0] not in OPTIONAL} <= shapes
    beyond = {name for name, _, _ in shapes} - {name for name, _, _ in CADVISOR}
    assert all(name.startswith(("container_pressure_", "container_hugetlb_")) for name in beyond)
    # As dashboards choose: containers by `image`, the pod as a whole by an empty `container`.
    of_cpu = [labels for name, _, labels, _ in printed if name == "container_cpu_usage_seconds_total"]
    assert sorted((row["pod"], row["container"]) for row in of_cpu if row["image"]) == [
        ("one", "box"),
        ("one", "second"),
        ("two", "box"),
        ("two", "second"),
    ]
    assert sorted(row["pod"] for row in of_cpu if not row["container"]) == ["one", "two"]
    for row in of_cpu:
        assert row["namespace"] == "stories"
        assert row["cpu"] == "total"
        assert row["id"].startswith(cribd.cgroup)
        assert row["id"].endswith(row["name"])
    of_network = [labels for name, _, labels, _ in printed if name.startswith("container_network_")]
    assert {(row["container"], row["interface"], row["image"]) for row in of_network} == {("POD", "eth0", "")}
