"""Pods on CNI networks: the reference plugins, and one that fails when it is told to."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from crib.client import pods
from crib.client.errors import ClientError
from crib.host import links
from crib.host.netlink import Netlink
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.daemon import Cribd, page, running_cribd, until
from tests.system.test_story_restart import power_cut

pytestmark = [pytest.mark.root, pytest.mark.system]

PLUGINS = "/usr/lib/cni"
APART = "198.18.0.0/24"  # RFC 2544; its bridge is no gateway, so no route of the host goes there

# Notes each call; fails ADD as often as its failpoint says (`2*error(text)`); passes on the result it got.
FAILING = """#!/bin/sh
here=$(dirname "$0")
input=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID" >>"$here/calls"
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}' ;;
ADD)
    times=$(sed -n 's/\\*.*//p' "$here/failpoint" 2>/dev/null)
    if [ "${times:-0}" -gt 0 ]; then
        text=$(sed 's/.*(\\(.*\\))/\\1/' "$here/failpoint")
        echo "$((times - 1))*error($text)" >"$here/failpoint"
        echo "{\\"cniVersion\\":\\"1.0.0\\",\\"code\\":11,\\"msg\\":\\"$text\\"}"
        exit 1
    fi
    printf '%s' "$input" | "$here/previous" ;;
esac
"""
PREVIOUS = """#!{python}
import json, sys
print(json.dumps(json.load(sys.stdin)["prevResult"]))
"""


class CniRig:
    """A daemon in CNI mode, with a configuration directory, addresses and a bridge of its own."""

    def __init__(self, cribd: Cribd, directory: Path, bridge: str) -> None:
        self.cribd = cribd
        self.directory = directory
        self.bridge = bridge

    def held_addresses(self) -> list[str]:
        """What host-local has on file."""
        return [path.name for path in (self.directory / "ipam").glob("*/*") if path.name[0].isdigit()]

    def links(self) -> list[str]:
        """On the bridge."""
        found = Path(f"/sys/class/net/{self.bridge}/brif")
        return [path.name for path in found.iterdir()] if found.exists() else []

    def fail(self, times: int, text: str) -> None:
        (self.directory / "bin" / "failpoint").write_text(f"{times}*error({text})\n")

    def calls(self, command: str) -> list[str]:
        """The pods for which the failing plugin was called."""
        lines = (self.directory / "bin" / "calls").read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith(f"{command} ")]


def write_network(directory: Path, bridge: str) -> None:
    """A conflist of bridge with host-local and the failing plugin, everything below `directory`."""
    for name in ("net.d", "bin", "ipam"):
        (directory / name).mkdir(parents=True)
    for name, text in (("failing", FAILING), ("previous", PREVIOUS.format(python=sys.executable))):
        path = directory / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    number = secrets.randbelow(1 << 14)
    ipam = {
        "type": "host-local",
        "dataDir": str(directory / "ipam"),
        "ranges": [[{"subnet": f"100.{64 + number // 256}.{number % 256}.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins: list[dict[str, Any]] = [
        {"type": "bridge", "bridge": bridge, "isGateway": True, "ipam": ipam},
        {"type": "failing"},
    ]
    conflist = {"cniVersion": "1.0.0", "name": f"net-{bridge}", "plugins": plugins}
    (directory / "net.d" / "10-test.conflist").write_text(json.dumps(conflist))
    write_handler_network(directory, bridge, ipam)


def write_handler_network(directory: Path, bridge: str, ipam: dict[str, Any]) -> None:
    """Another directory, for the handler `apart`: the same bridge, another range."""
    (directory / "apart.d").mkdir()
    plugin = {"type": "bridge", "bridge": bridge, "ipam": {**ipam, "ranges": [[{"subnet": APART}]]}}
    conflist = {"cniVersion": "1.0.0", "name": f"apart-{bridge}", "plugins": [plugin]}
    (directory / "apart.d" / "10-apart.conflist").write_text(json.dumps(conflist))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[CniRig]:
    bridge = f"crc{secrets.token_hex(4)}"
    directory = tmp_path / "cni"
    write_network(directory, bridge)
    network = (
        f'mode = "cni"\ncni_conf_dir = "{directory / "net.d"}"\n'
        f'cni_bin_dirs = ["{directory / "bin"}", "{PLUGINS}"]\nplugin_timeout = 20\n'
        f'[handlers.crun]\n[handlers.apart]\npath = "crun"\ncni_conf_dir = "{directory / "apart.d"}"\n'
    )
    try:
        with running_cribd(network=network) as cribd:
            yield CniRig(cribd, directory, bridge)
    finally:
        with Netlink() as netlink:
            links.delete_link(netlink, bridge)  # what plugins share is theirs to keep


async def test_a_pod_on_the_reference_plugins_lives_and_gives_its_address_back(rig: CniRig) -> None:
    async with rig.cribd.story() as cri:
        status = await cri.call(cri.runtime.Status, pb.StatusRequest())
        assert {c.type: c.status for c in status.status.conditions}["NetworkReady"]
        web = await cri.run_pod("web")
        await cri.run_container(web, "httpd", "-f", "-p", "8080", "-h", "/etc")
        address = (await cri.pod_status(web)).network.ip
        assert rig.held_addresses() == [address]
        other = await cri.run_pod("other")
        box = await cri.run_container(other, "sleep", "100")
        assert await until(lambda: page(address, 8080)) == "web"
        assert await cri.sh(box, f"wget -qO- http://{address}:8080/hostname") == "web"
        stats = await cri.call(cri.runtime.PodSandboxStats, pb.PodSandboxStatsRequest(pod_sandbox_id=web.id))
        assert stats.stats.linux.network.default_interface.rx_bytes.value > 0
        await cri.stop_pod(web)
        assert rig.held_addresses() == [(await cri.pod_status(other)).network.ip]
        await cri.remove_pod(web)
        await cri.remove_pod(other)
        assert rig.held_addresses() == []
        await until(lambda: not rig.links())
    assert not list((rig.cribd.data / "network").iterdir())


async def test_pods_of_a_handler_with_a_cni_directory_of_its_own_are_on_its_network(rig: CniRig) -> None:
    async with rig.cribd.story() as cri:
        apart = await pods.run_sandbox(cri.connection, cri.pod_config("apart"), "apart")
        plain = await cri.run_pod("plain")
        own, usual = [(await cri.pod_status(pod)).network.ip for pod in (apart, plain)]
        assert ip_address(own) in ip_network(APART)
        assert ip_address(usual) not in ip_network(APART)
        assert set(rig.held_addresses()) == {own, usual}
        box = await cri.run_container(apart, "sleep", "100")
        assert own in await cri.sh(box, "ip -4 addr show dev eth0")
        (rig.directory / "apart.d" / "10-apart.conflist").unlink()
        await cri.remove_pod(apart)
        assert rig.held_addresses() == [usual]
        status = await cri.call(cri.runtime.Status, pb.StatusRequest())
        (network,) = [c for c in status.status.conditions if c.type == "NetworkReady"]
        assert network.status
        assert "apart.d" in network.message
        with pytest.raises(ClientError, match=r"apart\.d"):
            await pods.run_sandbox(cri.connection, cri.pod_config("late"), "apart")


async def test_an_add_that_fails_half_way_gives_everything_back_and_the_retry_succeeds(rig: CniRig) -> None:
    async with rig.cribd.story() as cri:
        rig.fail(1, "no luck today")
        before = rig.cribd.leftovers()
        config = cri.pod_config("unlucky")
        request = pb.RunPodSandboxRequest(config=config)
        with pytest.raises(ClientError, match=r"failing ADD.*no luck today"):
            await cri.call(cri.runtime.RunPodSandbox, request)
        assert await cri.sandboxes() == {}
        assert rig.held_addresses() == []
        await until(lambda: not rig.links())
        rig.cribd.settle(before)
        assert rig.calls("DEL")[-1] == rig.calls("ADD")[-1]
        made = (await cri.call(cri.runtime.RunPodSandbox, request)).pod_sandbox_id
        assert set(await cri.sandboxes()) == {made}
        assert len(rig.held_addresses()) == 1
    assert rig.held_addresses() == []


async def test_addresses_are_given_back_for_what_kill_9_interrupted(rig: CniRig) -> None:
    async with rig.cribd.connect() as cri:
        kept = await cri.run_pod("kept")
        config = cri.pod_config("cut")
        call = cri.runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=config))
        await until(lambda: len(rig.held_addresses()) == 2)
        rig.cribd.kill()
        with pytest.raises(Exception, match="UNAVAILABLE"):
            await call
    rig.cribd.start()
    async with rig.cribd.connect() as cri:
        known = await cri.sandboxes()
        assert kept.id in known
        assert len(rig.held_addresses()) == len(known)
        for sandbox in known:
            await cri.remove_pod(sandbox)
        assert rig.held_addresses() == []
        await until(lambda: not rig.links())


async def test_a_reboot_has_del_called_for_every_pod(rig: CniRig) -> None:
    async with rig.cribd.connect() as cri:
        pods = [await cri.run_pod(name) for name in ("one", "two")]
        await cri.run_container(pods[0], "sleep", "1000")
    power_cut(rig.cribd)
    assert len(rig.held_addresses()) == 2
    rig.cribd.start()
    async with rig.cribd.connect() as cri:
        assert {s.state for s in (await cri.sandboxes()).values()} == {pb.SANDBOX_NOTREADY}
        assert rig.held_addresses() == []
        assert {pod.id for pod in pods} <= set(rig.calls("DEL"))
        for pod in pods:
            await cri.remove_pod(pod)


async def test_without_a_network_configuration_pods_wait_for_one(rig: CniRig) -> None:
    conflist = rig.directory / "net.d" / "10-test.conflist"
    text = conflist.read_text()
    conflist.unlink()
    async with rig.cribd.story() as cri:
        status = await cri.call(cri.runtime.Status, pb.StatusRequest())
        condition = next(c for c in status.status.conditions if c.type == "NetworkReady")
        assert (condition.status, condition.reason) == (False, "NetworkPluginNotReady")
        with pytest.raises(ClientError, match=r"net\.d"):
            await cri.run_pod("early")
        options = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)
        await cri.run_pod("host", namespaces=options, hostname="")  # the network's own pods need none
        conflist.write_text(text)
        await cri.run_pod("late")


async def test_portmap_in_the_list_is_no_matter_to_pods_without_ports(rig: CniRig) -> None:
    conflist = rig.directory / "net.d" / "10-test.conflist"
    network = json.loads(conflist.read_text())
    # with ports it would leave chains of its own in the host's tables: it does not take them away again
    network["plugins"].append({"type": "portmap", "capabilities": {"portMappings": True}})
    conflist.write_text(json.dumps(network))
    async with rig.cribd.story() as cri:
        pod = await cri.run_pod("without")
        assert rig.held_addresses() == [(await cri.pod_status(pod)).network.ip]
    assert rig.held_addresses() == []
