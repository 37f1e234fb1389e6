"""The guest of VM pods, booted under emulation: its pid 1, its limits, its network, and what ends in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf import any_pb2, empty_pb2

from crib.stubs.shim import task_pb2
from crib.stubs.shim.task_types_pb2 import Status
from crib.stubs.vm import guest_pb2
from crib.ttrpc.errors import CallFailed, PeerLost
from crib.wire.rpc_codes import Code
from tests.system.labs.vm_agent import WANTED, refused
from tests.system.labs.vm_bundles import config, make_root, write_config
from tests.system.labs.vm_guest import BootedGuest, booted, guest_image, qemu_ended

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

SHARE = "/run/crib/share"
FOR_EVER = "while true; do sleep 1000; done"
MIB = 1 << 20
END_SECONDS = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest() -> AsyncIterator[BootedGuest]:
    """One for all of these tests, as a boot is slow: the last ones kill its agent, and it."""
    image = await asyncio.to_thread(guest_image)
    async with booted(image) as one:
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
    await running(guest, "first", "hostname; cat; cat /proc/sys/kernel/osrelease >/kept; exit 7")
    await calls.write_all(b"typed", id="first")
    await calls.execute("first", "more", ["sh", "-c", "echo in $(hostname); exit 3"])
    assert (await calls.wait("first", "more")).exit_status == 3
    assert await calls.read_all(id="first", exec_id="more") == b"in pod\n"
    await calls.task("CloseIO", task_pb2.CloseIORequest(id="first", stdin=True), empty_pb2.Empty)
    assert (await calls.wait("first")).exit_status == 7
    assert await calls.read_all(id="first") == b"pod\ntyped"
    assert (guest.share / "c" / "first" / "rootfs" / "kept").read_text().strip() == info.kernel
    await calls.delete("first")


async def test_limits_hold_in_the_guest_and_a_kill_for_memory_is_told_before_the_end(
    guest: BootedGuest,
) -> None:
    calls = guest.calls
    limits = {"memory": {"limit": 16 * MIB}, "pids": {"limit": 50}, "cpu": {"quota": 50000, "period": 100000}}
    await running(guest, "limited", "read go; tail /dev/zero", resources=limits)
    metrics = await calls.metrics("limited")
    assert metrics.memory.usage_limit == 16 * MIB
    assert metrics.pids.limit == 50
    more = any_pb2.Any(value=json.dumps({"memory": {"limit": 20 * MIB}}).encode())
    await calls.task("Update", task_pb2.UpdateTaskRequest(id="limited", resources=more), empty_pb2.Empty)
    metrics = await calls.metrics("limited")
    assert metrics.memory.usage_limit == 20 * MIB
    assert 0 < metrics.memory.usage < 20 * MIB
    await calls.write_all(b"go\n", id="limited")
    assert (await calls.wait("limited")).exit_status == 128 + signal.SIGKILL
    request = guest_pb2.EventsRequest(wait=1)
    told = await calls.guest("Events", request, guest_pb2.EventsResponse)
    (event,) = told.events
    assert (event.oom.container_id, event.oom.cgroup, event.oom.kills) == ("limited", "/crib/limited", 1)
    request = guest_pb2.EventsRequest(wait=1, cursor=told.cursor)
    assert not (await calls.guest("Events", request, guest_pb2.EventsResponse)).events
    await calls.delete("limited")


async def test_containers_that_share_their_pids_see_each_other_and_end_one_by_one(
    guest: BootedGuest,
) -> None:
    await configure(guest, shared_pid=True)
    shared = {"type": "pid", "path": "/run/crib/ns/pid"}
    for name in ("left", "right"):
        place = bundle(guest, name, f"sleep 1234 & echo there; {FOR_EVER}")
        spec = config(f"sleep 1234 & echo there; {FOR_EVER}", f"/crib/{name}")
        spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "cgroup"}, shared]
        write_config(guest.share / "c" / name, spec)
        await guest.calls.create(name, place)
        await guest.calls.start(name)
        await guest.calls.read_until(b"there\n", id=name)
    ps = ["sh", "-c", "ps | grep -c 'sleep 123[4]$'"]
    await guest.calls.execute("left", "ps", ps)
    assert await guest.calls.read_all(id="left", exec_id="ps") == b"2\n"
    await guest.calls.kill("left", signal.SIGKILL)
    assert (await guest.calls.wait("left")).exit_status == 128 + signal.SIGKILL
    await guest.calls.read_all(id="left")  # the end of it: what it left behind was killed too
    await guest.calls.execute("right", "ps", ps)
    assert await guest.calls.read_all(id="right", exec_id="ps") == b"1\n"


async def test_bad_configurations_are_refused_by_the_name_of_their_field(guest: BootedGuest) -> None:
    strange = guest_pb2.Interface(name="eth0", mac="02:00:00:00:00:99")
    for field, asked in (
        ("interfaces", {"interfaces": [strange]}),
        ("interfaces", {"routes": [guest_pb2.Route(destination="10.0.0.0/8", interface="none")]}),
        ("sysctls", {"sysctls": {"no.such.thing": "1"}}),
        ("sysctls", {"sysctls": {"../escape": "1"}}),
    ):
        request = guest_pb2.ConfigureRequest(**asked)
        with pytest.raises(CallFailed) as caught:
            await guest.calls.guest("Configure", request, guest_pb2.ConfigureResponse)
        assert str(caught.value).startswith(f"{field}:")
    await configure(guest, sysctls={"net.core.somaxconn": "77"})
    await running(guest, "tuned", "cat /proc/sys/net/core/somaxconn")
    assert await guest.calls.read_all(id="tuned") == b"77\n"


async def test_an_agent_that_died_is_followed_by_another_and_nothing_of_before(
    guest: BootedGuest,
) -> None:
    calls = guest.calls
    script = (
        "read go; for p in /proc/[0-9]*; do [ $(cat $p/comm) != crib-agent ] || kill -9 ${p#/proc/}; done"
    )
    place = bundle(guest, "killer", "true")
    spec = config(script, "/crib/killer")
    all_pids = {"type": "pid", "path": "/proc/1/ns/pid"}
    spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "cgroup"}, all_pids]
    write_config(guest.share / "c" / "killer", spec)
    await configure(guest, shared_pid=True)
    await running(guest, "one", FOR_EVER)
    for generation in (2, 3):
        await calls.create("killer", place, stdin=WANTED)
        await calls.start("killer")
        await calls.write_all(b"go\n", id="killer")
        await calls.next_agent()
        assert calls.greeting.generation == generation
        await refused(calls.state("one"), Code.NOT_FOUND, "one")
        await configure(guest, shared_pid=True)
        await calls.create("one", f"{SHARE}/c/one")
        await calls.start("one")
        await calls.execute("one", "ps", ["sh", "-c", "ls /proc | grep -c '^[0-9]'"])
        assert (await calls.wait("one", "ps")).exit_status == 0
        assert (await calls.state("one")).status == Status.RUNNING


async def test_power_off_ends_the_machine_whatever_runs(guest: BootedGuest) -> None:
    await running(guest, "last", FOR_EVER)
    off = guest_pb2.PoweroffRequest()
    with contextlib.suppress(PeerLost):
        await guest.calls.guest("Poweroff", off, guest_pb2.PoweroffResponse)
    assert await qemu_ended(guest, END_SECONDS) == 0
