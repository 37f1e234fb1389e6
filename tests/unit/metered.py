"""A whole reading of a container, for tests of what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from crib.model.image import FilesystemUsage
from crib.model.metrics import Metered, MetricFamily
from crib.model.sandbox import Resources
from crib.model.stats import (
    CgroupUsage,
    CpuUsage,
    DeviceIo,
    FilesystemRoom,
    HugePages,
    InterfaceUsage,
    IoUsage,
    MemoryParts,
    MemoryUsage,
    Pressure,
    ProcessUsage,
    Stall,
    SwapUsage,
    Throttling,
)

SECOND = 1_000_000_000
PRESSURE = Pressure(Stall(1.0, 2.0, 3.0, 5 * SECOND), Stall(0.5, 1.0, 1.5, 4 * SECOND))
WHOLE = CgroupUsage(
    path="/pods/a",
    cpu=CpuUsage(7, 9 * SECOND, PRESSURE, 6 * SECOND, 3 * SECOND, Throttling(40, 10, 2 * SECOND)),
    memory=MemoryUsage(
        at=7,
        usage=5000,
        working_set=4000,
        rss=3000,
        page_faults=20,
        major_page_faults=2,
        pressure=PRESSURE,
        parts=MemoryParts(1000, 900, 800, 700, 600, 6000, 3, 10, 1),
    ),
    swap=SwapUsage(7, 70),
    io=IoUsage(
        7, PRESSURE, (DeviceIo("/dev/vda", 254, 0, {"Read": 11, "Write": 12}, {"Read": 1, "Write": 2}),)
    ),
    processes=ProcessUsage(7, 2, 5, 100, 30, 4, 1024),
    huge_pages=(HugePages("2MB", 2 << 20, 4 << 20), HugePages("1GB", 0)),
    oom_kills=1,
)
CONTAINER = Metered(
    at=100 * SECOND,
    started_at=50 * SECOND,
    cgroup=WHOLE,
    limits=Resources(
        cpu_shares=512, cpu_quota=20_000, memory_limit_in_bytes=1 << 20, memory_swap_limit_in_bytes=2 << 20
    ),
    writable_layer=FilesystemUsage("/d", 4096, 2, 7),
    room=FilesystemRoom("/dev/vda1", 1 << 30, 1000, 400),
    interfaces=(InterfaceUsage("eth0", 1, 2, 3, 4, 5, 6, 7, 8),),
)

Sample: TypeAlias = tuple[MetricFamily, tuple[str, ...], int]


def samples(metered: Metered, families: Iterable[MetricFamily]) -> Iterator[Sample]:
    """What the reading says of each family: values of its own labels, and the value."""
    for family in families:
        part = metered.part(family.path)
        value = None if part is None else family.value(part)
        if isinstance(value, int):
            yield family, (), value
        elif value is not None:
            for labels, one in value:
                yield family, labels, one
