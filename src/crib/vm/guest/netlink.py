"""The guest's interfaces, addresses and routes, by rtnetlink (kernel include/uapi/linux/rtnetlink.h)."""

from __future__ import annotations

import _socket
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RECEIVE_BYTES = 1 << 16
IFF_UP = 1
_ROUTE_SOCKET = 0
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _CREATE, _REPLACE, _EXCL, _APPEND, _DUMP = 0x1, 0x4, 0x400, 0x100, 0x200, 0x800, 0x300
NEWLINK, GETLINK, NEWADDR, NEWROUTE, NEWNEIGH = 16, 18, 20, 24, 28
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU = 1, 3, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 5, 6, 7
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80
_RT_TABLE_MAIN, _RTPROT_BOOT, _RTN_UNICAST, _RTNH_F_ONLINK = 254, 3, 1, 4
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253


class Netlink:
    """One socket. Errors are the kernel's, as OSError with what was tried."""

    def __init__(self) -> None:
        self._socket = _socket.socket(
            _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _ROUTE_SOCKET
        )
        self._sequence = 0

    def close(self) -> None:
        """No more."""
        self._socket.close()

    def links(self) -> dict[str, tuple[int, str]]:
        """Interfaces by MAC: number and name. The loopback has 00:00:00:00:00:00."""
        found = {}
        for body in self._ask(GETLINK, _REQUEST | _DUMP, bytes(16), "list interfaces"):
            index = int.from_bytes(body[4:8], "little")
            parts = dict(_attributes(body[16:]))
            name = parts.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode()
            found[":".join(f"{byte:02x}" for byte in parts.get(_IFLA_ADDRESS, b""))] = (index, name)
        return found

    def change_link(self, index: int, *, name: str = "", mtu: int = 0, is_up: bool = False) -> None:
        """Name, MTU, and whether it carries packets; what is empty stays."""
        flags = IFF_UP if is_up else 0
        head = bytes(4) + _u32(index) + _u32(flags) + _u32(flags)
        body = _attribute(_IFLA_IFNAME, name.encode() + b"\0") if name else b""
        body += _attribute(_IFLA_MTU, _u32(mtu)) if mtu else b""
        self._ask(NEWLINK, _REQUEST | _ACK, head + body, f"change interface {name or index}")

    def add_address(self, index: int, address: str) -> None:
        """An address with its prefix length; one that is there is no error."""
        family, data, length = parsed(address)
        head = bytes((family, length, 0, 0)) + _u32(index)
        body = _attribute(_IFA_LOCAL, data) + _attribute(_IFA_ADDRESS, data)
        if family == _socket.AF_INET6:  # the host has looked for doubles
            body += _attribute(_IFA_FLAGS, _u32(_IFA_F_NODAD))
        self._ask(NEWADDR, _REQUEST | _ACK | _CREATE | _REPLACE, head + body, f"add address {address}")

    def add_route(self, route: dict[str, Any], index: int) -> None:
        """A route, as proto/vm/guest.proto has it; one that is there is no error."""
        gateway = parsed(route["gateway"]) if route["gateway"] else None
        destination = parsed(route["destination"]) if route["destination"] else None
        family = (destination or gateway or (_socket.AF_INET, b"", 0))[0]
        length = destination[2] if destination else 0
        scope = _SCOPE_UNIVERSE if gateway or family == _socket.AF_INET6 else _SCOPE_LINK
        flags = _RTNH_F_ONLINK if route["onlink"] else 0
        head = bytes((family, length, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, scope, _RTN_UNICAST)) + _u32(flags)
        body = _attribute(_RTA_OIF, _u32(index))
        body += _attribute(_RTA_DST, destination[1]) if destination and length else b""
        body += _attribute(_RTA_GATEWAY, gateway[1]) if gateway else b""
        body += _attribute(_RTA_PRIORITY, _u32(route["metric"])) if route["metric"] else b""
        body += _attribute(_RTA_PREFSRC, parsed(route["source"])[1]) if route["source"] else b""
        said = f"add route {route['destination'] or 'default'} via {route['gateway'] or 'nothing'}"
        try:
            self._ask(NEWROUTE, _REQUEST | _ACK | _CREATE | _EXCL, head + body, said)
        except FileExistsError:
            pass

    def add_neighbour(self, index: int, address: str, mac: str) -> None:
        """A neighbour that is never asked for."""
        family, data, _ = parsed(address)
        head = bytes((family, 0, 0, 0)) + _u32(index) + _NUD_PERMANENT.to_bytes(2, "little") + bytes(2)
        body = _attribute(_NDA_DST, data) + _attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
        self._ask(NEWNEIGH, _REQUEST | _ACK | _CREATE | _REPLACE, head + body, f"add neighbour {address}")

    def _ask(self, kind: int, flags: int, body: bytes, said: str) -> list[bytes]:
        self._sequence += 1
        head = _u32(16 + len(body)) + kind.to_bytes(2, "little") + flags.to_bytes(2, "little")
        self._socket.sendto(head + _u32(self._sequence) + _u32(0) + body, (0, 0))
        found: list[bytes] = []
        while True:
            data = self._socket.recv(RECEIVE_BYTES)
            while len(data) >= 16:
                length = int.from_bytes(data[:4], "little")
                came = int.from_bytes(data[4:6], "little")
                part, data = data[16:length], data[(length + 3) & ~3 :]
                if came == _DONE:
                    return found
                if came == _ERROR:
                    number = -int.from_bytes(part[:4], "little", signed=True)
                    if number:
                        raise OSError(number, f"{said}: {os.strerror(number)}")
                    return found
                found.append(part)


def parsed(text: str) -> tuple[int, bytes, int]:
    """Family, bytes and prefix length of an address such as 10.0.0.5/24. ValueError if it is none."""
    address, _, length = text.partition("/")
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    try:
        data = _socket.inet_pton(family, address)
        bits = int(length) if length else 8 * len(data)
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is no address") from None
    if not 0 <= bits <= 8 * len(data):
        raise ValueError(f"{text!r} has no such prefix length")
    return int(family), data, bits


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return length.to_bytes(2, "little") + kind.to_bytes(2, "little") + data + bytes(-length % 4)


def _attributes(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while len(data) >= 4:
        length = int.from_bytes(data[:2], "little")
        if length < 4:
            break
        found.append((int.from_bytes(data[2:4], "little") & 0x3FFF, data[4:length]))
        data = data[(length + 3) & ~3 :]
    return found
