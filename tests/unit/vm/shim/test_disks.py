"""Disks of a VM: what qemu is told, and what it is told no more."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crib.vm.shim import disks as disks_module
from crib.vm.shim.disk_note import FILE, BlockVolume, DiskNote, encode_note, read_note
from crib.vm.shim.disks import DiskProblem, Disks, DiskSource, block_node
from crib.vm.shim.options import OptionProblem
from crib.vm.shim.qmp import Qmp, QmpFailed


class FakeQemu:
    """The other end of QMP: it does what it is told, unless it has an error for a command."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.errors: dict[str, str] = {}
        self.descriptors: list[str] = []
        end.setblocking(False)
        self._say({"QMP": {"version": {}}})
        asyncio.get_running_loop().add_reader(end, self._read)

    def names(self) -> list[str]:
        return [name for name, _ in self.told]

    def _say(self, message: dict[str, Any]) -> None:
        self._end.send(json.dumps(message).encode() + b"\r\n")

    def _read(self) -> None:
        data, found, _, _ = socket.recv_fds(self._end, 65536, 4)
        if not data:
            self.close()
            return
        for fd in found:
            self.descriptors.append(os.readlink(f"/proc/self/fd/{fd}"))
            os.close(fd)
        message = json.loads(data)
        name, arguments = message["execute"], message["arguments"]
        self.told.append((name, arguments))
        if name in self.errors:
            self._say({"error": {"class": "GenericError", "desc": self.errors[name]}})
            return
        if name == "device_del":
            self._say({"event": "DEVICE_DELETED", "data": {"path": "/machine/peripheral"}})
            self._say({"event": "DEVICE_DELETED", "data": {"device": arguments["id"], "path": "/x"}})
        self._say({"return": {}})

    def close(self) -> None:
        if self._end.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._end)
            self._end.close()


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Disks, FakeQemu]]:
    ours, theirs = socket.socketpair()
    qemu, disks = FakeQemu(theirs), Disks(Qmp(ours))
    yield disks, qemu
    disks.close()
    qemu.close()


@pytest.fixture
def layer(tmp_path: Path) -> DiskSource:
    path = tmp_path / "layer"
    path.write_bytes(b"of an image")
    return DiskSource(str(path), "layer", read_only=True)


async def test_a_layer_is_one_disk_for_all_who_have_it(
    ends: tuple[Disks, FakeQemu], layer: DiskSource
) -> None:
    disks, qemu = ends
    assert [await disks.attach(owner, layer) for owner in ("one", "two", "one")] == [0, 0, 0]
    assert qemu.names() == ["qmp_capabilities", "add-fd", "blockdev-add", "remove-fd", "device_add"]
    assert qemu.descriptors == [layer.path]
    device = {"driver": "scsi-hd", "id": "ddisk0", "drive": "disk0", "serial": "disk0"}
    assert qemu.told[-1][1] == {**device, "bus": "disks.0", "scsi-id": 0, "lun": 0}
    await disks.release("one")
    assert qemu.names()[5:] == []
    await disks.release("two")
    await disks.release("two")
    assert qemu.names()[5:] == ["device_del", "blockdev-del"]
    assert await disks.attach("three", layer) == 1, "the guest may still be busy with the end of number 0"


async def test_what_qemu_refuses_is_told_and_leaves_nothing(
    ends: tuple[Disks, FakeQemu], layer: DiskSource
) -> None:
    disks, qemu = ends
    qemu.errors["device_add"] = "no room"
    with pytest.raises(QmpFailed, match="qemu, device_add: no room"):
        await disks.attach("one", layer)
    assert qemu.names()[-1] == "blockdev-del"
    qemu.errors = {"blockdev-add": "not today"}
    with pytest.raises(QmpFailed, match="not today"):
        await disks.attach("one", layer)
    assert qemu.names()[-1] == "remove-fd"
    qemu.errors = {}
    before = len(qemu.told)
    await disks.release("one")
    assert len(qemu.told) == before


async def test_only_files_and_block_devices_can_be_disks(
    ends: tuple[Disks, FakeQemu], layer: DiskSource, tmp_path: Path
) -> None:
    disks, qemu = ends
    for source, words in (
        (DiskSource(layer.path, "volume"), "is no block device"),
        (DiskSource(str(tmp_path), "layer", read_only=True), "is no plain file"),
        (DiskSource("/dev/null", "scratch"), "is no plain file"),
        (DiskSource(f"{tmp_path}/missing", "layer", read_only=True), "No such file"),
    ):
        with pytest.raises(OSError, match=words):
            await disks.attach("one", source)
    os.mkfifo(fifo := f"{tmp_path}/fifo")
    with pytest.raises(DiskProblem):  # at once
        await disks.attach("one", DiskSource(fifo, "layer", read_only=True))
    assert qemu.told == []


async def test_there_are_only_so_many(
    ends: tuple[Disks, FakeQemu], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks, _ = ends
    monkeypatch.setattr(disks_module, "MOST_DISKS", 2)
    sources = [DiskSource(str(tmp_path / str(number)), "scratch") for number in range(3)]
    for source in sources:
        Path(source.path).touch()
    assert [await disks.attach(source.path, source) for source in sources[:2]] == [0, 1]
    with pytest.raises(DiskProblem, match="2 disks already"):
        await disks.attach("three", sources[2])
    await disks.release(sources[0].path)
    assert await disks.attach("three", sources[2]) == 0


async def test_a_qemu_that_has_gone_is_told_to_who_waits(
    ends: tuple[Disks, FakeQemu], layer: DiskSource
) -> None:
    disks, qemu = ends
    await disks.attach("one", layer)
    qemu.close()
    with pytest.raises(QmpFailed, match=r"gone|Broken pipe"):
        await disks.release("one")
    disks.close()
    await disks.release("one")
    with pytest.raises(QmpFailed, match="gone"):
        await disks.attach("one", layer)


def test_who_writes_what_decides_about_caches() -> None:
    layer = block_node("disk1", "/dev/fdset/1", DiskSource("/x", "layer", read_only=True))
    assert (layer["driver"], layer["read-only"], layer.get("cache")) == ("file", True, None)
    scratch = block_node("disk1", "/dev/fdset/1", DiskSource("/x", "scratch"))
    assert (scratch["cache"], scratch["discard"]) == ({"no-flush": True}, "unmap")
    volume = block_node("disk1", "/dev/fdset/1", DiskSource("/x", "volume"))
    assert (volume["driver"], volume["cache"]) == ("host_device", {"direct": True})


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_note(str(tmp_path)) == DiskNote()
    note = DiskNote(("/top", "/base"), "/disk", (BlockVolume("/dev/x", "/dev/loop0", read_only=True),))
    (tmp_path / FILE).write_bytes(encode_note(note))
    assert read_note(str(tmp_path)) == note
    for bad in (b"no json", b"[]", b'{"layers": ["/a"], "disk": "", "volumes": []}', b'{"layers": []}'):
        (tmp_path / FILE).write_bytes(bad)
        with pytest.raises(OptionProblem):
            read_note(str(tmp_path))
