"""The guest of VM pods, booted under emulation: its pid 1, its limits, its network, and what ends in it."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2, empty_pb2

from crib.stubs.shim import task_pb2
from crib.stubs.vm import guest_pb2
from crib.ttrpc.errors import CallFailed, PeerLost
from tests.system.labs.vm_agent import WANTED
from tests.system.labs.vm_bundles import config, make_root, write_config
from tests.system.labs.vm_guest import BootedGuest, booted, guest_image, qemu_ended

pytestmark = [pytest.mark.root, pytest.mark.system]

SHARE = "/run/crib/share"
FOR_EVER = "while true; do sleep 1000; done"
MIB = 1 << 20
LIMIT = 600.0
END_SECONDS = 60.0


@pytest.fixture(scope="module")
def image() -> Path:
    return guest_image()


@pytest.fixture
async def guest(image: Path) -> AsyncIterator[BootedGuest]:
    async with asyncio.timeout(LIMIT), booted(image) as one:
        await configure(one)
        yield one


async def configure(guest: BootedGuest, **more: Any) -> None:
    asked = guest_pb2.ConfigureRequest(hostname="pod", share_tag="crib", now=time.time_ns(), **more)
    await guest.calls.guest("Configure", asked, guest_pb2.ConfigureResponse)


def bundle(guest: BootedGuest, name: str, script: str, **limits: Any) -> str:
    """A bundle in the shared directory, by its path in the guest."""
    place = guest.share / "c" / name
    make_root(place / "rootfs")
    spec = config(script, f"/crib/{name}", oomScoreAdj=900)
    spec["linux"]["resources"] = limits.pop("resources", {})
    spec["linux"]["namespaces"] += limits.pop("namespaces", [])
    spec.update(limits)
    write_config(place, spec)
    return f"{SHARE}/c/{name}"


async def running(guest: BootedGuest, name: str, script: str, **limits: Any) -> None:
    await guest.calls.create(name, bundle(guest, name, script, **limits), stdin=WANTED)
    await guest.calls.start(name)


async def test_a_container_in_a_guest_has_streams_an_end_and_files_of_the_host(
    guest: BootedGuest, record_property: Any
) -> None:
    calls = guest.calls
    info = await calls.guest("Info", guest_pb2.InfoRequest(), guest_pb2.InfoResponse)
    assert 0 < info.initrd_at <= info.init_at <= info.agent_at <= info.ready_at <= info.uptime
    assert abs(info.now - time.time_ns()) < 60e9
    for stage in ("initrd_at", "init_at", "agent_at", "ready_at"):
        record_property(stage, getattr(info, stage))
    record_property("qemu_cpu_seconds", guest.cpu_seconds())
    await running(guest, "one", "hostname; cat; cat /proc/sys/kernel/osrelease >/kept; exit 7")
    await calls.write_all(b"typed", id="one")
    await calls.execute("one", "more", ["sh", "-c", "echo in $(hostname); exit 3"])
    assert (await calls.wait("one", "more")).exit_status == 3
    assert await calls.read_all(id="one", exec_id="more") == b"in pod\n"
    await calls.task("CloseIO", task_pb2.CloseIORequest(id="one", stdin=True), empty_pb2.Empty)
    assert (await calls.wait("one")).exit_status == 7
    assert await calls.read_all(id="one") == b"pod\ntyped"
    assert (guest.share / "c" / "one" / "rootfs" / "kept").read_text().strip() == info.kernel
    await calls.delete("one")


async def test_limits_hold_in_the_guest_and_a_kill_for_memory_is_told_before_the_end(
    guest: BootedGuest,
) -> None:
    calls = guest.calls
    limits = {"memory": {"limit": 16 * MIB}, "pids": {"limit": 50}, "cpu": {"quota": 50000, "period": 100000}}
    await running(guest, "one", "read go; tail /dev/zero", resources=limits)
    metrics = await calls.metrics("one")
    assert metrics.memory.usage_limit == 16 * MIB
    assert metrics.pids.limit == 50
    more = any_pb2.Any(value=json.dumps({"memory": {"limit": 20 * MIB}}).encode())
    await calls.task("Update", task_pb2.UpdateTaskRequest(id="one", resources=more), empty_pb2.Empty)
    metrics = await calls.metrics("one")
    assert metrics.memory.usage_limit == 20 * MIB
    assert 0 < metrics.memory.usage < 20 * MIB
    await calls.write_all(b"go\n", id="one")
    assert (await calls.wait("one")).exit_status == 128 + signal.SIGKILL
    request = guest_pb2.EventsRequest(wait=1)
    told = await calls.guest("Events", request, guest_pb2.EventsResponse)
    (event,) = told.events
    assert (event.oom.container_id, event.oom.cgroup, event.oom.kills) == ("one", "/crib/one", 1)
    request = guest_pb2.EventsRequest(wait=1, cursor=told.cursor)
    assert not (await calls.guest("Events", request, guest_pb2.EventsResponse)).events
    await calls.delete("one")


async def test_containers_that_share_their_pids_see_each_other_and_end_one_by_one(
    guest: BootedGuest,
) -> None:
    await configure(guest, shared_pid=True)
    shared = {"type": "pid", "path": "/run/crib/ns/pid"}
    for name in ("one", "two"):
        place = bundle(guest, name, f"sleep 1234 & echo there; {FOR_EVER}")
        spec = config(f"sleep 1234 & echo there; {FOR_EVER}", f"/crib/{name}")
        spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "cgroup"}, shared]
        write_config(guest.share / "c" / name, spec)
        await guest.calls.create(name, place)
        await guest.calls.start(name)
        await guest.calls.read_until(b"there\n", id=name)
    ps = ["sh", "-c", "ps | grep -c 'sleep 123[4]'"]
    await guest.calls.execute("one", "ps", ps)
    assert await guest.calls.read_all(id="one", exec_id="ps") == b"2\n"
    await guest.calls.kill("one", signal.SIGKILL)
    assert (await guest.calls.wait("one")).exit_status == 128 + signal.SIGKILL
    await guest.calls.read_all(id="one")  # the end of it: what it left behind was killed too
    await guest.calls.execute("two", "ps", ps)
    assert await guest.calls.read_all(id="two", exec_id="ps") == b"1\n"


async def test_an_agent_that_died_is_followed_by_another_and_nothing_of_before(
    guest: BootedGuest,
) -> None:
    calls = guest.calls
    pids = {"type": "pid", "path": "/proc/1/ns/pid"}
    spec = config("ps | grep crib-agen[t]; read go; kill -9 $(ps | grep crib-agen[t] | (read pid _; echo $pid))",
                  "/crib/killer")  # fmt: skip
    place = bundle(guest, "killer", "true")
    spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "cgroup"}, pids]
    write_config(guest.share / "c" / "killer", spec)
    await running(guest, "one", FOR_EVER)
    await calls.create("killer", place, stdin=WANTED)
    await calls.start("killer")
    await calls.read_until(b"crib-agent", id="killer")
    await calls.write_all(b"go\n", id="killer")
    with pytest.raises((PeerLost, CallFailed)):
        await calls.wait("one")
