"""The port `PodNetworks`: in memory, and the built-in bridge with link, range and table of its own."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from crib.backends.network.addresses import AddressBook
from crib.backends.network.bridge import BridgeNetwork, BridgeSettings
from crib.host import links
from crib.host.netlink import Netlink
from crib.host.nftables import Nftables
from crib.model.errors import Exhausted, InvalidRequest
from crib.model.ids import new_sandbox_id
from crib.model.sandbox import PodMetadata
from crib.ports import PodNetwork, PodNetworks
from tests.fakes.networks import FakeNetworks
from tests.fakes.world import bounded
from tests.system.pod_namespaces import PodNamespaces, no_stage


@dataclass
class NetworkLab:
    """A network over a range of six addresses for pods or a little more, and pods for it."""

    network: PodNetworks
    subnet: IPv4Network
    namespaces: PodNamespaces | None = None
    made: list[PodNetwork] = field(default_factory=list)

    def pod(self) -> PodNetwork:
        if self.namespaces is None:
            return PodNetwork(new_sandbox_id(), PodMetadata("web", "uid", "default"), "/ns")
        return self.namespaces.make().pod()


@pytest.fixture(params=["fake", pytest.param("bridge", marks=pytest.mark.root)])
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[NetworkLab]:
    subnet = IPv4Network(f"10.{20 + secrets.randbelow(200)}.{secrets.randbelow(256)}.0/29")
    if request.param == "fake":
        yield NetworkLab(FakeNetworks(str(subnet)), subnet)
        return
    settings = BridgeSettings(name=f"cbc{secrets.token_hex(4)}", table=f"crib_{secrets.token_hex(4)}")
    connection = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    network = BridgeNetwork(settings, AddressBook(connection, subnet))
    namespaces = PodNamespaces(str(tmp_path))
    yield NetworkLab(network, subnet, namespaces)
    namespaces.unpin_all()
    await network.close()
    with Netlink() as netlink:
        links.delete_link(netlink, settings.name)
    nftables = Nftables()
    nftables.delete_table(settings.table)
    nftables.close()
    connection.close()


async def test_an_attached_pod_has_an_address_of_the_range_of_its_own(lab: NetworkLab) -> None:
    async with bounded():
        one = await lab.network.attach(lab.pod(), no_stage)
        two = await lab.network.attach(lab.pod(), no_stage)
    assert one.interface == "eth0"
    assert one.addresses != two.addresses
    for attachment in (one, two):
        assert IPv4Address(attachment.addresses[0]) in lab.subnet


async def test_detach_gives_the_address_back_and_again_is_fine(lab: NetworkLab) -> None:
    seen = set()
    async with bounded():
        for _ in range(12):  # twice the range: what is not given back is missing soon
            pod = lab.pod()
            seen.add((await lab.network.attach(pod, no_stage)).addresses[0])
            await lab.network.detach(pod)
            await lab.network.detach(pod)
    assert len(seen) <= 6


async def test_detach_of_what_was_never_attached_is_fine(lab: NetworkLab) -> None:
    async with bounded():
        await lab.network.detach(lab.pod())


async def test_a_range_without_a_free_address_is_exhausted_until_one_is_given_back(lab: NetworkLab) -> None:
    pods = [lab.pod() for _ in range(6)]
    async with bounded():
        with pytest.raises(Exhausted):  # noqa: PT012  # at which of them it ends is the range's matter
            for pod in pods:
                await lab.network.attach(pod, no_stage)
        await lab.network.detach(pods[0])
        await lab.network.detach(pods[-1])
        await lab.network.attach(lab.pod(), no_stage)


async def test_a_sweep_releases_the_pods_that_are_not_known(lab: NetworkLab) -> None:
    kept, lost = lab.pod(), lab.pod()
    async with bounded():
        await lab.network.attach(kept, no_stage)
        await lab.network.attach(lost, no_stage)
        told = await lab.network.sweep({kept.id})
        assert any(lost.id in line for line in told)
        assert not any(kept.id in line for line in told)
        assert [line for line in await lab.network.sweep({kept.id}) if "address" in line] == []


async def test_usage_is_of_the_pods_interface(lab: NetworkLab) -> None:
    pod = lab.pod()
    async with bounded():
        await lab.network.attach(pod, no_stage)
        (usage,) = await lab.network.usage(pod)
    assert usage.name == "eth0"
    assert min(usage.rx_bytes, usage.tx_bytes, usage.rx_errors, usage.tx_errors) >= 0


async def test_the_network_is_ready(lab: NetworkLab) -> None:
    async with bounded():
        assert (await lab.network.readiness()).ready


async def test_a_new_range_is_used_from_then_on_and_nonsense_refused(lab: NetworkLab) -> None:
    other = IPv4Network(f"10.{20 + secrets.randbelow(200)}.{secrets.randbelow(256)}.0/28")
    async with bounded():
        await lab.network.configure("")
        await lab.network.configure(f"fd00::/64,{other}")
        attachment = await lab.network.attach(lab.pod(), no_stage)
        with pytest.raises(InvalidRequest):
            await lab.network.configure("nonsense")
        with pytest.raises(InvalidRequest):
            await lab.network.configure("fd00::/64")
    assert IPv4Address(attachment.addresses[0]) in other


async def test_what_pods_share_is_dismantled_and_again_is_fine(lab: NetworkLab) -> None:
    pod = lab.pod()
    async with bounded():
        await lab.network.attach(pod, no_stage)
        await lab.network.detach(pod)
        await lab.network.dismantle()
        await lab.network.dismantle()
