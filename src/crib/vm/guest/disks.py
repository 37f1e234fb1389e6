"""Disks that the host plugs while the guest runs: found by their number on the controller.

The kernel tells of a new disk by an event of its device (kernel, lib/kobject_uevent.c), when its node is
there.
"""

from __future__ import annotations

import _socket
import os

from crib.vm.guest import kernel
from crib.vm.guest.errors import FAILED_PRECONDITION, Failure
from crib.vm.guest.loop import READ, Later, Loop, either

TYPE_CHECKING = False
if TYPE_CHECKING:
    from crib.vm.guest.loop import Job

MODULES = ("scsi_common", "scsi_mod", "sd_mod", "virtio_scsi")
"""In the order in which they need each other. They are loaded with the first disk, not at every boot."""
FIND_SECONDS = 20.0
_DEVICES = "/sys/bus/scsi/devices"
_UEVENTS = 15
"""NETLINK_KOBJECT_UEVENT."""
_EVENT_BYTES = 1 << 16


def find(loop: Loop, lun: int) -> Job:
    """The name below /dev of a disk, once it is there. Failure if it does not come."""
    kernel.load(*MODULES)
    if name := _name(lun):
        return name
    news = _Uevents(loop)
    limit = loop.after(FIND_SECONDS)
    try:
        while not (name := _name(lun)):
            if limit.is_set:
                raise Failure(FAILED_PRECONDITION, f"disk {lun} has not come in {FIND_SECONDS:.0f} s")
            yield either(news.next(), limit)
    finally:
        news.close()
    return name


def numbers(loop: Loop, lun: int) -> Job:
    """The answer of Disk."""
    name = yield from find(loop, lun)
    found = os.stat(f"/dev/{name}").st_rdev
    return {"major": os.major(found), "minor": os.minor(found)}


def _name(lun: int) -> str:
    try:
        places = os.listdir(_DEVICES)
    except FileNotFoundError:
        return ""
    for place in places:
        if place.endswith(f":0:0:{lun}"):
            try:
                for name in os.listdir(f"{_DEVICES}/{place}/block"):
                    if os.path.exists(f"/dev/{name}"):
                        return name
            except FileNotFoundError:
                pass  # it is not a disk yet
    return ""


class _Uevents:
    """From its making on, until it is closed."""

    def __init__(self, loop: Loop) -> None:
        kind = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        self._socket = _socket.socket(_socket.AF_NETLINK, kind, _UEVENTS)
        self._socket.bind((0, 1))
        self._loop = loop
        self._news = Later()
        loop.watch(self._socket.fileno(), READ, self._happened)

    def next(self) -> Later:
        """Set when something has happened since the last one was set."""
        return self._news

    def _happened(self, _events: int) -> None:
        try:
            while self._socket.recv(_EVENT_BYTES):
                pass
        except OSError:
            pass  # there is no more; or some were lost, which is news as well
        news, self._news = self._news, Later()
        news.set()

    def close(self) -> None:
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
