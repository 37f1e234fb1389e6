"""Disks of a VM that come and go with its containers: layers, what a container writes to, block volumes.

All are on one SCSI controller, whose disks the guest sees at once. qemu opens nothing: it is handed open
descriptors. The same layer or volume is one disk for all containers of the pod.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from crib.host.threads import FOREIGN, Job
from crib.vm.qemu import DISKS
from crib.vm.shim.qmp import Qmp

DiskUse = Literal["layer", "scratch", "volume"]
MOST_DISKS = 255
"""Of one VM at a time."""
OPEN_TIME = 30.0
"""Seconds to open a file or device of the host; it may lie on storage that hangs."""
_Identity = tuple[int, int, bool]


class DiskProblem(OSError):
    """A disk cannot be given to the VM; the message says which and why."""


@dataclass(frozen=True, slots=True)
class DiskSource:
    """A file of the host, or for a `volume` a block device."""

    path: str
    use: DiskUse
    read_only: bool = False


@dataclass(slots=True)
class _Plugged:
    lun: int
    owners: set[str] = field(default_factory=set)


class Disks:
    """Of one VM."""

    def __init__(self, qmp: Qmp) -> None:
        self._qmp = qmp
        self._turn = asyncio.Lock()
        self._plugged: dict[_Identity, _Plugged] = {}
        self._next = 0

    async def attach(self, owner: str, source: DiskSource) -> int:
        """Its number on the controller. OSError, with nothing of this disk left.

        It stays until all owners have released it.
        """
        opening = _Opening(source)
        job = Job(f"opening {source.path}", owner=owner, limit=OPEN_TIME, late=opening.close)
        fd = await FOREIGN.run(job, opening.run)
        try:
            async with self._turn:
                identity = _identity(fd, source)
                if (found := self._plugged.get(identity)) is None:
                    found = _Plugged(await self._plug(fd, source))
                    self._plugged[identity] = found
                found.owners.add(owner)
                return found.lun
        finally:
            opening.close()

    async def release(self, owner: str) -> None:
        """Take away what nobody else has. Safe to repeat. OSError: what could not be taken stays known."""
        async with self._turn:
            for identity, one in list(self._plugged.items()):
                if one.owners - {owner}:
                    one.owners.discard(owner)
                elif one.owners:
                    await self._unplug(one.lun)
                    del self._plugged[identity]

    def close(self) -> None:
        """The VM has ended, and all disks with it."""
        self._plugged.clear()
        self._qmp.close()

    async def _plug(self, fd: int, source: DiskSource) -> int:
        lun = self._free()
        node = f"disk{lun}"
        await self._qmp.ask("add-fd", {"fdset-id": lun}, fd)
        try:
            await self._qmp.ask("blockdev-add", block_node(node, f"/dev/fdset/{lun}", source))
        finally:
            await self._qmp.ask("remove-fd", {"fdset-id": lun})  # what has opened it keeps it
        device = {"driver": "scsi-hd", "id": f"d{node}", "drive": node, "serial": node}
        try:
            await self._qmp.ask("device_add", {**device, "bus": f"{DISKS}.0", "scsi-id": 0, "lun": lun})
        except OSError:
            await self._qmp.ask("blockdev-del", {"node-name": node})
            raise
        return lun

    async def _unplug(self, lun: int) -> None:
        await self._qmp.unplug(f"ddisk{lun}")
        await self._qmp.ask("blockdev-del", {"node-name": f"disk{lun}"})

    def _free(self) -> int:
        """One that was not used for long: the guest may still be busy with the end of the last."""
        used = {one.lun for one in self._plugged.values()}
        if len(used) >= MOST_DISKS:
            raise DiskProblem(f"the VM has {MOST_DISKS} disks already, one for each layer and container")
        while self._next in used:
            self._next = (self._next + 1) % MOST_DISKS
        lun, self._next = self._next, (self._next + 1) % MOST_DISKS
        return lun


def block_node(name: str, path: str, source: DiskSource) -> Mapping[str, Any]:
    """What qemu is told to open (QEMU, qapi/block-core.json).

    Layers go through the host's page cache, which all VMs share. What a container writes is lost with it, so
    nobody waits for the host's disk. A volume has other readers: what is written is on the device.
    """
    node: dict[str, Any] = {
        "driver": "host_device" if source.use == "volume" else "file",
        "node-name": name,
        "filename": path,
        "read-only": source.read_only,
        "locking": "off",
    }
    if not source.read_only:
        node["discard"] = "unmap"
    if source.use == "scratch":
        node["cache"] = {"no-flush": True}
    elif source.use == "volume":
        node["cache"] = {"direct": True}
    return node


class _Opening:
    """Of one source, for a thread; it may come back when nobody waits for it."""

    def __init__(self, source: DiskSource) -> None:
        self._source = source
        self._fd = -1

    def run(self) -> int:
        """The descriptor. DiskProblem, OSError."""
        source = self._source
        flags = os.O_RDONLY if source.read_only else os.O_RDWR
        self._fd = fd = os.open(source.path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
        wanted = stat.S_IFBLK if source.use == "volume" else stat.S_IFREG
        if stat.S_IFMT(os.fstat(fd).st_mode) != wanted:
            self.close()
            what = "block device" if source.use == "volume" else "plain file"
            raise DiskProblem(f"{source.path} is no {what}")
        os.set_blocking(fd, True)
        return fd

    def close(self) -> None:
        """Safe to repeat."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _identity(fd: int, source: DiskSource) -> _Identity:
    found = os.fstat(fd)
    if source.use == "volume":
        return -1, found.st_rdev, source.read_only
    return found.st_dev, found.st_ino, source.read_only
