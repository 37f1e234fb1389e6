"""Pods' networks where cribd is killed: what plugins were at, what is lost meanwhile, and who may follow."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import grpc
import pytest

from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.host.namespaces import run_in_namespace
from crib.host.nftables import Nftables
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.bridge_rig import ip
from tests.system.labs.daemon import Cri, until
from tests.system.labs.network_lab import (
    CniLab,
    LabCribd,
    LabHost,
    check,
    cni_lab,
    cribd_on,
    failing_bridge,
    network_ready,
    pod_namespace,
)

pytestmark = [pytest.mark.root, pytest.mark.system]

PORT = 18080
GATEWAY = "10.87.0.1"
BRIDGED = 'mode = "bridge"\nbridge = "br0"\nsubnet = "10.87.0.0/24"\n'


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CniLab]:
    """A bridge, an IPAM plugin and one for ports, each behind a failing one."""
    with cni_lab(tmp_path_factory.mktemp("killed")) as made:
        bridge, *_ = failing_bridge(made)
        ports = {"delegate": "portmap", "snat": True, "capabilities": {"portMappings": True}}
        made.write(bridge, {"type": "second", **ports}, cniVersion="1.1.0")
        yield made


@pytest.fixture
async def cribd(lab: CniLab) -> AsyncIterator[LabCribd]:
    with cribd_on(lab.host, lab.settings()) as daemon:
        async with daemon.connect() as cri:  # what plugins share between pods is there from now on
            await cri.remove_pod(await cri.run_pod("first", port_mappings=mapped(PORT)))
        lab.forget_calls()
        try:
            yield daemon
        finally:
            lab.no_failpoints()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LabHost]:
    made = LabHost(tmp_path)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def bridged(host: LabHost) -> Iterator[LabCribd]:
    with cribd_on(host, BRIDGED, warm=False) as daemon:
        yield daemon


def mapped(port: int) -> list[pb.PortMapping]:
    return [pb.PortMapping(container_port=8080, host_port=port)]


async def web_pod(cri: Cri, name: str, port: int) -> Pod:
    """One that serves its host name at the host's port."""
    pod = await cri.run_pod(name, port_mappings=mapped(port))
    serve = "mkdir -p /www && hostname >/www/hostname && httpd -f -p 8080 -h /www"
    await cri.run_container(pod, "sh", "-c", serve)
    return pod


async def cut_off(call: Awaitable[object]) -> None:
    """A call that the daemon does not live to answer."""
    with pytest.raises((ClientError, grpc.RpcError)):
        await call


def flush_rules(host: LabHost) -> None:
    """As `systemctl reload nftables` does."""

    def flush() -> None:
        nftables = Nftables()
        nftables.run("flush ruleset\n", table="*", what="flush")
        nftables.close()

    host.inside(flush)


@pytest.mark.parametrize("plugin", ["addresses", "second"])
async def test_an_add_that_outlives_its_daemon_makes_nothing_for_a_pod_that_never_was(
    lab: CniLab, cribd: LabCribd, plugin: str
) -> None:
    before = lab.traces(cribd)
    async with cribd.connect() as cri:
        # As `iptables -w`, which waits while somebody else has its lock.
        waiting = lab.fail(plugin, "ADD", "gate")
        call = asyncio.ensure_future(cut_off(cri.run_pod("cut", port_mappings=mapped(PORT))))
        await lab.hangs(plugin, "ADD")
        cribd.kill()
        await call
    cribd.start()
    waiting.unlink()
    await until(lambda: not lab.processes())
    await lab.as_before(cribd, before)
    async with cribd.connect() as cri:
        pod = await web_pod(cri, "next", PORT)
        (address,) = lab.held_addresses()
        assert (await cri.pod_status(pod)).network.ip == address
        gateway = address.rpartition(".")[0] + ".1"
        assert await until(lambda: cribd.host.page(gateway, PORT)) == "next"
        await cri.remove_pod(pod)
    await lab.as_before(cribd, before)


async def test_a_garbage_collection_that_outlives_its_daemon_does_not_go_on_beside_the_next_ones_pods(
    lab: CniLab, cribd: LabCribd
) -> None:
    before = lab.traces(cribd)
    async with cribd.connect() as cri:
        waiting = lab.fail("first", "GC", "1*gate")
        collect = cri.call(cri.node.CollectNetworkGarbage, node_pb2.CollectNetworkGarbageRequest())
        call = asyncio.ensure_future(cut_off(collect))
        await lab.hangs("first", "GC")
        cribd.kill()
        await call
    cribd.start()
    assert waiting.exists()
    await until(lambda: lab.processes() == [])
    await lab.as_before(cribd, before)


async def test_a_plugin_that_hangs_in_gc_at_the_start_keeps_no_pod_waiting_for_its_time(
    lab: CniLab, cribd: LabCribd
) -> None:
    before = lab.traces(cribd)
    cribd.kill()
    lab.fail("first", "GC", "1*hang")
    cribd.start()
    await lab.hangs("first", "GC")
    async with cribd.connect() as cri:
        pod = await web_pod(cri, "web", PORT)
        await until(lambda: lab.processes() == [])
        await until(lambda: "garbage of network test-net: cancelled, as pods have waited" in cribd.log())
        await cri.remove_pod(pod)
    await lab.as_before(cribd, before)


async def test_a_pod_whose_repair_is_cut_off_has_the_address_that_is_told_of_it(
    lab: CniLab, cribd: LabCribd
) -> None:
    before = lab.traces(cribd)
    async with cribd.connect() as cri:
        pod = await web_pod(cri, "web", PORT)
        run_in_namespace(pod_namespace(cribd, pod), "net", lambda: ip("link delete eth0"))
        waiting = lab.fail("first", "ADD", "1*gate")
        call = asyncio.ensure_future(cut_off(check(cri, pod, repair=True)))
        await lab.hangs("first", "ADD")
        cribd.kill()
        await call
    cribd.start()
    waiting.unlink()
    async with cribd.connect() as cri:
        assert (await cri.pod_status(pod)).state == pb.SANDBOX_READY

        async def is_told() -> bool:
            return [(await cri.pod_status(pod)).network.ip] == lab.held_addresses()

        await until(is_told)  # networks are looked at behind the gate
        status = await cri.pod_status(pod)
        gateway = status.network.ip.rpartition(".")[0] + ".1"
        assert await until(lambda: cribd.host.page(gateway, PORT)) == "web"
        await cri.remove_pod(pod)
    await lab.as_before(cribd, before)


async def test_ports_that_are_lost_while_cribd_is_down_lead_to_their_pods_again_and_never_to_others(
    bridged: LabCribd,
) -> None:
    async with bridged.connect() as cri:
        pod = await web_pod(cri, "web", PORT)
        assert await until(lambda: bridged.host.page(GATEWAY, PORT)) == "web"
    bridged.kill()
    flush_rules(bridged.host)
    assert await bridged.host.page(GATEWAY, PORT) == ""
    bridged.start()
    async with bridged.connect() as cri:
        with pytest.raises(ClientError, match=rf"already leads to pod stories/web \({pod.id}\)"):
            await cri.run_pod("thief", port_mappings=mapped(PORT))
        assert await until(lambda: bridged.host.page(GATEWAY, PORT)) == "web"
        assert (await check(cri, pod))[pod.id].problem == ""


async def test_rules_and_bridge_that_somebody_takes_away_are_back_soon_though_nobody_asks(
    bridged: LabCribd,
) -> None:
    async with bridged.connect() as cri:
        await web_pod(cri, "web", PORT)
        before = bridged.host.ruleset()
        flush_rules(bridged.host)
        await until(lambda: bridged.host.ruleset() == before)
        assert await until(lambda: bridged.host.page(GATEWAY, PORT)) == "web"
        bridged.host.ip("link delete br0")
        await until(lambda: "br0" in bridged.host.interfaces())
        other = await cri.run_pod("other")
        assert (await check(cri, other))[other.id].problem == ""


async def test_pods_go_and_all_is_wiped_though_another_interface_has_come_with_the_bridges_range(
    bridged: LabCribd,
) -> None:
    async with bridged.connect() as cri:
        await cri.run_pod("web", port_mappings=mapped(PORT))
        left = await cri.run_pod("left")
    bridged.kill()
    bridged.host.ip("link delete br0")
    bridged.host.ip("link add vpn0 type veth peer name vpn1")
    bridged.host.ip("address add 10.87.0.7/16 dev vpn0")
    bridged.host.ip("link set vpn0 up")
    bridged.start()
    async with bridged.connect() as cri:
        assert "overlaps" in (await network_ready(cri)).message
        for pod in set(await cri.sandboxes()) - {left.id}:
            await cri.remove_pod(pod)
        assert set(await cri.sandboxes()) == {left.id}
    bridged.stop()
    bridged.wipe()  # the other pod with it


async def test_a_second_daemon_does_not_get_a_bridge_that_the_first_one_has_until_that_is_gone(
    bridged: LabCribd,
) -> None:
    async with bridged.connect() as cri:
        pod = await cri.run_pod("web")
    second = LabCribd(bridged.host, BRIDGED, "")
    try:
        for arguments in ((), ("--wipe",)):
            refused = second.run(*arguments)
            assert refused.returncode != 0
            assert "another cribd has its pods on bridge br0" in refused.stderr
            assert "Traceback" not in refused.stderr
        async with bridged.connect() as cri:
            assert (await check(cri, pod))[pod.id].problem == ""
            await cri.remove_pod(pod)
        bridged.kill()
        second.start()
        refused = bridged.run()
        assert "another cribd has its pods on bridge br0" in refused.stderr
        namespace = os.stat(f"/proc/{second.pid}/ns/net").st_ino
        lock = Path(f"/run/crib-bridge-br0-{namespace}.lock")
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600  # or any pod of the host's network could hold it
    finally:
        second.end()
    assert not lock.exists()
