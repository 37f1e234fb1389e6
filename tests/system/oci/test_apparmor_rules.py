"""Each rule of the profile `crib-default`, with AppArmor enforcing (`script/guest trixie`).

Two containers of one pod differ in their profile alone: what the kernel lets the unconfined one do is denied
to the other. Both have all capabilities, no seccomp filter and nothing masked: nothing else denies it.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from crib.host import apparmor
from crib.host.processes import run
from crib.model.container import (
    Capabilities,
    ContainerConfig,
    ContainerRecord,
    ContainerSecurity,
    ExecResult,
    Mount,
)
from crib.model.sandbox import NamespaceMode, NamespaceOptions, ProfileType, SecurityProfile
from tests.system.labs.oci_setup import OciLab, oci_lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not apparmor.is_enabled(), reason="the kernel has no AppArmor, or it is off"),
]

SENDER = f"crib-test-{secrets.token_hex(3)}"
"""A profile that may send any signal to anybody."""
NODE_PROGRAMS = tuple(
    Mount(container_path=place, host_path=path, readonly=True)
    for place, path in (("/usr", "/usr"), ("/lib", "/usr/lib"), ("/lib64", "/usr/lib64"))
)
"""Python, and the programs of util-linux, which use the newer system calls."""
PLACES = (
    *("kernel", "kernel/security", "firmware", "fusion", "fs/ext4", "fs/cifs", "fs/cgroup"),
    *("devices/virtual/powercap", "devices/virtual/tty"),
)
"""Directories of /sys with a file `x` in each. A path is a path to AppArmor, whatever is mounted there: these
are on a tmpfs, so that no test writes to the node, nor hangs on what its kernel has.
"""
DENIED = ("permission denied", "operation not permitted", "cannot mount")
"""What programs say. The last is what mount(8) makes of it when it has tried read-only as well."""
PREPARED = "; ".join(
    (
        "set -e",
        "mount -t tmpfs none /sys",
        *(f"mkdir -p /sys/{place}; echo old > /sys/{place}/x" for place in PLACES),
        "mkdir /mnt /mnt/root /mnt/away /mnt/place",
        "mount -t tmpfs none /mnt/root",
        "mkdir /mnt/root/old",
        "mount -t tmpfs none /mnt/away",
    )
)
SEIZE = """\
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(0x4206, int(sys.argv[1]), 0, 0):  # PTRACE_SEIZE
    sys.exit(os.strerror(ctypes.get_errno()))
"""


@dataclass
class Pair:
    """`held` is under `crib-default`, `free` is unconfined, `other` is under a profile that is neither."""

    lab: OciLab
    held: ContainerRecord
    free: ContainerRecord
    other: ContainerRecord

    async def run(self, record: ContainerRecord, *argv: str) -> ExecResult:
        return await self.lab.execute(record, *argv)

    async def works(self, record: ContainerRecord, *argv: str) -> None:
        result = await self.run(record, *argv)
        assert result.exit_code == 0, result

    async def is_denied(self, record: ContainerRecord, *argv: str) -> None:
        result = await self.run(record, *argv)
        assert result.exit_code != 0, argv
        words = (result.stdout + result.stderr).decode().lower()
        assert any(said in words for said in DENIED), result

    async def differs(self, *argv: str) -> None:
        await self.works(self.free, *argv)
        await self.is_denied(self.held, *argv)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncIterator[Pair]:
    body = "file, network, capability, signal, ptrace (readby), unix,"
    text = f"profile {SENDER} flags=(attach_disconnected,mediate_deleted) {{ {body} }}\n"
    async with contextlib.AsyncExitStack() as undo:
        lab = await undo.enter_async_context(oci_lab("crun"))
        _parse("--replace", text)
        undo.callback(_parse, "--remove", text)
        sandbox = await undo.enter_async_context(lab.pod(lab.sandbox(pid=NamespaceMode.POD)))
        made = []
        for profile in (
            SecurityProfile(ProfileType.RUNTIME_DEFAULT),
            SecurityProfile(ProfileType.UNCONFINED),
            SecurityProfile(ProfileType.LOCALHOST, SENDER),
        ):
            record = await undo.enter_async_context(lab.running(sandbox, _config(profile)))
            enter = ("nsenter", "--mount", f"--target={_pid(record)}", "/bin/sh", "-c", PREPARED)
            (await run(enter)).check()
            made.append(record)
        yield Pair(lab, *made)


def _config(profile: SecurityProfile) -> ContainerConfig:
    spaces = NamespaceOptions(pid=NamespaceMode.POD)
    capabilities = Capabilities(add=("ALL",))
    security = ContainerSecurity(namespaces=spaces, capabilities=capabilities, apparmor=profile)
    return ContainerConfig(
        name=f"c{profile.kind}", image="busybox", command=("sleep", "1000"), security=security,
        mounts=NODE_PROGRAMS,
    )  # fmt: skip


def _parse(verb: str, text: str) -> None:
    subprocess.run(
        ["apparmor_parser", "--skip-cache", verb], input=text, text=True, capture_output=True, check=True
    )


def _pid(record: ContainerRecord) -> int:
    assert record.process is not None
    return record.process.pid


def inner_pid(record: ContainerRecord) -> str:
    """The number of the container's first process in its pod."""
    status = Path(f"/proc/{_pid(record)}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("NSpid:"))
    return line.split()[-1]


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


@pytest.mark.parametrize(
    "script",
    [
        "/bin/mount -t tmpfs none /mnt/place && /usr/bin/umount /mnt/place",
        "/bin/mount -o bind /bin /mnt/place && /usr/bin/umount /mnt/place",
        "/bin/mount -o remount,ro /mnt/root && /bin/mount -o remount,rw /mnt/root",
        "/bin/mount --make-shared /mnt/root && /bin/mount --make-private /mnt/root",
        "/usr/bin/mount --read-only -t tmpfs none /mnt/place && /usr/bin/umount /mnt/place",
        "/usr/bin/mount --move /mnt/root /mnt/place && /usr/bin/mount --move /mnt/place /mnt/root",
        "/usr/bin/unshare --mount --propagation=unchanged /usr/sbin/pivot_root /mnt/root /mnt/root/old",
    ],
    ids=["new", "bind", "remount", "propagation", "new by fsopen(2)", "move", "pivot_root(2)"],
)
async def test_nothing_is_mounted(pair: Pair, script: str) -> None:
    await pair.differs(*shell(script))


async def test_what_is_mounted_may_be_unmounted(pair: Pair) -> None:
    for record in (pair.free, pair.held):
        await pair.works(record, "/usr/bin/umount", "/mnt/away")


@pytest.mark.parametrize(
    "path",
    [
        "/proc/version",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/proc/sys/vm/swappiness",
        "/proc/sys/net/core/somaxconn",
        "/proc/sys/kernel/panic",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/sysrq",
        "/proc/sys/kernel/sem",
    ],
)
async def test_settings_of_the_node_in_proc_are_not_opened_for_writing(pair: Pair, path: str) -> None:
    await pair.differs(*shell(f": >> {path}"))


@pytest.mark.skipif(not Path("/proc/scsi/scsi").exists(), reason="this kernel has no /proc/scsi")
async def test_scsi_devices_are_not_opened_for_writing(pair: Pair) -> None:
    await pair.differs(*shell(": >> /proc/scsi/scsi"))


async def test_the_nodes_memory_is_not_read(pair: Pair) -> None:
    await pair.differs("head", "-c", "1", "/proc/kcore")


async def test_a_process_may_write_what_is_its_own_in_proc(pair: Pair) -> None:
    script = "echo 1000 > /proc/self/oom_score_adj; read a < /proc/sys/kernel/shmmni"
    for record in (pair.free, pair.held):
        await pair.works(record, *shell(f"{script}; echo $a > /proc/sys/kernel/shmmni"))


@pytest.mark.parametrize(
    "place",
    ["kernel", "firmware", "fusion", "fs/ext4", "fs/cifs", "devices/virtual/tty"],
)
async def test_nothing_in_sys_is_written_but_cgroups(pair: Pair, place: str) -> None:
    await pair.differs(*shell(f"echo new >> /sys/{place}/x"))
    if place != "firmware":
        await pair.works(pair.held, "cat", f"/sys/{place}/x")


async def test_cgroups_may_be_written(pair: Pair) -> None:
    for record in (pair.free, pair.held):
        await pair.works(record, *shell("echo new >> /sys/fs/cgroup/x"))


@pytest.mark.parametrize("place", ["firmware", "devices/virtual/powercap", "kernel/security"])
async def test_places_in_sys_that_are_not_even_read(pair: Pair, place: str) -> None:
    await pair.differs("cat", f"/sys/{place}/x")


async def test_the_kernels_ciphers_are_not_reached_and_other_sockets_are(pair: Pair) -> None:
    script = "import socket, sys; socket.socket(getattr(socket, sys.argv[1]), int(sys.argv[2])).close()"
    await pair.differs("/usr/bin/python3", "-c", script, "AF_ALG", "5")
    for family, kind in (("AF_INET", "1"), ("AF_INET6", "2"), ("AF_UNIX", "1"), ("AF_PACKET", "3")):
        await pair.works(pair.held, "/usr/bin/python3", "-c", script, family, kind)


async def test_no_signal_goes_to_anybody_else(pair: Pair) -> None:
    kill = ("kill", "-CONT")
    await pair.works(pair.free, *kill, inner_pid(pair.free))
    await pair.works(pair.held, *kill, inner_pid(pair.held))
    await pair.is_denied(pair.held, *kill, inner_pid(pair.free))


async def test_signals_come_from_the_node_and_from_nobody_else(pair: Pair) -> None:
    kill = ("kill", "-CONT")
    await pair.works(pair.other, *kill, inner_pid(pair.free))
    await pair.works(pair.free, *kill, inner_pid(pair.held))
    await pair.is_denied(pair.other, *kill, inner_pid(pair.held))


async def test_nobody_elses_process_is_traced_or_read(pair: Pair) -> None:
    trace = ("/usr/bin/python3", "-c", SEIZE)
    await pair.works(pair.free, *trace, inner_pid(pair.free))
    await pair.works(pair.held, *trace, inner_pid(pair.held))
    await pair.is_denied(pair.held, *trace, inner_pid(pair.free))
    read = "cat /proc/%s/environ > /tmp/read"
    await pair.works(pair.free, *shell(read % inner_pid(pair.free)))
    await pair.works(pair.held, *shell(read % inner_pid(pair.held)))
    await pair.is_denied(pair.held, *shell(read % inner_pid(pair.free)))


async def test_a_process_does_not_leave_its_profile(pair: Pair) -> None:
    change = "echo changeprofile %s | /usr/bin/dd of=/proc/self/attr/apparmor/current conv=notrunc"
    await pair.works(pair.free, *shell(change % "crib-default"))
    for name in ("unconfined", SENDER):
        await pair.is_denied(pair.held, *shell(change % name))


async def test_capabilities_and_files_are_left_to_the_kernel(pair: Pair) -> None:
    script = "/usr/bin/mknod /tmp/zero c 1 5 && /usr/sbin/chroot / /bin/true && echo x > /tmp/file"
    for record in (pair.free, pair.held):
        await pair.works(record, *shell(script))
