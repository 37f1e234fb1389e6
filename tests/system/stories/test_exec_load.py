"""Commands as the probes of a full node: 50 a second, and floods of output. Nothing may be left or grow."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.stream_lab import memory

pytestmark = [pytest.mark.root, pytest.mark.system]

RATE = 50
MOST_AT_ONCE = 32
"""A machine that is busy with other things does not keep up with the rate: they must not pile up there."""
WARM_UP, COMMANDS = 100, 500
MEGABYTE = 1 << 20
LIMIT = 16 * MEGABYTE
"""Bytes of one stream that are kept."""


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def probes(cri: Cri, box: str, count: int, rate: float = RATE) -> list[float]:
    """Commands begun at that rate a second, whether or not the ones before have ended; seconds of each."""
    began = time.monotonic()
    room = asyncio.Semaphore(MOST_AT_ONCE)

    async def probe(number: int) -> float:
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))  # the rate of the load
        async with room:
            start = time.monotonic()
            outcome = await cri.execute(box, "sh", "-c", f"echo {number}; sleep 300 & kill $!", timeout=25)
            assert (outcome.code, outcome.out) == (0, f"{number}\n"), outcome
            return time.monotonic() - start

    return list(await asyncio.gather(*(probe(number) for number in range(count))))


async def test_fifty_commands_a_second_leave_nothing_behind(cribd: Cribd) -> None:
    async with cribd.story() as cri:
        user = pb.LinuxContainerSecurityContext(
            run_as_user=pb.Int64Value(value=1000), namespace_options=pb.NamespaceOption(pid=pb.CONTAINER)
        )
        config = cri.container_config("sleep", "1000")
        config.linux.security_context.CopyFrom(user)
        pod = await cri.run_pod("load")
        request = pb.CreateContainerRequest(
            pod_sandbox_id=pod.id, config=config, sandbox_config=cri.pod_config("load")
        )
        box = (await cri.call(cri.runtime.CreateContainer, request)).container_id
        await cri.start(box)
        await probes(cri, box, WARM_UP, math.inf)  # as many at once as there will ever be
        before, fds, resident = cribd.leftovers(), descriptors(cribd.pid), memory(cribd.pid)
        began = time.monotonic()
        times = sorted(await probes(cri, box, COMMANDS))
        took = time.monotonic() - began
        cribd.settle(before)
        grown = memory(cribd.pid) - resident
        print(
            f"{COMMANDS / took:.0f} a second, median {times[len(times) // 2] * 1000:.0f} ms,"
            f" slowest {times[-1] * 1000:.0f} ms, memory {grown / MEGABYTE:+.1f} MiB"
        )
        await until(lambda: descriptors(cribd.pid) <= fds)
        assert grown < 8 * MEGABYTE


async def test_a_flood_of_output_costs_no_memory_beyond_what_is_kept(cribd: Cribd) -> None:
    """The class of CVE-2022-1708 and CVE-2022-31030: output without end took the node's memory."""
    async with cribd.story() as cri:
        box = await cri.run_container(await cri.run_pod("flood"), "sleep", "1000")
        before = memory(cribd.pid)
        Path(f"/proc/{cribd.pid}/clear_refs").write_text("5")  # the peak is counted anew: proc(5)
        flood = "head -c 1000000000 /dev/zero"
        request = pb.ExecSyncRequest(container_id=box, cmd=["sh", "-c", f"{flood} & {flood} >&2; wait"])
        reply = await cri.call(cri.runtime.ExecSync, request, timeout=300)  # two cores that others use too
        assert reply.exit_code == 0
        peak = memory(cribd.pid, "VmHWM") - before
        print(f"2 GB of output: {peak / MEGABYTE:.0f} MiB at the most")
        assert peak < 8 * LIMIT
        assert await cri.sh(box, "echo fine") == "fine"
