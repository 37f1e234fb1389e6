"""The port `PodNetworks`: in memory, the built-in bridge, and CNI; each with link and range of its own."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Protocol

import pytest

from crib.backends.network.bridge.addresses import AddressBook
from crib.backends.network.bridge.network import BridgeNetwork
from crib.host import links
from crib.host.netlink import Netlink
from crib.host.nftables import Nftables
from crib.model.errors import CribError, Exhausted, InvalidRequest
from crib.model.ids import new_sandbox_id
from crib.model.sandbox import PodMetadata
from crib.model.settings import NetworkSettings
from crib.ports.networks import PodNetwork, PodNetworks
from tests.fakes.networks import FakeNetworks
from tests.fakes.world import bounded
from tests.system.labs.cni_lab import CniLab, in_pod
from tests.system.labs.pod_namespaces import PodNamespace, PodNamespaces, no_stage


class Subject(Protocol):
    """What is put to the test: a network, as the first process and the next ones make it."""

    no_address: type[CribError]
    """What is raised when the range has no address left: plugins have no word for it."""
    needs_ipv4: bool

    def begin(self) -> PodNetworks: ...

    def pod(self) -> PodNetwork: ...

    def damage(self, pod: PodNetwork) -> None:
        """Have the pod lose its interface."""
        ...


class FakeSubject:
    no_address: type[CribError] = Exhausted
    needs_ipv4 = True

    def __init__(self, subnet: IPv4Network) -> None:
        self._network = FakeNetworks(str(subnet))

    def begin(self) -> PodNetworks:
        return self._network.restarted()

    def pod(self) -> PodNetwork:
        return PodNetwork(new_sandbox_id(), PodMetadata("web", "uid", "default"), "/ns")

    def damage(self, pod: PodNetwork) -> None:
        self._network.problems[pod.id] = "its interface is gone"


@dataclass
class Pods:
    """Pods with namespaces, and the damage to them."""

    namespaces: PodNamespaces
    made: dict[str, PodNamespace] = field(default_factory=dict)

    def pod(self) -> PodNetwork:
        namespace = self.namespaces.make()
        self.made[namespace.id] = namespace
        # Host names are one a pod, and the bridge may answer for them.
        metadata = PodMetadata(f"web-{len(self.made)}", namespace.id[:8], "default")
        return replace(namespace.pod(), metadata=metadata)

    def damage(self, pod: PodNetwork) -> None:
        in_pod(self.made[pod.id], lambda netlink: links.delete_link(netlink, "eth0"))


class BridgeSubject(Pods):
    no_address: type[CribError] = Exhausted
    needs_ipv4 = True

    def __init__(self, subnet: IPv4Network, directory: Path, connection: sqlite3.Connection) -> None:
        super().__init__(PodNamespaces(str(directory)))
        self.settings = NetworkSettings(bridge=f"cbc{secrets.token_hex(4)}")
        self._state_dir = str(directory / "network")
        self._subnet = subnet
        self._connection = connection

    def begin(self) -> PodNetworks:
        return BridgeNetwork(self.settings, AddressBook(self._connection, self._subnet), self._state_dir)

    def remove(self) -> None:
        self.namespaces.unpin_all()
        with Netlink() as netlink:
            links.delete_link(netlink, self.settings.bridge)
        nftables = Nftables()
        for family in ("inet", "bridge"):
            nftables.delete_table(f"crib_{self.settings.bridge}", family)
        nftables.close()


class CniSubject(Pods):
    no_address: type[CribError] = CribError
    needs_ipv4 = False

    def __init__(self, subnet: IPv4Network, directory: Path) -> None:
        self._lab = CniLab(directory)
        super().__init__(self._lab.namespaces)
        self._lab.configure(self._lab.bridge_plugin("ips", "ipRanges", ranges=[]))
        (directory / "kept").mkdir()
        (directory / "kept" / "pod-cidr").write_text(str(subnet))

    def begin(self) -> PodNetworks:
        return self._lab.network(ip_preference="ipv4")

    def remove(self) -> None:
        self._lab.remove()


@dataclass
class NetworkLab:
    """A network over a range of six addresses for pods or a little fewer, and pods for it."""

    subject: Subject
    subnet: IPv4Network
    network: PodNetworks

    def pod(self) -> PodNetwork:
        return self.subject.pod()

    async def restart(self) -> None:
        """The daemon was killed, and another one begins."""
        await self.network.close()
        self.network = self.subject.begin()


@contextlib.contextmanager
def subject_of(kind: str, subnet: IPv4Network, directory: Path) -> Iterator[Subject]:
    if kind == "fake":
        yield FakeSubject(subnet)
        return
    with contextlib.closing(sqlite3.connect(directory / "test.db", isolation_level=None)) as connection:
        made = (
            CniSubject(subnet, directory) if kind == "cni" else BridgeSubject(subnet, directory, connection)
        )
        try:
            yield made
        finally:
            made.remove()


@pytest.fixture(params=["fake", *(pytest.param(kind, marks=pytest.mark.root) for kind in ("bridge", "cni"))])
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[NetworkLab]:
    subnet = IPv4Network(f"10.{20 + secrets.randbelow(200)}.{secrets.randbelow(256)}.0/29")
    with subject_of(request.param, subnet, tmp_path) as subject:
        made = NetworkLab(subject, subnet, subject.begin())
        yield made
        await made.network.close()


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
        with pytest.raises(lab.subject.no_address):  # noqa: PT012  # at which of them it ends is the range's matter
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
        await lab.restart()
        told = await lab.network.sweep({kept.id})
        assert any(lost.id in line for line in told)
        assert not any(kept.id in line for line in told)
        assert [line for line in await lab.network.sweep({kept.id}) if "address" in line] == []
        assert await lab.network.check(kept) == ""


async def test_what_was_attached_since_the_start_is_known_whoever_asks_for_what_not(lab: NetworkLab) -> None:
    pod = lab.pod()
    async with bounded():
        (address,) = (await lab.network.attach(pod, no_stage)).addresses
        told = await lab.network.sweep((), everything=True)
        assert [line for line in told if pod.id in line or address in line] == []
        assert await lab.network.check(pod) == ""


async def test_usage_is_of_the_interfaces_of_all_pods_that_have_any(lab: NetworkLab) -> None:
    pods, gone = (lab.pod(), lab.pod()), PodNetwork(new_sandbox_id(), PodMetadata("", "", ""), "/nowhere")
    async with bounded():
        for pod in pods:
            await lab.network.attach(pod, no_stage)
        usage = await lab.network.usage((pods[0], gone, pods[1]))
    assert usage.keys() == {pod.id for pod in pods}
    for pod in pods:
        assert [interface.name for interface in usage[pod.id].interfaces] == ["eth0"]
        assert usage[pod.id].at > 0


async def test_the_network_is_ready(lab: NetworkLab) -> None:
    async with bounded():
        assert (await lab.network.readiness()).ready


async def test_a_check_finds_nothing_wrong_until_something_is(lab: NetworkLab) -> None:
    pod = lab.pod()
    async with bounded():
        assert await lab.network.check(pod) != ""
        await lab.network.attach(pod, no_stage)
        assert await lab.network.check(pod) == ""
        lab.subject.damage(pod)
        assert await lab.network.check(pod) != ""


async def test_a_repair_makes_the_network_anew_with_the_same_address(lab: NetworkLab) -> None:
    pod, other = lab.pod(), lab.pod()
    async with bounded():
        before = await lab.network.attach(pod, no_stage)
        await lab.network.attach(other, no_stage)
        lab.subject.damage(pod)
        after = await lab.network.repair(pod, no_stage)
        assert (after.addresses, after.interface) == (before.addresses, before.interface)
        assert await lab.network.check(pod) == ""
        assert await lab.network.check(other) == ""
        await lab.network.repair(pod, no_stage)  # of what is whole
        assert await lab.network.check(pod) == ""


async def test_networks_tell_how_many_pods_are_attached(lab: NetworkLab) -> None:
    pod = lab.pod()
    async with bounded():
        found = [*await lab.network.networks()]
        await lab.network.attach(pod, no_stage)
        found += await lab.network.networks()
        await lab.network.detach(pod)
        found += await lab.network.networks()
    assert [network.attached for network in found] == [0, 1, 0]
    for network in found:
        assert (network.interface, network.problem) == ("eth0", "")
        assert str(lab.subnet) in network.subnets


async def test_a_view_shows_the_attached_interface_with_its_address(lab: NetworkLab) -> None:
    pod = lab.pod()
    async with bounded():
        assert (await lab.network.view(pod)).networks == ()
        (address,) = (await lab.network.attach(pod, no_stage)).addresses
        view = await lab.network.view(pod)
        (network,) = await lab.network.networks()
    assert view.networks == (network.name,)
    (interface,) = view.interfaces
    assert (interface.name, interface.up) == ("eth0", True)
    assert address in {text.partition("/")[0] for text in interface.addresses}
    assert [route.interface for route in view.routes if route.destination == "default"] == ["eth0"]


async def test_a_network_without_names_of_its_own_has_no_resolver(lab: NetworkLab) -> None:
    assert lab.network.resolver("default") is None


async def test_the_range_that_was_told_is_remembered(lab: NetworkLab) -> None:
    other = IPv4Network(f"10.{20 + secrets.randbelow(200)}.{secrets.randbelow(256)}.0/28")
    async with bounded():
        await lab.network.configure(str(other))
        await lab.restart()
        attachment = await lab.network.attach(lab.pod(), no_stage)
    assert IPv4Address(attachment.addresses[0]) in other


async def test_a_new_range_is_used_from_then_on_and_nonsense_refused(lab: NetworkLab) -> None:
    other = IPv4Network(f"10.{20 + secrets.randbelow(200)}.{secrets.randbelow(256)}.0/28")
    async with bounded():
        await lab.network.configure("")
        await lab.network.configure(f"fd00::/64,{other}")
        attachment = await lab.network.attach(lab.pod(), no_stage)
        with pytest.raises(InvalidRequest):
            await lab.network.configure("nonsense")
        if lab.subject.needs_ipv4:
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
