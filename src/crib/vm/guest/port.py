"""The virtio-serial port to the host, by its name."""

from __future__ import annotations

import _socket
import os

PORT_SECONDS = 30
"""For the kernel to find the port."""
_PORTS = "/sys/class/virtio-ports"
_KOBJECT_UEVENT = 15
_SO_RCVTIMEO = 20


def open_port(name: str) -> int:
    """A descriptor of the port. TimeoutError if there is none."""
    events = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, _KOBJECT_UEVENT)
    try:
        events.bind((0, 1))
        events.settimeout(PORT_SECONDS)
        while (device := _found(name)) is None:
            events.recv(4096)  # a device has come, or gone
    finally:
        events.close()
    return os.open(f"/dev/{device}", os.O_RDWR | os.O_CLOEXEC)


def _found(name: str) -> str | None:
    try:
        devices = os.listdir(_PORTS)
    except FileNotFoundError:
        return None
    for device in devices:
        try:
            with open(f"{_PORTS}/{device}/name") as file:
                if file.read().strip() == name:
                    return device
        except OSError:
            continue  # it is not complete yet, or has gone
    return None
