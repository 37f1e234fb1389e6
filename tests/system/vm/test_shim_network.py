"""A VM has its pod's network: whoever made that finds it as it was."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.system.labs.vm_shims import VmShim, ip, vm_shim

pytestmark = [pytest.mark.root, pytest.mark.system]

ADDRESS, GATEWAY = "10.99.7.2", "10.99.7.1"
ADDRESS6, GATEWAY6 = "fd99:7::2", "fd99:7::1"
MAC = "0a:58:0a:63:07:02"


@dataclass
class TwoNamespaces:
    """A pod's, and that of what it talks to, joined by a veth pair."""

    pod: str
    other: str

    @property
    def path(self) -> str:
        return f"/run/netns/{self.pod}"

    def links(self) -> dict[str, dict[str, object]]:
        return {link["ifname"]: link for link in json.loads(ip("-n", self.pod, "-j", "-s", "address"))}

    def queues(self) -> str:
        command = ("ip", "netns", "exec", self.pod, "tc", "qdisc", "show", "dev", "eth0")
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def ping(self, address: str) -> subprocess.CompletedProcess[str]:
        command = ("ip", "netns", "exec", self.other, "busybox", "ping", "-c", "1", "-w", "60", address)
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def network() -> Iterator[TwoNamespaces]:
    made = TwoNamespaces(f"crib-vm-{os.getpid()}-p", f"crib-vm-{os.getpid()}-o")
    try:
        for name in (made.pod, made.other):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", made.pod, "link", "add", "eth0", "address", MAC, "mtu", "1400", "type", "veth",
           "peer", "name", "out", "mtu", "1400", "netns", made.other)  # fmt: skip
        for name, link, address, six in (
            (made.pod, "eth0", ADDRESS, ADDRESS6),
            (made.other, "out", GATEWAY, GATEWAY6),
        ):
            ip("-n", name, "address", "add", f"{address}/24", "dev", link)
            ip("-n", name, "address", "add", f"{six}/64", "dev", link, "nodad")
            ip("-n", name, "link", "set", link, "up")
        ip("-n", made.pod, "route", "add", "default", "via", GATEWAY)
        ip("-n", made.pod, "-6", "route", "add", "default", "via", GATEWAY6)
        yield made
    finally:
        for name in (made.pod, made.other):
            subprocess.run(("ip", "netns", "delete", name), check=False, capture_output=True)


async def test_the_guest_has_the_pods_addresses_mac_mtu_and_routes(
    image: str, network: TwoNamespaces
) -> None:
    async with vm_shim(image, network.path) as vm:
        await vm.boot()
        shown = "ifconfig eth0; route -n; route -A inet6; ping -c 1 -w 60 " + GATEWAY
        code, out, err = await vm.container("one", "/bin/sh", "-c", shown).run()
        assert code == 0, err
        text = out.decode()
        assert MAC in text.lower()
        assert "MTU:1400" in text
        assert ADDRESS in text
        assert ADDRESS6 in text
        assert [line for line in text.splitlines() if line.startswith("0.0.0.0") and GATEWAY in line]
        assert [line for line in text.splitlines() if GATEWAY6 in line]
        assert " 0% packet loss" in text
        await vm.stop()


async def test_who_calls_the_pods_addresses_reaches_the_guest(image: str, network: TwoNamespaces) -> None:
    async with vm_shim(image, network.path) as vm:
        await vm.boot()
        before = network.links()["eth0"]
        for address in (ADDRESS, ADDRESS6):
            said = network.ping(address)
            assert said.returncode == 0, said.stdout
        after = network.links()["eth0"]
        assert [one["local"] for one in after["addr_info"] if one["scope"] == "global"] == [ADDRESS, ADDRESS6]  # type: ignore[attr-defined]
        assert after["address"] == MAC
        assert after["stats64"]["rx"]["packets"] > before["stats64"]["rx"]["packets"]  # type: ignore[index]
        assert after["stats64"]["tx"]["packets"] > before["stats64"]["tx"]["packets"]  # type: ignore[index]
        await stopped_guest_is_silent(vm, network)


async def stopped_guest_is_silent(vm: VmShim, network: TwoNamespaces) -> None:
    """And with the VM goes all that stood beside the pod's interface: the namespace answers by itself."""
    await vm.stop()
    assert sorted(network.links()) == ["eth0", "lo"]
    assert network.ping(ADDRESS).returncode == 0
    assert "ingress" not in network.queues()
