"""What CNI networks hold for pods that are not there any more, and who may have it collected."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.backends.network.cni import gc, plugins
from crib.backends.network.cni.host_local import Allocation, Store
from crib.model.errors import Unavailable
from crib.model.ids import new_sandbox_id
from tests.fakes.world import bounded
from tests.system.labs.cni_lab import CniLab
from tests.system.labs.daemon import until
from tests.system.labs.pod_namespaces import no_stage

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CniLab]:
    made = CniLab(tmp_path)
    yield made
    made.remove()


def hold(lab: CniLab, container: str, interface: str = "eth0", *, before_boot: bool = False) -> str:
    """Have somebody hold an address of host-local's store."""
    store = lab.directory / "ipam" / "test-net"
    store.mkdir(exist_ok=True)
    address = str(lab.subnet[200 + len(list(store.glob("*")))])
    (store / address).write_text(f"{container}\r\n{interface}")
    if before_boot:
        os.utime(store / address, (1e9, 1e9))
    return address


async def test_sweep_runs_del_for_unknown_pods_and_garbage_collection(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"), version="1.1.0")
    network = lab.network()
    kept, lost = lab.namespaces.make(), lab.namespaces.make()
    await network.attach(kept.pod(), no_stage)
    await network.attach(lost.pod(), no_stage)
    assert await lab.network().sweep({kept.id}) == [f"network of pod {lost.id}"]
    assert [call["id"] for call in lab.calls("DEL")] == [lost.id]
    (garbage,) = lab.calls("GC")
    assert garbage["input"]["cni.dev/valid-attachments"] == [{"containerID": kept.id, "ifname": "eth0"}]


async def test_what_this_daemon_has_attached_is_known_whoever_knows_it(lab: CniLab) -> None:
    lab.configure(lab.bridge_plugin())
    network = lab.network()
    namespace = lab.namespaces.make()
    await network.attach(namespace.pod(), no_stage)
    assert await network.sweep((), everything=True) == []
    assert len(lab.held_addresses()) == 1
    await network.detach(namespace.pod())


async def test_each_network_hears_of_its_own_attachments_and_so_does_one_without_a_file(lab: CniLab) -> None:
    for name in ("a", "b"):
        lab.configure(lab.recorder(f"of-{name}"), version="1.1.0", name=name)
    gone = lab.configure(lab.recorder("of-c"), version="1.1.0", name="c")
    network = lab.network(cni_networks=0)
    pod = lab.namespaces.make().pod()
    await network.attach(pod, no_stage)
    gone.unlink()
    assert await network.sweep({pod.id}) == []
    heard = {call["input"]["name"]: call["input"]["cni.dev/valid-attachments"] for call in lab.calls("GC")}
    assert heard == {
        name: [{"containerID": pod.id, "ifname": interface}]
        for name, interface in (("a", "eth0"), ("b", "eth1"), ("c", "eth2"))
    }


async def test_a_pod_whose_file_is_torn_may_hold_something_of_every_network(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"), version="1.1.0")
    namespace = lab.namespaces.make()
    await lab.network().attach(namespace.pod(), no_stage)
    lab.kept_file(namespace).write_text("{")
    assert await lab.network().sweep({namespace.id}) == []
    (garbage,) = lab.calls("GC")
    assert garbage["input"]["cni.dev/valid-attachments"] == [{"containerID": namespace.id, "ifname": "eth0"}]


async def test_garbage_of_every_directory_is_collected_before_any_pod_names_one(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"), version="1.1.0")
    own = lab.own_directory(lab.recorder("own"))
    assert await lab.network(own).sweep(()) == []
    assert [call["plugin"] for call in lab.calls("GC")] == ["one", "own"]


@pytest.mark.parametrize("code", [1, 4])
async def test_a_plugin_without_garbage_collection_is_passed_over(
    lab: CniLab, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    lab.configure(lab.recorder("one"), lab.recorder("two"), version="1.1.0")
    lab.fail("one", "GC", code=code)
    assert await lab.network().sweep(()) == []
    assert [call["plugin"] for call in lab.calls("GC")] == ["one", "two"]
    assert "stays" not in caplog.text
    lab.fail("one", "GC", code=7)
    await lab.network().sweep(())
    assert "garbage of network test-net stays: cni plugin one GC: no hard feelings" in caplog.text


async def test_addresses_from_before_the_boot_and_of_lost_pods_are_released_others_stay(lab: CniLab) -> None:
    lab.configure(lab.bridge_plugin())
    network = lab.network()
    kept, lost = lab.namespaces.make(), lab.namespaces.make()
    (address,) = (await network.attach(kept.pod(), no_stage)).addresses
    await network.attach(lost.pod(), no_stage)
    lost_too = hold(lab, lost.id, "eth7")  # DEL of eth0 leaves it
    stale = hold(lab, "of-before", before_boot=True)
    foreign = hold(lab, new_sandbox_id())
    assert await lab.network().sweep({kept.id}) == [
        f"network of pod {lost.id}",
        f"address {lost_too} of test-net, held by {lost.id}",
        f"address {stale} of test-net, held by of-before",
    ]
    assert lab.held_addresses() == sorted([address, foreign])
    told = await lab.network().sweep({kept.id}, everything=True)
    assert [line.split()[1] for line in told] == [foreign]
    assert lab.held_addresses() == [address]


async def test_an_address_of_a_known_pod_stays_however_old_it_is(lab: CniLab) -> None:
    lab.configure(lab.bridge_plugin())
    known = new_sandbox_id()
    address = hold(lab, known, before_boot=True)
    assert await lab.network().sweep({known}, everything=True) == []
    assert lab.held_addresses() == [address]


async def test_a_network_that_wants_no_garbage_collection_is_let_alone(lab: CniLab) -> None:
    lab.configure(lab.bridge_plugin(), lab.recorder("two"), version="1.1.0", disableGC=True)
    address = hold(lab, "of-before", before_boot=True)
    assert await lab.network().sweep((), everything=True) == []
    assert lab.held_addresses() == [address]
    assert lab.calls("GC") == []


async def test_nothing_is_attached_or_detached_while_garbage_is_collected(
    lab: CniLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(plugins, "GC_SECONDS", 60.0)
    lab.configure(lab.recorder("one"), version="1.1.0")
    network = lab.network()
    first, second = lab.namespaces.make().pod(), lab.namespaces.make().pod()
    await network.attach(first, no_stage)
    hanging = lab.directory / "one.HANG.GC"
    hanging.touch()
    async with bounded():
        sweeping = asyncio.ensure_future(network.sweep({first.id}))
        child = await collecting(lab)
        waiting = [
            asyncio.ensure_future(network.attach(second, no_stage)),
            asyncio.ensure_future(network.detach(first)),
        ]
        hanging.unlink()
        done, _ = await asyncio.wait(waiting, timeout=0.3)
        assert not done
        assert len(lab.calls("ADD", "DEL")) == 1
        os.kill(child, signal.SIGTERM)
        await asyncio.gather(sweeping, *waiting)
    assert {call["command"] for call in lab.calls("ADD", "DEL")[1:]} == {"ADD", "DEL"}


async def test_a_pod_waits_for_a_gc_that_hangs_for_a_moment_only_whatever_time_plugins_have(
    lab: CniLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(gc, "ALONE_SECONDS", 60.0)
    monkeypatch.setattr(plugins, "GC_SECONDS", 1000.0)
    lab.configure(lab.recorder("one"), version="1.1.0", name="a")
    lab.configure(lab.recorder("two"), version="1.1.0", name="b")
    network = lab.network(cni_networks=0, plugin_timeout=1000.0)
    first, second = lab.namespaces.make().pod(), lab.namespaces.make().pod()
    await network.attach(first, no_stage)
    hanging = lab.directory / "one.HANG.GC"
    hanging.touch()
    async with bounded():
        sweeping = asyncio.ensure_future(network.sweep({first.id}))
        child = await collecting(lab)
        await network.attach(second, no_stage)
        assert not is_running(child), "it had ended before anything was attached"
        with pytest.raises(
            Unavailable, match=r"garbage of network a: cancelled, as pods have waited"
        ) as told:
            await sweeping
        assert "try again later; released by then: nothing" in str(told.value)
        hanging.unlink()
        assert await network.sweep({first.id}) == []
    heard = [(call["plugin"], len(call["input"]["cni.dev/valid-attachments"])) for call in lab.calls("GC")]
    assert heard == [("one", 1), ("two", 2), ("one", 2), ("two", 2)]


async def test_a_gc_that_hangs_while_nobody_waits_is_killed_after_its_own_time(
    lab: CniLab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugins, "GC_SECONDS", 0.5)
    lab.configure(lab.recorder("one"), lab.recorder("two"), version="1.1.0")
    (lab.directory / "one.HANG.GC").touch()
    async with bounded():
        assert await lab.network(plugin_timeout=1000.0).sweep(()) == []
    assert (
        "garbage of network test-net stays: cni plugin one GC: no answer within 0.5 s, killed" in caplog.text
    )
    assert [call["plugin"] for call in lab.calls("GC")] == ["one", "two"]


async def test_an_address_of_a_pod_that_comes_while_addresses_are_swept_stays(
    lab: CniLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.configure(lab.bridge_plugin())
    network = lab.network()
    newcomer = lab.namespaces.make().pod()
    loop, allocations = asyncio.get_running_loop(), Store.allocations

    def attach_before(store: Store) -> list[Allocation]:
        attaching = network.attach(newcomer, no_stage)
        asyncio.run_coroutine_threadsafe(attaching, loop).result(timeout=60)
        return allocations(store)

    monkeypatch.setattr(Store, "allocations", attach_before)
    async with bounded():
        assert await network.sweep((), everything=True) == []
    assert len(lab.held_addresses()) == 1
    await network.detach(newcomer)


async def collecting(lab: CniLab) -> int:
    """Wait until a plugin hangs at its GC; what it runs."""
    child = lab.directory / "child"
    await until(lambda: child.exists() and child.read_text().endswith("\n"))
    return int(child.read_text())


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
