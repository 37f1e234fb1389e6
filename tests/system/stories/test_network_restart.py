"""Pods' networks when cribd or the machine ends, or when somebody takes things away from the kernel."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.host.nftables import Nftables
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, until
from tests.system.labs.network_lab import (
    CniLab,
    LabCribd,
    LabHost,
    UnattendedCribd,
    both_families,
    check,
    cni_lab,
    cribd_on,
    inspect,
    network_ready,
    pod_namespace,
)
from tests.system.labs.power_cuts import power_cut

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CniLab]:
    with cni_lab(tmp_path_factory.mktemp("restart")) as made:
        made.write(made.bridge())
        yield made


@pytest.fixture
def cribd(lab: CniLab) -> Iterator[LabCribd]:
    """In CNI mode."""
    with cribd_on(lab.host, lab.settings()) as daemon:
        yield daemon


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LabHost]:
    made = LabHost(tmp_path)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def bridged(host: LabHost) -> Iterator[LabCribd]:
    """On the built-in bridge, with both families."""
    with cribd_on(host, BRIDGED, warm=False) as daemon:
        yield daemon


BRIDGED = """
mode = "bridge"
bridge = "br0"
subnet = "10.87.0.0/24"
subnet6 = "fd00:87::/64"
"""
GATEWAY = "10.87.0.1"


@pytest.fixture(scope="module")
def shared_bridged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabCribd]:
    """The same for those who leave the daemon alone, and want it to do nothing by itself."""
    host = LabHost(tmp_path_factory.mktemp("bridged"))
    try:
        with cribd_on(host, BRIDGED, kind=UnattendedCribd) as daemon:
            yield daemon
    finally:
        host.remove()


@pytest.fixture
async def damaged(shared_bridged: LabCribd) -> AsyncIterator[LabCribd]:
    """What the pod of the test before had is gone, and what this one's has goes."""
    await until(lambda: set(shared_bridged.host.interfaces()) == {"lo", "br0"})
    async with shared_bridged.story():
        yield shared_bridged


def allocate(lab: CniLab, address: str, owner: str, *, before_boot: bool) -> Path:
    """An allocation as host-local writes them: of another runtime, or of pods that a boot has ended."""
    path = lab.ipam / "test-net" / address
    path.write_text(f"{owner}\r\neth0")
    if before_boot:
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        os.utime(path, (boot - 100, boot - 100))
    return path


async def collect(cri: Cri, *, everything: bool) -> list[str]:
    request = node_pb2.CollectNetworkGarbageRequest(everything=everything)
    return list((await cri.call(cri.node.CollectNetworkGarbage, request)).released)


async def test_allocations_of_before_the_boot_go_at_the_start_and_younger_ones_of_others_on_demand(
    lab: CniLab, cribd: LabCribd
) -> None:
    async with cribd.connect() as cri:
        pod = await cri.run_pod("kept")
        own = (await cri.pod_status(pod)).network.ip
    allocate(lab, "10.88.0.200", "a" * 64, before_boot=True)
    allocate(lab, "10.88.0.201", "b" * 64, before_boot=False)
    allocate(lab, own, pod.id, before_boot=True)  # ours all the same
    cribd.kill()
    cribd.start()
    async with cribd.connect() as cri:
        await until(lambda: lab.held_addresses() == sorted([own, "10.88.0.201"]))  # swept behind the gate
        assert (await cri.pod_status(pod)).state == pb.SANDBOX_READY
        assert not [what for what in await collect(cri, everything=False) if "10.88.0.201" in what]
        assert lab.held_addresses() == sorted([own, "10.88.0.201"])
        assert [what for what in await collect(cri, everything=True) if "10.88.0.201" in what]
        assert lab.held_addresses() == [own]
        await cri.remove_pod(pod)
        assert lab.held_addresses() == []


@pytest.mark.parametrize("kept", [True, False])
async def test_pods_whose_rows_are_lost_give_back_their_addresses_after_a_reboot(
    lab: CniLab, cribd: LabCribd, *, kept: bool
) -> None:
    async with cribd.connect() as cri:
        pods = [await cri.run_pod(name) for name in ("one", "two")]
        addresses = [(await cri.pod_status(pod)).network.ip for pod in pods]
    power_cut(cribd)
    lose_rows(cribd)
    if not kept:
        for path in (cribd.data / "network").glob("*.json"):
            path.unlink()
        for pod, address in zip(pods, addresses, strict=True):
            allocate(lab, address, pod.id, before_boot=True)
    assert lab.held_addresses() == sorted(addresses)
    cribd.start()
    async with cribd.connect() as cri:
        assert await cri.sandboxes() == {}
        await until(lambda: lab.held_addresses() == [])  # swept behind the gate
        await cri.remove_pod(await cri.run_pod("next"))


def lose_rows(cribd: LabCribd) -> None:
    """A database that a power cut took, after `power_cut`."""
    for suffix in ("", "-wal", "-shm"):
        cribd.database.with_name(f"crib.db{suffix}").unlink(missing_ok=True)


async def test_after_a_reboot_del_is_run_for_every_pod_with_what_was_kept(
    lab: CniLab, cribd: LabCribd
) -> None:
    first = lab.bridge(type="first", delegate="bridge")
    lab.write(first)
    async with cribd.connect() as cri:
        pods = [await cri.run_pod(name) for name in ("one", "two")]
    power_cut(cribd)
    lab.write({**first, "bridge": "br9"}, name="of-the-next-boot")
    lab.fail("first", "DEL", "1*error(7, no luck today, really)")
    cribd.start()
    async with cribd.connect() as cri:
        assert {s.state for s in (await cri.sandboxes()).values()} == {pb.SANDBOX_NOTREADY}
        assert {call["id"] for call in lab.calls("DEL", "first")} == {pod.id for pod in pods}
        assert {call["config"]["name"] for call in lab.calls("DEL")} == {"test-net"}
        assert len(lab.held_addresses()) == 1  # that of the one that failed
        for pod in pods:
            await cri.remove_pod(pod)
        assert lab.held_addresses() == []


PORT = 18080


async def web_pod(cri: Cri, name: str, port: int = 0) -> tuple[Pod, str, str]:
    """A pod with a web server: itself, its container, its address."""
    ports = [pb.PortMapping(container_port=8080, host_port=port)] if port else []
    pod = await cri.run_pod(name, port_mappings=ports)
    box = await cri.run_container(pod, "httpd", "-f", "-p", "[::]:8080", "-h", "/etc")
    address = (await cri.pod_status(pod)).network.ip
    assert await until(lambda: cri.cribd.host.page(address, 8080)) == name  # type: ignore[attr-defined]
    return pod, box, address


def nft(cribd: LabCribd, command: str) -> None:
    """`nft COMMAND`, where TABLE is the daemon's."""

    def run() -> None:
        nftables = Nftables()
        try:
            nftables.run(command.replace("TABLE", f"inet crib_{cribd.bridge}"), table="*", what=command)
        finally:
            nftables.close()

    cribd.host.inside(run)


def flush_rules(cribd: LabCribd) -> None:
    nft(cribd, "flush ruleset")


def in_pod(cribd: LabCribd, pod: Pod, words: str) -> None:
    """`ip WORDS` in the pod's namespace."""
    cribd.host.run("nsenter", f"--net={pod_namespace(cribd, pod)}", "ip", *words.split())


def state(cribd: LabCribd) -> tuple[frozenset[str], str]:
    """What the host's network is, and whether it forwards."""
    return cribd.host.state(), cribd.host.run("cat", "/proc/sys/net/ipv4/ip_forward")


Damage = Callable[[LabCribd, Pod, str], object]
DAMAGES: dict[str, Damage] = {
    "rules flushed": lambda cribd, _pod, _link: flush_rules(cribd),
    "masquerade flushed": lambda cribd, _pod, _link: nft(cribd, "flush chain TABLE postrouting"),
    "port flushed": lambda cribd, _pod, _link: nft(cribd, "flush map TABLE ports_any"),
    "range flushed": lambda cribd, _pod, _link: nft(cribd, "flush set TABLE pods"),
    "forwarding off": lambda cribd, _pod, _link: cribd.host.sysctl("net.ipv4.ip_forward", 0),
    "link deleted": lambda cribd, _pod, link: cribd.host.ip(f"link delete {link}"),
    "link off the bridge": lambda cribd, _pod, link: cribd.host.ip(f"link set {link} nomaster"),
    "link down": lambda cribd, _pod, link: cribd.host.ip(f"link set {link} down"),
    "bridge deleted": lambda cribd, _pod, _link: cribd.host.ip(f"link delete {cribd.bridge}"),
    "bridge down": lambda cribd, _pod, _link: cribd.host.ip(f"link set {cribd.bridge} down"),
    "gateway gone": lambda cribd, _pod, _link: cribd.host.ip(f"address flush dev {cribd.bridge}"),
    "addresses gone": lambda cribd, pod, _link: in_pod(cribd, pod, "address flush dev eth0"),
    "address gone": lambda cribd, pod, _link: in_pod(cribd, pod, "-6 address flush dev eth0 scope global"),
    "route gone": lambda cribd, pod, _link: in_pod(cribd, pod, "route delete default"),
    "second route gone": lambda cribd, pod, _link: in_pod(cribd, pod, "-6 route delete default"),
    "interface down": lambda cribd, pod, _link: in_pod(cribd, pod, "link set eth0 down"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_somebody_took_away_is_found_and_repaired_with_the_same_address(
    damaged: LabCribd, damage: str
) -> None:
    async with damaged.connect() as cri:
        pod, box, _ = await web_pod(cri, "web", PORT)
        addresses = both_families(await cri.pod_status(pod))
        assert await until(lambda: damaged.host.page(GATEWAY, PORT)) == "web"
        assert (await check(cri, pod))[pod.id].problem == ""
        (link,) = [
            item.host_interface for item in (await inspect(cri, pod)).interfaces if item.name == "eth0"
        ]
        before = state(damaged)
        DAMAGES[damage](damaged, pod, link)
        found = (await check(cri, pod))[pod.id]
        assert found.problem
        assert not found.repaired
        mended = (await check(cri, pod, repair=True))[pod.id]
        assert (mended.problem, mended.repaired, mended.repair_error) == (found.problem, True, "")
        assert (await check(cri, pod))[pod.id].problem == ""
        await until(lambda: state(damaged) == before)
        assert both_families(await cri.pod_status(pod)) == addresses
        for address in addresses:
            assert await until(lambda at=address: damaged.host.page(at, 8080)) == "web"
        assert await until(lambda: damaged.host.page(GATEWAY, PORT)) == "web"
        assert f"default via {GATEWAY}" in await cri.sh(box, "ip route")
        assert "default via fd00:87::1" in await cri.sh(box, "ip -6 route")
        await cri.remove_pod(pod)
        assert await damaged.host.page(GATEWAY, PORT) == ""


SHARED = [
    "rules flushed",
    "masquerade flushed",
    "port flushed",
    "range flushed",
    "forwarding off",
    "bridge down",
]


@pytest.mark.parametrize("damage", [*SHARED, "gateway gone"])
async def test_what_pods_share_is_put_back_when_a_kubelet_asks_for_the_status(
    damaged: LabCribd, damage: str
) -> None:
    async with damaged.connect() as cri:
        pod, *_ = await web_pod(cri, "web", PORT)
        before = state(damaged)
        DAMAGES[damage](damaged, pod, "")
        assert state(damaged) != before
        assert (await network_ready(cri)).status
        await until(lambda: state(damaged) == before)
        assert await until(lambda: damaged.host.page(GATEWAY, PORT)) == "web"


async def test_rules_that_are_lost_while_cribd_is_down_come_back_with_all_ports(bridged: LabCribd) -> None:
    async with bridged.connect() as cri:
        pod, _, address = await web_pod(cri, "web", PORT)
        other, *_ = await web_pod(cri, "other")
    bridged.kill()
    assert await until(lambda: bridged.host.page(GATEWAY, PORT)) == "web"
    flush_rules(bridged)
    assert await bridged.host.page(GATEWAY, PORT) == ""
    bridged.start()
    async with bridged.connect() as cri:
        found = await check(cri, repair=True)
        assert set(found) == {pod.id, other.id}
        assert [item for item in found.values() if item.problem and not item.repaired] == []
        assert await until(lambda: bridged.host.page(GATEWAY, PORT)) == "web"
        assert (await cri.pod_status(pod)).network.ip == address
        with pytest.raises(ClientError, match=str(PORT)):
            await cri.run_pod("late", port_mappings=[pb.PortMapping(container_port=80, host_port=PORT)])


async def test_a_bridge_that_is_gone_at_the_start_is_made_anew_and_all_pods_can_be_repaired(
    bridged: LabCribd,
) -> None:
    async with bridged.connect() as cri:
        pods = [await web_pod(cri, name) for name in ("one", "two")]
    bridged.kill()
    bridged.host.ip(f"link delete {bridged.bridge}")
    flush_rules(bridged)
    bridged.start()
    async with bridged.connect() as cri:
        assert (await network_ready(cri)).status
        found = await check(cri)
        assert all(found[pod.id].problem for pod, *_ in pods)
        assert all(item.repaired for item in (await check(cri, repair=True)).values())
        for pod, _, address in pods:
            assert (await cri.pod_status(pod)).network.ip == address
            assert await until(lambda at=address: bridged.host.page(at, 8080))
        assert all(not item.problem for item in (await check(cri)).values())


async def test_a_cni_network_is_repaired_by_del_and_add(lab: CniLab, cribd: LabCribd) -> None:
    async with cribd.story() as cri:
        before = lab.traces(cribd)
        pod, box, _ = await web_pod(cri, "web")
        in_pod(cribd, pod, "link delete eth0")
        assert (await check(cri, pod))[pod.id].problem
        mended = (await check(cri, pod, repair=True))[pod.id]
        assert (mended.repaired, mended.repair_error) == (True, "")
        address = (await cri.pod_status(pod)).network.ip
        assert lab.held_addresses() == [address]
        assert f"{address}/24" in await cri.sh(box, "ip -4 address show dev eth0")
        assert await until(lambda: lab.host.page(address, 8080)) == "web"
        assert (await check(cri, pod))[pod.id].problem == ""
        await cri.remove_pod(pod)
        await lab.as_before(cribd, before)


async def test_a_periodic_check_repairs_by_itself_where_the_settings_say_so(host: LabHost) -> None:
    network = (
        'mode = "bridge"\nbridge = "br0"\nsubnet = "10.87.0.0/24"\ncheck_interval = 0.1\nrepair = true\n'
    )
    with cribd_on(host, network, warm=False) as cribd:
        async with cribd.connect() as cri:
            pod, _, address = await web_pod(cri, "web", PORT)
            flush_rules(cribd)
            assert await until(lambda: host.page(GATEWAY, PORT)) == "web"
            in_pod(cribd, pod, "link delete eth0")
            assert await until(lambda: host.page(address, 8080)) == "web"
            assert (await cri.pod_status(pod)).network.ip == address


async def test_a_plugin_whose_check_never_passes_does_not_have_its_pod_made_anew_again_and_again(
    lab: CniLab,
) -> None:
    lab.write(lab.bridge(), {"type": "third"})
    lab.fail("third", "CHECK", "silent(2)")  # as Debian's bandwidth does for pods without a limit
    with cribd_on(lab.host, lab.settings(check_interval=0.1, repair=True)) as cribd:
        async with cribd.connect() as cri:
            pod = await cri.run_pod("doubted")
            await until(lambda: len([c for c in lab.calls("CHECK") if c["id"] == pod.id]) >= 8, 120)
            assert len([call for call in lab.calls("ADD") if call["id"] == pod.id]) <= 2
