"""Programs run from a sealed copy in memory (memfd_create(2), fcntl(2) F_ADD_SEALS).

OCI runtimes do not trust their own file: a container could write to it through /proc/PID/exe
(CVE-2019-5736). So crun and runc copy themselves to a sealed memfd at each start and execute that. A copy
that was sealed once for all is recognised, trusted, and started directly: a program start less each time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass

_ADD_SEALS = 1033  # linux/fcntl.h; the fcntl module has the names only where the C library had them
_ALL_SEALS = 0xF  # seal, shrink, grow, write: what the runtimes look for
_MFD_EXEC = 0x10  # kernel 6.3: without it, a node that asks for noexec memfds logs or refuses
_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class _Copy:
    path: str
    original: tuple[int, int, int, int]


_copies: dict[str, _Copy] = {}


def seal(program: str) -> bool:
    """Run `program` (an absolute path) from a sealed copy from now on; False where that cannot be had."""
    try:
        _copies[program] = _make(program)
    except OSError:
        return False
    return True


def executable(program: str) -> str:
    """What to execute for `program`: its copy, made anew when the file was replaced, or the file itself.

    The path names a descriptor of this process and is good for as long as it lives.
    """
    copy = _copies.get(program)
    if copy is None:
        return program
    try:
        if copy.original != _identity(os.stat(program)):
            copy = _copies[program] = _make(program)
    except OSError:
        return program
    return copy.path


def _make(program: str) -> _Copy:
    with open(program, "rb") as file:
        identity = _identity(os.fstat(file.fileno()))
        content = file.read(_LIMIT + 1)
    if len(content) > _LIMIT or not content.startswith(b"\x7fELF"):
        raise OSError(f"{program} is not a program that can be copied")
    fd = _create(os.path.basename(program))
    # It is never closed: a caller that has its path may be about to execute it.
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    fcntl.fcntl(fd, _ADD_SEALS, _ALL_SEALS)
    return _Copy(f"/proc/{os.getpid()}/fd/{fd}", identity)


def _create(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    with contextlib.suppress(OSError):  # EINVAL before kernel 6.3
        return os.memfd_create(name, flags | _MFD_EXEC)
    return os.memfd_create(name, flags)


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
