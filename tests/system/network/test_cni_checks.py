"""Checks and repairs of pods' CNI networks, with the reference plugins."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crib.host import links
from crib.host.netlink import Netlink
from crib.model.errors import Broken
from tests.system.labs.cni_lab import CniLab, in_pod
from tests.system.labs.pod_namespaces import no_stage

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CniLab]:
    made = CniLab(tmp_path)
    yield made
    made.remove()


def lose_interface(netlink: Netlink) -> None:
    links.delete_link(netlink, "eth0")


def lose_address(netlink: Netlink) -> None:
    """The thread is in the pod's namespace, and so is what it starts."""
    subprocess.run(["ip", "address", "flush", "dev", "eth0"], check=True, timeout=30)


@pytest.mark.parametrize("version", ["0.3.1", "1.0.0"])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lose_interface, "network test-net: interface eth0 is gone"),
        (lose_address, "network test-net: interface eth0 has lost its address {address}"),
    ],
)
async def test_damage_is_seen_whether_plugins_can_check_or_not(
    lab: CniLab, version: str, damage: Callable[[Netlink], None], told: str
) -> None:
    lab.configure(lab.bridge_plugin(), version=version, disableCheck=True)
    network = lab.network()
    namespace = lab.namespaces.make()
    (address,) = (await network.attach(namespace.pod(), no_stage)).addresses
    assert await network.check(namespace.pod()) == ""
    in_pod(namespace, damage)
    assert await network.check(namespace.pod()) == told.format(address=address)
    await network.detach(namespace.pod())


async def test_what_the_reference_plugins_find_is_told_with_plugin_and_code(lab: CniLab) -> None:
    lab.configure(lab.bridge_plugin())
    network = lab.network()
    namespace = lab.namespaces.make()
    (address,) = (await network.attach(namespace.pod(), no_stage)).addresses
    (lab.directory / "ipam" / "test-net" / address).unlink()
    told = await network.check(namespace.pod())
    assert told.startswith("cni plugin bridge CHECK: ")
    assert "(code " in told


async def test_check_has_the_result_of_add_and_each_plugins_refusal_is_told(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"), lab.bridge_plugin())
    network = lab.network()
    pod = lab.namespaces.make().pod()
    (address,) = (await network.attach(pod, no_stage)).addresses
    assert await network.check(pod) == ""
    (call,) = lab.calls("CHECK")
    assert call["input"]["prevResult"]["ips"][0]["address"].startswith(f"{address}/")
    lab.fail("one", "CHECK")
    assert await network.check(pod) == "cni plugin one CHECK: no hard feelings; really (code 7)"
    lab.fail("one", "CHECK", code=4)  # it does not know the command
    assert await network.check(pod) == ""
    await network.detach(pod)


async def test_portmap_is_not_believed_on_the_family_that_a_pod_has_no_address_of(lab: CniLab) -> None:
    lab.configure(lab.recorder("portmap"), lab.bridge_plugin())
    network = lab.network()
    pod = lab.namespaces.make().pod()
    await network.attach(pod, no_stage)
    told = "could not check {} dnat: chain CNI-DN-00 not found in iptables table nat"
    lab.fail("portmap", "CHECK", code=999, message=told.format("ipv6"))
    assert await network.check(pod) == ""
    lab.fail("portmap", "CHECK", code=999, message=told.format("ipv4"))
    assert "could not check ipv4 dnat" in await network.check(pod)
    await network.detach(pod)


@pytest.mark.parametrize(("version", "disabled"), [("0.3.1", False), ("1.0.0", True)])
async def test_plugins_are_not_asked_where_the_network_has_no_check(
    lab: CniLab, version: str, disabled: bool
) -> None:
    lab.configure(lab.recorder("one"), lab.bridge_plugin(), version=version, disableCheck=disabled)
    network = lab.network()
    pod = lab.namespaces.make().pod()
    await network.attach(pod, no_stage)
    assert await network.check(pod) == ""
    assert lab.calls("CHECK") == []


async def test_a_pod_without_result_or_namespace_is_told_so(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"))
    network = lab.network()
    namespace = lab.namespaces.make()
    assert await network.check(namespace.pod()) == "no result of ADD is kept"
    lab.fail("one", "ADD")
    with pytest.raises(Broken):
        await network.attach(namespace.pod(), no_stage)
    assert await network.check(namespace.pod()) == "network test-net: no result of ADD is kept"
    lab.kept_file(namespace).write_text("{")
    assert "cannot be read" in await network.check(namespace.pod())


async def test_a_namespace_that_is_gone_is_told(lab: CniLab) -> None:
    lab.configure(lab.bridge_plugin())
    network = lab.network()
    namespace = lab.namespaces.make()
    await network.attach(namespace.pod(), no_stage)
    namespace.unpin()
    assert await network.check(namespace.pod()) == f"the network namespace {namespace.path} is gone"


async def test_a_repair_gives_the_pod_its_address_again_where_plugins_can(lab: CniLab) -> None:
    lab.configure(lab.bridge_plugin("ips"))
    network = lab.network()
    namespace, other = lab.namespaces.make(), lab.namespaces.make()
    before = await network.attach(namespace.pod(), no_stage)
    await network.attach(other.pod(), no_stage)
    in_pod(namespace, lose_interface)
    assert await network.repair(namespace.pod(), no_stage) == before
    assert await network.check(namespace.pod()) == ""
    assert len(lab.held_addresses()) == 2
    await network.detach(namespace.pod())
    assert len(lab.held_addresses()) == 1


async def test_a_repair_gives_a_new_address_where_the_old_one_is_taken(lab: CniLab) -> None:
    lab.configure(lab.bridge_plugin("ips"))
    network = lab.network()
    namespace = lab.namespaces.make()
    (before,) = (await network.attach(namespace.pod(), no_stage)).addresses
    held = lab.directory / "ipam" / "test-net" / before
    held.write_text("somebody\neth0")
    in_pod(namespace, lose_interface)
    (after,) = (await network.repair(namespace.pod(), no_stage)).addresses
    assert after != before
    assert await network.check(namespace.pod()) == ""
    assert lab.held_addresses() == sorted([before, after])


async def test_a_repair_goes_on_after_a_failed_del_and_takes_the_configuration_of_today(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"), lab.bridge_plugin())
    network = lab.network()
    namespace = lab.namespaces.make()
    await network.attach(namespace.pod(), no_stage)
    lab.fail("one", "DEL")
    lab.configure(lab.bridge_plugin(), name="test-net")
    assert (await network.repair(namespace.pod(), no_stage)).details == {"network": "test-net"}
    assert await network.check(namespace.pod()) == ""
    await network.detach(namespace.pod())
    assert len(lab.calls("DEL")) == 1
    assert lab.held_addresses() == []
