"""What processes that read images cannot do any more, tried in processes that are confined by the same
code.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crib.backends.images import image_worker
from crib.host import seccomp
from crib.host.seccomp import JUDGED, MACHINE
from crib.model.errors import Unavailable
from tests.images import write_saved_archive
from tests.system.labs.image_lab import image_lab
from tests.system.labs.registry_lab import noise_image

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="workers give up what only root has"),
    pytest.mark.skipif(bool(seccomp.unavailable()), reason="no filters of system calls here"),
]

SOURCE = Path(__file__).resolve().parents[3] / "src"
FORBIDDEN: dict[str, tuple[int, int]] = {
    # Namespaces and mounts.
    "unshare": (272, 97),
    "setns": (308, 268),
    "clone3": (435, 435),
    "chroot": (161, 51),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "mount_setattr": (442, 442),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    # Programs and other processes.
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "kill": (62, 129),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "tkill": (200, 130),
    "setpriority": (141, 140),
    # Frequent ways into the kernel.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "io_setup": (206, 0),
    "splice": (275, 76),
    "vmsplice": (278, 75),
    "tee": (276, 77),
    "personality": (135, 92),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "fanotify_init": (300, 262),
    "inotify_init1": (294, 26),
    "quotactl": (179, 60),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "seccomp": (317, 277),
    # The kernel itself, the machine, and rights.
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "acct": (163, 89),
    "sethostname": (170, 161),
    "clock_settime": (227, 112),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setgroups": (116, 159),
    "capset": (126, 91),
    # Servers.
    "listen": (50, 201),
    "accept4": (288, 242),
}
"""By their numbers on x86-64 and arm64. Nothing of it does harm with arguments of zero and no rights."""

_PRELUDE = """
import ctypes, errno, json, os, signal, socket, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    ctypes.set_errno(0)
    six = [ctypes.c_ulong(one) for one in (*arguments, 0, 0, 0, 0, 0, 0)][:6]
    found = libc.syscall(ctypes.c_long(number), *six)
    return found if found >= 0 else errno.errorcode[ctypes.get_errno()]
def made(family, kind, protocol=0):
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "made"
def thread():
    done = []
    one = threading.Thread(target=lambda: done.append(1))
    one.start()
    one.join()
    return len(done)
def clone(flags):
    found = call({clone}, flags)
    if found == 0:
        os._exit(0)
    return found
"""
_WORKER = """
from crib.backends.images.worker import main
async def serve(sock, memory):
    print(json.dumps({asked}), flush=True)
main._serve = serve
main.main([sys.argv[1], "65534", "65534", str(os.getppid()), "0"])
"""
_UNPACKER = """
from crib.backends.images.unpacked import unpack_main
def answer(source, root):
    return unpack_main.UnpackAnswer(error=json.dumps({asked}))
unpack_main._answer = answer
unpack_main.main(["-1", sys.argv[1], str(os.getppid())])
"""


def run(kind: str, asked: str, directory: Path) -> subprocess.CompletedProcess[bytes]:
    """Ask something within a process that has gone through the whole of its `main`."""
    body = {"worker": _WORKER, "unpacker": _UNPACKER}[kind].replace("{asked}", asked)
    prelude = _PRELUDE.replace("{clone}", str(JUDGED["clone"])) + INT_80
    ours, theirs = socket.socketpair()
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd = theirs.fileno() if kind == "worker" else place
        return subprocess.run(
            [sys.executable, "-c", prelude + body, str(fd)],
            env={"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]},
            cwd=directory,
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(place)
        ours.close()
        theirs.close()


def answered(kind: str, asked: str, directory: Path) -> Any:
    done = run(kind, asked, directory)
    assert done.returncode == 0, done.stderr.decode()
    begin, end = done.stdout.index(b"{"), done.stdout.rindex(b"}") + 1
    return json.loads(done.stdout[begin:end])


KINDS = pytest.mark.parametrize("kind", ["worker", "unpacker"])


@KINDS
def test_calls_that_no_reader_of_images_needs_are_not_there(kind: str, tmp_path: Path) -> None:
    numbers = {name: both[MACHINE == "aarch64"] for name, both in FORBIDDEN.items()}
    found = answered(kind, f"{{name: call(number) for name, number in {numbers!r}.items()}}", tmp_path)
    assert {name: said for name, said in found.items() if said != "ENOSYS"} == {}


@KINDS
def test_threads_can_be_made_and_neither_processes_nor_namespaces(kind: str, tmp_path: Path) -> None:
    flags = {"process": signal.SIGCHLD, **{f"{one:#x}": one | signal.SIGCHLD for one in NAMESPACES}}
    thread_in_namespace = 0x10000 | 0x100 | 0x800 | 0x10000000
    asked = "{'thread': thread(), 'both': clone(%d), **{name: clone(one) for name, one in %r.items()}}"
    found = answered(kind, asked % (thread_in_namespace, {k: int(v) for k, v in flags.items()}), tmp_path)
    assert found.pop("thread") == 1
    assert set(found.values()) == {"EPERM"}


NAMESPACES = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)


def test_a_worker_makes_sockets_of_tcp_udp_and_unix_only(tmp_path: Path) -> None:
    sockets = {"tcp": (2, 1, 0), "tcp6": (10, 1, 6), "udp": (2, 2, 17), "unix": (1, 1, 0)}
    odd = {"raw": (2, 3, 255), "icmp": (2, 2, 1), "sctp": (2, 1, 132), "mptcp": (2, 1, 262)}
    others = {f"{n}": (n, 2, 0) for n in range(3, 47) if n != socket.AF_INET6}
    asked = f"{{name: made(*how) for name, how in {sockets | odd | others!r}.items()}}"
    found = answered("worker", asked, tmp_path)
    for name in ("tcp", "tcp6", "udp", "unix"):
        assert found.pop(name) == "made"
    assert {found.pop(name) for name in ("raw", "icmp", "sctp", "mptcp")} == {"EPROTONOSUPPORT"}
    assert set(found.values()) == {"EAFNOSUPPORT"}


def test_an_unpacker_makes_no_socket(tmp_path: Path) -> None:
    found = answered("unpacker", "{'tcp': made(2, 1), 'unix': made(1, 1)}", tmp_path)
    assert set(found.values()) == {"ENOSYS"}


@KINDS
def test_calls_with_many_meanings_keep_the_harmless_ones(kind: str, tmp_path: Path) -> None:
    numbers = {name: JUDGED[name] for name in ("prctl", "ioctl", "prlimit64", "tgkill")}
    asked = (
        "(lambda n: {'name': call(n['prctl'], 15, ctypes.addressof(ctypes.create_string_buffer(b'x'))),"
        " 'dumpable': call(n['prctl'], 4, 1), 'securebits': call(n['prctl'], 28, 0),"
        " 'sti': call(n['ioctl'], 0, 0x5412), 'limits': call(n['prlimit64'], 0, 7, 0, 0),"
        " 'raise': call(n['prlimit64'], 0, 7, ctypes.addressof(ctypes.create_string_buffer(16)), 0),"
        " 'other': call(n['tgkill'], os.getppid(), os.getppid(), 0),"
        " 'own': call(n['tgkill'], os.getpid(), threading.get_native_id(), 0)})(%r)"
    )
    assert answered(kind, asked % numbers, tmp_path) == {
        "name": 0,
        "dumpable": "EPERM",
        "securebits": "EPERM",
        "sti": "ENOTTY",
        "limits": 0,
        "raise": "EPERM",
        "other": "EPERM",
        "own": 0,
    }


INT_80 = """
import mmap
def int_80():
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
"""


@pytest.mark.skipif(MACHINE != "x86_64", reason="arm64 kernels have no such calls for 64-bit programs")
@KINDS
@pytest.mark.parametrize("way", ["x32", "i386"])
def test_calls_of_another_architecture_end_the_process(way: str, kind: str, tmp_path: Path) -> None:
    asked = "{'pid': call(0x40000000 + 39)}" if way == "x32" else "{'pid': int_80()}"
    done = run(kind, asked, tmp_path)
    # Without the emulation of i386 the kernel ends it before any filter is asked.
    assert -done.returncode in (signal.SIGSYS, signal.SIGSEGV if way == "i386" else signal.SIGSYS)
    assert done.stdout == b""


async def test_a_worker_has_a_filter_and_nothing_of_the_daemons_log(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    write_saved_archive(archive, [noise_image(1000)])
    async with image_lab(tmp_path / "lab") as lab:
        await lab.store.import_archive(str(archive), lab.told.append)
        pid = lab.store.worker_pid
        status = Path(f"/proc/{pid}/status").read_text()
        assert "\nSeccomp:\t2\n" in status
        assert os.readlink(f"/proc/{pid}/fd/2").startswith("pipe:")
        ours = {os.readlink(f"/proc/self/fd/{fd}") for fd in (1, 2)}
        theirs = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert ours & theirs <= {"/dev/null"}


async def test_what_a_worker_says_comes_into_the_log_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(image_worker, "_START", "raise SystemExit('\\x1b[31mno \\x07way')")
    archive = write_saved_archive(tmp_path / "image.tar", [noise_image(1000)])
    async with image_lab(tmp_path / "lab") as lab:
        with pytest.raises(Unavailable, match="went away"):
            await lab.store.import_archive(str(archive), lab.told.append)
    assert any(
        record.levelname == "WARNING"
        and re.fullmatch(r"image worker \(pid \d+\): \[31mno  way", record.message)
        for record in caplog.records
    )


async def test_a_kernel_without_filters_is_told_of_once_and_pulls_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(seccomp, "unavailable", lambda: "this kernel has none")
    archive = write_saved_archive(tmp_path / "image.tar", [noise_image(1000)])
    async with image_lab(tmp_path / "lab") as lab:
        for _ in range(2):
            await lab.store.import_archive(str(archive), lab.told.append)
    assert caplog.text.count("this kernel has none") == 1


def test_where_nothing_can_be_confined_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "MACHINE", "riscv64")
    assert "riscv64" in seccomp.unavailable()
    seccomp.confine(sockets=True)
    assert "\nSeccomp:\t0\n" in Path("/proc/self/status").read_text()
