"""What a filter says to a system call, on either machine. The kernel itself is asked elsewhere
(test_worker_confinement).
"""

from __future__ import annotations

import errno
import os
import signal
import struct

import pytest

from crib.host import seccomp

ALLOW, KILL = seccomp._ALLOW, seccomp._KILL
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386, ARM = 0x40000003, 0x40000028


class Filter:
    """The worker's filter for a machine, run as the kernel runs it (Documentation/networking/filter.rst)."""

    def __init__(self, machine: str, monkeypatch: pytest.MonkeyPatch, *, sockets: bool) -> None:
        self.numbers = {
            name: number
            for table in (seccomp._COMMON, seccomp._NETWORK, seccomp._JUDGED)
            for name, number in seccomp._numbers(table, machine).items()
        }
        judged = seccomp._numbers(seccomp._JUDGED, machine)
        monkeypatch.setattr(seccomp, "MACHINE", machine)
        monkeypatch.setattr(seccomp, "JUDGED", judged)
        allowed = [number for name, number in self.numbers.items() if name not in judged]
        self.code = seccomp._filter(allowed, sockets=sockets)
        self.arch = ARCHES[machine]

    def says(self, name: str | int, *arguments: int, arch: int = 0) -> int:
        number = self.numbers[name] if isinstance(name, str) else name
        six = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
        data = struct.pack("<IIQ6Q", number, arch or self.arch, 0, *six)
        value = at = 0
        while True:
            operation, if_so, if_not, operand = struct.unpack("=HBBI", self.code[at])
            at += 1
            if operation == 0x06:
                return int(operand)
            if operation == 0x20:
                (value,) = struct.unpack_from("<I", data, operand)
                continue
            met = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[operation]
            at += if_so if met else if_not

    def refuses(self, number: int, name: str | int, *arguments: int) -> bool:
        return self.says(name, *arguments) == seccomp._ERRNO | number


@pytest.fixture(params=ARCHES)
def worker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Filter:
    return Filter(request.param, monkeypatch, sockets=True)


def test_what_is_in_the_lists_is_allowed_and_nothing_else(worker: Filter) -> None:
    judged = set(seccomp.JUDGED.values())
    listed = set(worker.numbers.values()) - judged
    for number in range(600):
        if number in listed:
            assert worker.says(number) == ALLOW
        elif number not in judged:
            assert worker.refuses(errno.ENOSYS, number)
    assert worker.refuses(errno.ENOSYS, "seccomp")


def test_numbers_of_another_architecture_kill(worker: Filter) -> None:
    for arch in {I386, ARM, *ARCHES.values()} - {worker.arch}:
        assert worker.says("read", arch=arch) == KILL
    x32 = worker.says(0x4000_0000 + worker.numbers["read"])
    assert x32 == (KILL if worker.arch == ARCHES["x86_64"] else seccomp._ERRNO | errno.ENOSYS)


def test_clone_makes_threads_without_namespaces(worker: Filter) -> None:
    thread = 0x3D0F00
    assert worker.says("clone", thread) == ALLOW
    assert worker.refuses(errno.EPERM, "clone", int(signal.SIGCHLD))
    for flag in (0x80, 0x20000, *(1 << bit for bit in range(25, 31))):
        assert worker.refuses(errno.EPERM, "clone", thread | flag)


def test_arguments_decide_and_upper_halves_count_where_the_kernel_reads_them(worker: Filter) -> None:
    assert worker.says("prctl", 15) == ALLOW
    assert worker.refuses(errno.EPERM, "prctl", 22)
    assert worker.says("ioctl", 3, 0x5421) == ALLOW
    assert worker.refuses(errno.ENOTTY, "ioctl", 0, 0x5412)
    assert worker.says("prlimit64", 0, 7, 0) == ALLOW
    assert worker.refuses(errno.EPERM, "prlimit64", 0, 7, 0x1000)
    assert worker.refuses(errno.EPERM, "prlimit64", 0, 7, 1 << 32)
    assert worker.says("tgkill", os.getpid(), 1, 6) == ALLOW
    assert worker.refuses(errno.EPERM, "tgkill", os.getpid() + 1, 1, 6)


def test_sockets_are_tcp_udp_and_unix(worker: Filter) -> None:
    for family, protocol in ((1, 0), (2, 0), (2, 6), (2, 17), (10, 6), (10, 17)):
        assert worker.says("socket", family, 1, protocol) == ALLOW
    assert worker.refuses(errno.EPROTONOSUPPORT, "socket", 2, 1, 132)
    assert worker.refuses(errno.EAFNOSUPPORT, "socket", 16, 3, 0)
    assert worker.says("socketpair", 1) == ALLOW
    assert worker.refuses(errno.EAFNOSUPPORT, "socketpair", 2)


@pytest.mark.parametrize("machine", ARCHES)
def test_who_needs_no_socket_makes_none(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacker = Filter(machine, monkeypatch, sockets=False)
    for name in ("socket", "socketpair"):
        assert unpacker.refuses(errno.ENOSYS, name, 1)
