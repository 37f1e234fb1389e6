"""A file system that does not answer: FUSE mounts whose server reads nothing, or stops reading.

Whoever touches one waits until the end of the block, which aborts the connection: then all get ENOTCONN.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from crib.host import libc
from crib.host.mounts import unmount

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_INIT, _GETATTR, _STATFS, _OPENDIR, _READDIR, _RELEASEDIR, _ACCESS = 26, 3, 17, 27, 28, 29, 34
_LOOKUP, _MKNOD, _CREATE = 1, 8, 35
_SILENT = {2, 36, 42}
"""FORGET, INTERRUPT and BATCH_FORGET have no answer."""
_INIT_OUT = struct.Struct("<IIIIHHIIHHI7I")
_ATTR_OUT = struct.Struct("<QII6Q10I")


class Hang(threading.Event):
    """Set when nothing more is to be answered."""

    def __init__(self) -> None:
        super().__init__()
        self._taken = 0
        self._news = threading.Condition()

    def has_taken(self, number: int, seconds: float) -> bool:
        """Blocks until the server took so many questions since. Who asked one cannot be killed any more."""
        with self._news:
            return self._news.wait_for(lambda: self._taken >= number, seconds)

    def hangs(self, code: int) -> bool:
        if code == _INIT:  # until that is answered a question stays with who asks, who can be killed
            return False
        if self.is_set() and code not in _SILENT:
            with self._news:
                self._taken += 1
                self._news.notify_all()
        return self.is_set()


@contextlib.contextmanager
def hung_mount(path: Path) -> Iterator[None]:
    """Mount it on a directory. Nobody may look at that path meanwhile but who is meant to hang."""
    with _mounted(path):
        yield


@contextlib.contextmanager
def mount_that_hangs_later(path: Path) -> Iterator[Hang]:
    """An empty directory that answers until the event is set, and to nothing that is asked after that."""
    hang = Hang()
    with _served(path, hang.hangs):
        yield hang


@contextlib.contextmanager
def mount_that_makes_no_file(path: Path) -> Iterator[threading.Event]:
    """An empty directory that answers, but to who makes a file in it; set when somebody waits for that."""
    waits = threading.Event()

    def hangs(code: int) -> bool:
        if code in (_MKNOD, _CREATE):
            waits.set()
        return waits.is_set()

    with _served(path, hangs):
        yield waits


@contextlib.contextmanager
def _served(path: Path, hangs: Callable[[int], bool]) -> Iterator[None]:
    over = threading.Event()
    with _mounted(path) as fd:
        server = threading.Thread(target=_serve, args=(fd, hangs, over))
        server.start()
        try:
            yield
        finally:
            over.set()
            server.join()


@contextlib.contextmanager
def _mounted(path: Path) -> Iterator[int]:
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other"
        libc.mount("hung", str(path), "fuse", libc.MS_NOSUID | libc.MS_NODEV, options)
        yield fd
    finally:
        os.close(fd)
        unmount(str(path), lazy=True)


def _serve(fd: int, hangs: Callable[[int], bool], over: threading.Event) -> None:
    """The kernel's protocol (linux/fuse.h), as much of it as a directory without entries needs."""
    while not over.is_set():
        if not select.select([fd], [], [], 0.05)[0]:
            continue
        request = os.read(fd, 1 << 17)
        _length, code, unique, *_ = _IN.unpack_from(request)
        if hangs(code) or code in _SILENT:
            continue
        body = _answer(code)
        error = 0 if body is not None else -(errno.ENOENT if code == _LOOKUP else errno.ENOSYS)
        answer = body or b""
        with contextlib.suppress(FileNotFoundError):  # whoever asked was killed
            os.write(fd, _OUT.pack(_OUT.size + len(answer), error, unique) + answer)


def _answer(code: int) -> bytes | None:
    match code:
        case _ if code == _INIT:
            return _INIT_OUT.pack(7, 31, 1 << 16, 0, 16, 12, 1 << 16, 1, 1, 0, 0, *(0,) * 7)
        case _ if code == _GETATTR:
            #            valid     ino size blocks times    nanoseconds mode     links
            return _ATTR_OUT.pack(0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
        case _ if code == _OPENDIR:
            return bytes(16)
        case _ if code in (_READDIR, _RELEASEDIR, _ACCESS):
            return b""
        case _ if code == _STATFS:
            return bytes(80)
    return None
