"""A built-in bridge for tests, on a host of its own: a network namespace that the test's thread is in.

Threads that are started meanwhile are in it too, so the machine's sysctls, rules and routes stay as they are.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import socket
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from crib.backends.network.bridge.addresses import AddressBook
from crib.backends.network.bridge.network import BridgeNetwork
from crib.host import libc, links
from crib.host.netlink import Netlink
from crib.host.nftables import Nftables
from crib.model.settings import NetworkSettings
from tests.patience import PATIENCE
from tests.system.labs.pod_namespaces import PodNamespaces

LINKS_GONE_SECONDS = 60.0 * PATIENCE
"""The kernel ends all network namespaces of the machine one after another."""
_RANGES = itertools.count()
"""So that two bridges of one test do not overlap."""


@asynccontextmanager
async def own_host() -> AsyncIterator[None]:
    """A fresh host network: loopback alone, nothing forwarded, no rules."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.unshare(libc.CLONE_NEWNET)
        with Netlink() as netlink:
            links.set_loopback_up(netlink)
        yield
    finally:
        # Its threads are in there, and must not be found by a test that comes after.
        await asyncio.get_running_loop().shutdown_default_executor()
        libc.setns(before, libc.CLONE_NEWNET)
        os.close(before)


@asynccontextmanager
async def own_rig(
    directory: Path, *, dual: bool = False, settings: NetworkSettings | None = None
) -> AsyncIterator[Rig]:
    """A bridge on a host of its own."""
    async with own_host():
        rig = Rig(directory, dual=dual, settings=settings)
        try:
            yield rig
        finally:
            await rig.remove()


class Rig:
    """A bridge network of this test's own."""

    def __init__(
        self, directory: Path, *, dual: bool = False, settings: NetworkSettings | None = None
    ) -> None:
        word = secrets.token_hex(4)
        self.settings = replace(settings or NetworkSettings(), bridge=f"cbt{word}")
        self.table = f"crib_cbt{word}"
        self.state_dir = str(directory / "network")
        number = next(_RANGES) % (200 * 256)
        self.subnet = IPv4Network(f"10.{20 + number // 256}.{number % 256}.0/24")
        self.subnet6 = (
            IPv6Network(f"fd42:{secrets.token_hex(2)}:{secrets.token_hex(2)}::/64") if dual else None
        )
        self.connection = sqlite3.connect(directory / "test.db", isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=NORMAL")
        self.namespaces = PodNamespaces(str(directory))
        self.networks: list[BridgeNetwork] = []
        self.network = self.restarted()

    @property
    def gateway(self) -> str:
        return str(self.subnet.network_address + 1)

    @property
    def gateway6(self) -> str:
        assert self.subnet6 is not None
        return str(self.subnet6.network_address + 1)

    def restarted(self, **changed: object) -> BridgeNetwork:
        """The network as a daemon that has just started makes it, with some settings changed."""
        self.settings = replace(self.settings, **changed)  # type: ignore[arg-type]  # the test knows
        book = AddressBook(self.connection, self.subnet, self.subnet6)
        self.network = BridgeNetwork(self.settings, book, self.state_dir)
        self.networks.append(self.network)
        return self.network

    def port_names(self) -> set[str]:
        with Netlink() as netlink:
            bridge = links.get_link(netlink, self.settings.bridge)
            return {link.name for link in links.list_links(netlink, master=bridge.index)}

    async def wait_without_ports(self) -> None:
        """Until the kernel has removed every port of the bridge."""
        async with asyncio.timeout(LINKS_GONE_SECONDS):
            while self.port_names():  # noqa: ASYNC110  # the kernel tells nobody here when it is done
                await asyncio.sleep(0.005)

    async def remove(self) -> None:
        self.namespaces.unpin_all()
        for network in self.networks:
            await network.close()
        self.connection.close()


def host_socket(kind: socket.SocketKind = socket.SOCK_STREAM, *, v6: bool = False) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, kind)
    made.setblocking(False)
    return made


def nft(*commands: str) -> None:
    """Run nftables commands on the host."""
    nftables = Nftables()
    nftables.run("\n".join(commands) + "\n", table="test", what="test")
    nftables.close()


def ip(arguments: str) -> None:
    """Run ip(8) in the namespace of the calling thread."""
    run(f"ip {arguments}")


def run(command: str) -> None:
    """Run a program in the namespace of the calling thread."""
    subprocess.run(command.split(), check=True)


def add_uplink(name: str, mtu: int = 1500) -> None:
    """An interface of the host's that leads somewhere."""
    ip(f"link add {name} mtu {mtu} type veth peer name {name}p")
    ip(f"link set {name} up")
    ip(f"link set {name}p up")
