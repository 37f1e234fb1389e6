"""Ethernet frames as an attacker writes them, and a place in a pod to send and to see them."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from crib.host import links
from crib.host.netlink import Netlink
from crib.model.sandbox import NetworkAttachment
from tests.system.labs.pod_namespaces import WAIT_SECONDS, PodNamespace

ETH_P_ALL = 3
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = "33:33:00:00:00:01"
ICMPV6 = 58
TCP, UDP = 6, 17


@dataclass(frozen=True)
class Host:
    """One who has a MAC and addresses: a pod, or the bridge itself."""

    mac: str
    ip: str
    ip6: str = ""

    @staticmethod
    def of(attachment: NetworkAttachment) -> Host:
        return Host(attachment.details["mac"], *attachment.addresses)


def gateway(bridge: str, ip: str, ip6: str = "") -> Host:
    with Netlink() as netlink:
        return Host(links.get_link(netlink, bridge).mac, ip, ip6)


def raw(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def frame(to: str, source: str, kind: int, payload: bytes) -> bytes:
    return raw(to) + raw(source) + struct.pack("!H", kind) + payload


def tagged(untagged: bytes, vlan: int) -> bytes:
    """The frame with an 802.1Q tag."""
    return untagged[:12] + struct.pack("!HH", 0x8100, vlan) + untagged[12:]


def arp(operation: int, sender: tuple[str, str], target: tuple[str, str]) -> bytes:
    """RFC 826; each side a MAC and an address."""
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    return head + b"".join(raw(mac) + IPv4Address(ip).packed for mac, ip in (sender, target))


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def ip_packet(source: str, to: str, protocol: int, payload: bytes) -> bytes:
    """With the right checksums, also the payload's (of UDP or ICMPv6)."""
    ends = ip_address(source).packed + ip_address(to).packed
    where = {UDP: 6, ICMPV6: 2}[protocol]
    pseudo = ends + struct.pack("!IHH", len(payload), 0, protocol)
    total = checksum(pseudo + payload) or 0xFFFF
    payload = payload[:where] + struct.pack("!H", total) + payload[where + 2 :]
    if len(ends) == 32:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + ends + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(ports: tuple[int, int], text: bytes) -> bytes:
    return struct.pack("!HHHH", *ports, 8 + len(text), 0) + text


def icmpv6(kind: int, body: bytes) -> bytes:
    return struct.pack("!BBH", kind, 0, 0) + body


def advertisement(target: str, mac: str) -> bytes:
    """That `target` has this MAC, whatever was known (RFC 4861, section 4.4)."""
    return icmpv6(136, struct.pack("!I", 1 << 29) + IPv6Address(target).packed + b"\2\1" + raw(mac))


def behind_options(packet: bytes) -> bytes:
    """The IPv6 packet with an empty header of destination options before its payload."""
    head, payload = packet[:40], packet[40:]
    length = struct.pack("!H", len(payload) + 8)
    return head[:4] + length + b"\x3c" + head[7:] + head[6:7] + b"\0\1\4\0\0\0\0" + payload


def is_tcp(one: bytes) -> bool:
    where = {IPV4: 23, IPV6: 20}.get(int.from_bytes(one[12:14], "big"))
    return where is not None and one[where] == TCP


async def received(server: socket.socket) -> bytes:
    """The first datagram that comes."""
    async with asyncio.timeout(WAIT_SECONDS):
        return await asyncio.get_running_loop().sock_recv(server, 2000)


class Wire:
    """An interface as whoever is root in its namespace has it: what comes, and whatever is sent."""

    def __init__(self, namespace: PodNamespace | None = None, interface: str = "eth0") -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            made.bind((interface, ETH_P_ALL))
            made.setblocking(False)
            return made

        self._socket = make() if namespace is None else namespace.inside(make)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *frames: bytes) -> None:
        for one in frames:
            self._socket.send(one)

    async def seen_before(self, mark: bytes) -> list[bytes]:
        """Frames that others sent, until one with this mark."""
        found: list[bytes] = []
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                data, sender = await asyncio.get_running_loop().sock_recvfrom(self._socket, 2000)
                if sender[2] == socket.PACKET_OUTGOING:
                    continue
                if mark in data:
                    return found
                found.append(data)
