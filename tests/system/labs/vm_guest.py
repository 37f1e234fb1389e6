"""The guest of VM pods for tests: its image, made once and kept, and one that boots under emulation.

The kernel is that of the distribution's package, which is fetched once. Images are below `store()`, by a
digest of what they are made from. Never KVM: a device that hangs would hang the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.labs.vm_agent import AgentCalls, connected

BUILD = ("-m", "crib.vm.build")
ROOT = Path(__file__).parents[3]
SOURCES = ("src/crib/__init__.py", "src/crib/vm", "src/crib/wire/mux.py", "src/crib/wire/erofs.py")
KERNEL_PACKAGE = "linux-image-cloud-amd64"
FETCH_SECONDS = 300.0
BUILD_SECONDS = 300.0
BOOT_SECONDS = 240.0
"""On a busy machine; an idle one takes 3 s."""
QEMU = "qemu-system-x86_64"
VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")
KEPT_IMAGES = 3
UNUSED_SECONDS = 6 * 3600.0
"""Older ones go: until then tests that run at the same time may boot from it."""


def store() -> Path:
    """Where kernels and images are kept: CRIB_VM_GUESTS, or else crib/vm in a cache."""
    chosen = os.environ.get("CRIB_VM_GUESTS")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache", "crib", "vm")


def guest_image() -> Path:
    """The directory that `crib vm build` makes. Skips the test, with the reason, where it cannot be made."""
    for program in (QEMU, "crun", "busybox", "ldd"):
        if shutil.which(program) is None:
            pytest.skip(f"a guest needs {program}")
    with _alone():
        kernel = _kernel()
        digest = _digest(kernel.name)
        image = store() / f"image-{digest}"
        if not (image / "manifest.json").exists():
            _build(kernel, image)
        image.touch()
        others = sorted(store().glob("image-*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in others[KEPT_IMAGES:]:
            if time.time() - old.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(old)
        return image


def guest_kernel() -> Path:
    """A directory with the kernel that images here are made with. Skips the test where none can be had."""
    with _alone():
        return _kernel()


@dataclass
class BootedGuest:
    """A guest that has greeted. `share` is the directory that it has at /run/crib/share."""

    calls: AgentCalls
    qemu: subprocess.Popen[bytes]
    share: Path
    console: Path

    def cpu_seconds(self) -> float:
        """What qemu used so far: a busy machine changes it little."""
        fields = Path(f"/proc/{self.qemu.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.asynccontextmanager
async def booted(image: Path, memory: int = 256, cpus: int = 1) -> AsyncIterator[BootedGuest]:
    """A guest under emulation, with a directory that it shares with this host. Nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="cvm") as scratch:
        share = Path(scratch, "share")
        share.mkdir()
        console = Path(scratch, "console")
        with _virtiofsd(share, Path(scratch, "fs.sock")):
            qemu = _started(qemu_words(image, Path(scratch), memory=memory, cpus=cpus))
            try:
                async with connected(Path(scratch, "agent.sock"), BOOT_SECONDS) as calls:
                    yield BootedGuest(calls, qemu, share, console)
            except TimeoutError:
                said = console.read_text(errors="replace") if console.exists() else ""
                raise AssertionError(f"the guest did not greet; its console:\n{said[-4000:]}") from None
            finally:
                qemu.kill()
                qemu.wait()


def qemu_words(image: Path, scratch: Path, *, memory: int, cpus: int) -> list[str]:
    """qemu's arguments; the agent's port is a listening socket."""
    kernel = f"console=ttyS0 quiet panic=-1 no_timer_check pci=lastbus=0 tsc_early_khz={_tsc_khz()}"
    return [
        QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-M", "microvm,pcie=on,rtc=on,pit=on,pic=on,memory-backend=memory",
        "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(cpus), "-m", f"{memory}M",
        "-object", f"memory-backend-memfd,id=memory,size={memory}M,share=on",
        "-kernel", str(image / "kernel"), "-initrd", str(image / "initrd"), "-append", kernel,
        "-chardev", f"file,id=console,path={scratch}/console", "-serial", "chardev:console",
        "-drive", f"file={image}/guest.erofs,id=root,if=none,format=raw,readonly=on,file.locking=off",
        "-device", "virtio-blk-pci,drive=root",
        "-chardev", f"socket,id=agent,path={scratch}/agent.sock,server=on,wait=off",
        "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=crib.agent",
        "-chardev", f"socket,id=share,path={scratch}/fs.sock",
        "-device", "vhost-user-fs-pci,chardev=share,tag=crib",
    ]  # fmt: skip


@contextlib.contextmanager
def _virtiofsd(share: Path, path: Path) -> Iterator[None]:
    program = next((path for path in VIRTIOFSD if os.path.exists(path)), None)
    if program is None:
        pytest.skip(f"a guest needs virtiofsd, at {' or '.join(VIRTIOFSD)}")
    words = f"source={share},sandbox=chroot,cache=auto,xattr,modcaps=+sys_admin,announce_submounts"
    options = ["-f", "-o", f"{words},log_level=warn"]
    if program.startswith("/usr/libexec"):
        options = [f"--shared-dir={share}", "--sandbox=chroot", "--announce-submounts", "--xattr"]
        options.append("--modcaps=+sys_admin")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(1)
        process = _started([program, f"--fd={listening.fileno()}", *options], listening.fileno())
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _started(words: list[str], *descriptors: int) -> subprocess.Popen[bytes]:
    """It ends with whoever started it, even by SIGKILL."""
    quiet = subprocess.DEVNULL
    ends = ("setpriv", "--pdeathsig", "KILL")
    return subprocess.Popen([*ends, *words], stdin=quiet, stderr=quiet, pass_fds=descriptors)


def _tsc_khz() -> int:
    """The rate of the host's counter, which emulation hands through: a guest that measures it may hang."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("cpu MHz"):
            return int(float(line.partition(":")[2]) * 1000)
    return 0


def _kernel() -> Path:
    """An unpacked kernel's package; skips the test where none can be had."""
    chosen = os.environ.get("CRIB_VM_KERNEL")
    if chosen:
        return Path(chosen)
    name = _newest_package()
    target = store() / name
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=store()) as scratch:
        words = ["apt-get", "-o", "APT::Sandbox::User=root", "download", name]
        done = subprocess.run(words, cwd=scratch, capture_output=True, timeout=FETCH_SECONDS, check=False)
        packages = list(Path(scratch).glob("*.deb"))
        if done.returncode or not packages:
            pytest.skip(f"the kernel's package {name} cannot be fetched: {done.stderr.decode()[-300:]}")
        unpacked = Path(scratch, "unpacked")
        subprocess.run(["dpkg", "-x", str(packages[0]), str(unpacked)], check=True, timeout=FETCH_SECONDS)
        unpacked.rename(target)
    return target


@functools.cache
def _newest_package() -> str:
    """A second of the CPU's time, which each test would need anew."""
    words = ["apt-cache", "depends", KERNEL_PACKAGE]
    try:
        said = subprocess.run(words, capture_output=True, text=True, timeout=FETCH_SECONDS, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        kept = sorted(store().glob("linux-image-*"))
        if not kept:
            pytest.skip(f"there is no kernel for a guest: {error}")
        return kept[-1].name
    found = [line.partition("Depends:")[2].strip() for line in said.splitlines() if "Depends:" in line]
    if not found:
        pytest.skip(f"no package of a kernel is known as {KERNEL_PACKAGE}")
    return found[0]


def _digest(kernel: str) -> str:
    made_of = hashlib.sha256(kernel.encode())
    for name in SOURCES:
        source = ROOT / name
        for path in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            made_of.update(path.read_bytes())
    return made_of.hexdigest()[:16]


def _build(kernel: Path, image: Path) -> None:
    words = [sys.executable, *BUILD, "--output", str(image), "--kernel", str(kernel)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"], done.stdout


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One process at a time looks for the image, and makes it if need be."""
    store().mkdir(parents=True, exist_ok=True)
    with (store() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def qemu_ended(guest: BootedGuest, limit: float) -> int:
    """qemu's exit code, once it has ended by itself. TimeoutError otherwise."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(limit):
        return await loop.run_in_executor(None, guest.qemu.wait, limit)
