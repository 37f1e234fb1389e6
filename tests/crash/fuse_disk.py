"""A file system in memory over FUSE that logs all that is done to it, for power cuts (see tests.crash.power).

    python -m tests.crash.fuse_disk MOUNTPOINT LOG

The kernel's own protocol on /dev/fuse (linux/fuse.h), without a library: what a data directory needs is some
thirty calls. It is a process of its own, so that no page fault of a test can wait for a thread of that test,
and so that its end, however it comes, closes /dev/fuse and lets everybody go who waits for it. There is no
write-back cache: a write is in the log when its caller goes on, and what was only mapped when it is synced.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import stat
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

Op = tuple[object, ...]
"""A line of the log: its kind, then inode numbers, names and values; `tests.crash.power` reads them."""

ROOT = 1
_MAX_WRITE = 1 << 20
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_DESTROY = 38
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_FOREVER = 0
"""Seconds that the kernel may believe names and attributes: it asks each time, as nothing here takes long."""
_FATTR_MODE, _FATTR_UID, _FATTR_GID, _FATTR_SIZE, _FATTR_MTIME, _FATTR_MTIME_NOW = 1, 2, 4, 8, 32, 256
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22


@dataclass(eq=False)
class Inode:
    """A file, directory or link."""

    number: int
    mode: int
    uid: int = 0
    gid: int = 0
    data: bytearray = field(default_factory=bytearray)
    """Of a link its target."""
    names: dict[str, int] = field(default_factory=dict)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    links: int = 1
    device: int = 0
    mtime: int = field(default_factory=time.time_ns)

    def put(self, offset: int, data: bytes) -> None:
        if offset > len(self.data):
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self.mtime = time.time_ns()

    def resize(self, size: int) -> None:
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))
        self.mtime = time.time_ns()


class Refusal(Exception):
    """The answer is an errno(3)."""


class Disk:
    """Answers the kernel's requests, one after the other."""

    def __init__(self, log: BinaryIO) -> None:
        self._log = log
        self._inodes = {ROOT: Inode(ROOT, stat.S_IFDIR | 0o700)}
        self._caller = (0, 0)
        self._calls: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._lookup,
            3: lambda node, body: self._attributes(node),
            4: self._set_attributes,
            5: lambda node, body: bytes(self._inodes[node].data),
            6: self._symlink,
            8: self._mknod,
            9: self._mkdir,
            10: self._unlink,
            11: self._rmdir,
            12: lambda node, body: self._rename(node, body, 8),
            13: self._link,
            14: lambda node, body: _opened(),
            15: self._read,
            16: self._write,
            17: lambda node, body: struct.pack(
                "<QQQQQIIII24x", 1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096, 0
            ),
            18: lambda node, body: b"",
            20: self._sync,
            21: self._set_xattr,
            22: self._get_xattr,
            23: self._list_xattrs,
            24: self._remove_xattr,
            25: lambda node, body: b"",
            26: self._init,
            27: lambda node, body: _opened(),
            28: self._list,
            29: lambda node, body: b"",
            30: self._sync,
            35: self._create,
            43: self._allocate,
            45: lambda node, body: self._rename(node, body, 16),
        }

    def serve(self, fd: int) -> None:
        """Until it is unmounted or the connection is aborted (ENODEV)."""
        while True:
            try:
                request = os.read(fd, _MAX_WRITE + 65536)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                return
            _, opcode, unique, node, uid, gid, *_ = _IN.unpack_from(request)
            self._caller = (uid, gid)
            if opcode in (2, 36, 42):  # FORGET, INTERRUPT, BATCH_FORGET: nothing is answered
                continue
            code, answer = 0, b""
            try:
                call = self._calls.get(opcode)
                if call is None:
                    raise Refusal(errno.ENOSYS)
                answer = call(node, request[_IN.size :])
            except Refusal as refusal:
                code = int(refusal.args[0])
            try:
                os.write(fd, _OUT.pack(_OUT.size + len(answer), -code, unique) + answer)
            except FileNotFoundError:  # its caller was killed meanwhile
                continue
            if opcode == _DESTROY:
                return

    def _note(self, *op: object) -> None:
        self._log.write(pickle.dumps(op))

    def _init(self, node: int, body: bytes) -> bytes:
        _, _, readahead, offered = struct.unpack_from("<IIII", body)
        flags = offered & (_BIG_WRITES | _MAX_PAGES)
        pages = _MAX_WRITE // 4096
        head = struct.pack("<IIIIHHII", 7, 31, readahead, flags, 16, 12, _MAX_WRITE, 1)
        return head + struct.pack("<HH32x", pages, 0)

    def _lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(self._child(node, _name(body)))

    def _child(self, node: int, name: str) -> int:
        names = self._inodes[node].names
        if name not in names:
            raise Refusal(errno.ENOENT)
        return names[name]

    def _attributes(self, node: int) -> bytes:
        return struct.pack("<QII", _FOREVER, 0, 0) + self._attr(node)

    def _attr(self, node: int) -> bytes:
        inode = self._inodes[node]
        size, (seconds, nanos) = len(inode.data), divmod(inode.mtime, 10**9)
        blocks, links = -(-size // 512), 2 if stat.S_ISDIR(inode.mode) else inode.links
        times = (seconds, seconds, seconds, nanos, nanos, nanos)
        owner = (inode.mode, links, inode.uid, inode.gid, inode.device, 4096, 0)
        return _ATTR.pack(node, size, blocks, *times, *owner)

    def _entry(self, node: int) -> bytes:
        return struct.pack("<QQQQII", node, 0, _FOREVER, _FOREVER, 0, 0) + self._attr(node)

    def _set_attributes(self, node: int, body: bytes) -> bytes:
        valid, _, _, size, _, _, mtime, _, _, nanos, _, mode, _, uid, gid = struct.unpack_from(
            "<IIQQQQQQIIIIIII", body
        )
        inode = self._inodes[node]
        if valid & _FATTR_SIZE:
            inode.resize(size)
            self._note("truncate", node, size)
        if valid & _FATTR_MODE:
            inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)
        inode.uid = uid if valid & _FATTR_UID else inode.uid
        inode.gid = gid if valid & _FATTR_GID else inode.gid
        if valid & _FATTR_MTIME:
            inode.mtime = time.time_ns() if valid & _FATTR_MTIME_NOW else mtime * 10**9 + nanos
        if valid & (_FATTR_MODE | _FATTR_UID | _FATTR_GID):
            self._note("owner", node, inode.mode, inode.uid, inode.gid)
        return self._attributes(node)

    def _make(self, parent: int, name: str, inode: Inode) -> bytes:
        if name in self._inodes[parent].names:
            raise Refusal(errno.EEXIST)
        self._inodes[inode.number] = inode
        self._inodes[parent].names[name] = inode.number
        values = (inode.mode, inode.uid, inode.gid, bytes(inode.data), inode.device)
        self._note("make", parent, name, inode.number, *values)
        return self._entry(inode.number)

    def _fresh(self, mode: int, data: bytes = b"", device: int = 0) -> Inode:
        return Inode(len(self._inodes) + 1, mode, *self._caller, data=bytearray(data), device=device)

    def _mkdir(self, node: int, body: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", body)
        return self._make(node, _name(body[8:]), self._fresh(stat.S_IFDIR | mode & 0o7777))

    def _mknod(self, node: int, body: bytes) -> bytes:
        mode, device = struct.unpack_from("<II", body)
        return self._make(node, _name(body[16:]), self._fresh(mode, device=device))

    def _symlink(self, node: int, body: bytes) -> bytes:
        name, target = body.split(b"\0")[:2]
        return self._make(node, os.fsdecode(name), self._fresh(stat.S_IFLNK | 0o777, target))

    def _create(self, node: int, body: bytes) -> bytes:
        _, mode = struct.unpack_from("<II", body)
        return self._make(node, _name(body[16:]), self._fresh(stat.S_IFREG | mode & 0o7777)) + _opened()

    def _link(self, node: int, body: bytes) -> bytes:
        (old,) = struct.unpack_from("<Q", body)
        name = _name(body[8:])
        self._inodes[node].names[name] = old
        self._inodes[old].links += 1
        self._note("link", node, name, old)
        return self._entry(old)

    def _unlink(self, node: int, body: bytes) -> bytes:
        name = _name(body)
        self._inodes[self._child(node, name)].links -= 1
        del self._inodes[node].names[name]
        self._note("unlink", node, name)
        return b""

    def _rmdir(self, node: int, body: bytes) -> bytes:
        if self._inodes[self._child(node, _name(body))].names:
            raise Refusal(errno.ENOTEMPTY)
        return self._unlink(node, body)

    def _rename(self, node: int, body: bytes, head: int) -> bytes:
        (target,) = struct.unpack_from("<Q", body)
        (flags,) = struct.unpack_from("<I", body, 8) if head == 16 else (0,)
        old, new = map(os.fsdecode, body[head:].split(b"\0")[:2])
        if flags & ~1:  # all but RENAME_NOREPLACE
            raise Refusal(errno.EINVAL)
        moved, there = self._child(node, old), self._inodes[target].names
        if new in there:
            if flags:
                raise Refusal(errno.EEXIST)
            if self._inodes[there[new]].names:
                raise Refusal(errno.ENOTEMPTY)
            self._inodes[there[new]].links -= 1
        del self._inodes[node].names[old]
        there[new] = moved
        self._note("rename", node, old, target, new, moved)
        return b""

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        return bytes(self._inodes[node].data[offset : offset + size])

    def _write(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        data = body[40 : 40 + size]
        self._inodes[node].put(offset, data)
        self._note("write", node, offset, data)
        return struct.pack("<II", size, 0)

    def _allocate(self, node: int, body: bytes) -> bytes:
        _, offset, length, mode = struct.unpack_from("<QQQI", body)
        if mode not in (0, 1):
            raise Refusal(errno.EOPNOTSUPP)
        inode = self._inodes[node]
        if mode == 0 and offset + length > len(inode.data):
            inode.resize(offset + length)
            self._note("truncate", node, offset + length)
        return b""

    def _sync(self, node: int, body: bytes) -> bytes:
        self._note("sync", node)
        return b""

    def _list(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        answer = b""
        entries = [(".", node), ("..", node), *self._inodes[node].names.items()]
        for number, (name, child) in enumerate(entries[offset:], offset + 1):
            raw = os.fsencode(name)
            kind = stat.S_IFMT(self._inodes[child].mode) >> 12
            entry = struct.pack("<QQII", child, number, len(raw), kind) + raw
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer

    def _set_xattr(self, node: int, body: bytes) -> bytes:
        size, _ = struct.unpack_from("<II", body)
        name = _name(body[8:])
        value = body[8 + len(os.fsencode(name)) + 1 :][:size]
        self._inodes[node].xattrs[name] = value
        self._note("xattr", node, name, value)
        return b""

    def _get_xattr(self, node: int, body: bytes) -> bytes:
        value = self._inodes[node].xattrs.get(_name(body[8:]))
        if value is None:
            raise Refusal(errno.ENODATA)
        return _sized(body, value)

    def _list_xattrs(self, node: int, body: bytes) -> bytes:
        return _sized(body, b"".join(os.fsencode(name) + b"\0" for name in self._inodes[node].xattrs))

    def _remove_xattr(self, node: int, body: bytes) -> bytes:
        name = _name(body)
        if self._inodes[node].xattrs.pop(name, None) is None:
            raise Refusal(errno.ENODATA)
        self._note("xattr", node, name, None)
        return b""


def _name(body: bytes) -> str:
    return os.fsdecode(body.partition(b"\0")[0])


def _opened() -> bytes:
    return struct.pack("<QII", 0, 0, 0)


def _sized(body: bytes, value: bytes) -> bytes:
    """What getxattr(2) and listxattr(2) answer: the value, or its size to who gives no room."""
    (room,) = struct.unpack_from("<I", body)
    if not room:
        return struct.pack("<II", len(value), 0)
    if len(value) > room:
        raise Refusal(errno.ERANGE)
    return value


def main(mountpoint: str, log: str) -> None:
    """Mount, say so by a line, serve."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"cribdisk", mountpoint.encode(), b"fuse", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"cannot mount {mountpoint}")
    print("mounted", flush=True)
    with open(log, "wb", buffering=0) as file:
        Disk(file).serve(fd)


if __name__ == "__main__":
    main(*sys.argv[1:])
