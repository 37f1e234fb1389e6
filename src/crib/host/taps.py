"""Tap interfaces: Ethernet whose other end is a descriptor (kernel, networking/tuntap)."""

from __future__ import annotations

import fcntl
import os
import struct

from crib.host.links import INTERFACE_NAME_BYTES, check_interface_name

DEVICE = "/dev/net/tun"
TAP_NAME = "crib-tap"
"""Of taps of machines, with a number. Their counters are those of the interface beside it, turned round."""
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000
_IFREQ = struct.Struct(f"{INTERFACE_NAME_BYTES + 1}sH22x")


def make_tap(name: str) -> int:
    """A new tap in the calling thread's network namespace: its descriptor, with which it goes.

    Packets have the header of virtio (virtio-net), so that checksums and segments are left to the other side.
    OSError EBUSY if the name is taken, ENOENT or ENODEV on a kernel without taps.
    """
    fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(check_interface_name(name).encode(), flags))
    except OSError as error:
        os.close(fd)
        raise OSError(error.errno, f"make tap: {error.strerror}", name) from error
    except BaseException:
        os.close(fd)
        raise
    return fd
