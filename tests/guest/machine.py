"""qemu: the machine that a guest runs on, cold or from a saved state, and whether KVM is of use.

The process ends with whoever started it, even by SIGKILL. What the guest writes goes to an overlay that qemu
has unlinked, the console to a file without a name: nothing is left.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.guest.images import Image, LabError, store

PROBE_SECONDS = 10.0
"""For KVM to boot a kernel that finds no root: it takes one where KVM works."""
MONITOR_SECONDS = 30.0
"""For an answer of qemu's monitor."""
SAVE_SECONDS = 300.0
"""To write a guest's memory to disk, or read it."""
POLL_SECONDS = 0.2
"""Between two questions of how far the writing or reading of a memory is."""
TAIL_LINES = 40
UNIT_SECONDS = 900
"""For a unit of the guest to start: systemd gives 90 s, too little where others have the host's CPUs."""
QEMU = "qemu-system-x86_64"


class GuestLost(LabError):
    """The guest ended, was reset, or does not answer."""


@dataclass(frozen=True)
class Design:
    """What a machine is made of; `accelerator` is kvm or tcg, `memory` in MiB."""

    image: Image
    accelerator: str
    memory: int
    cpus: int

    def words(self) -> list[str]:
        """qemu's arguments: direct kernel boot, nothing that a guest does not need."""
        tcg = ["tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off"]
        accelerator = ["kvm", "-cpu", "host"] if self.accelerator == "kvm" else tcg
        patience = f"systemd.default_timeout_start_sec={UNIT_SECONDS}"
        # no_timer_check: a busy host lets the timer tick too late for the kernel's test, which then panics
        kernel = f"mitigations=off no_timer_check panic=-1 {patience} {self.image.recipe.kernel}"
        words = f"root=/dev/vda rw console=ttyS0 quiet {kernel}"
        return [
            QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-accel", *accelerator,
            "-m", str(self.memory), "-smp", str(self.cpus), "-kernel", str(self.image.directory / "vmlinuz"),
            "-initrd", str(self.image.directory / "initrd"), "-append", words,
            "-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:22",
            "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci",
        ]  # fmt: skip


@dataclass(frozen=True)
class Saved:
    """A guest that has booted: the overlay of its disk, and its memory."""

    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    @property
    def memory(self) -> Path:
        return self.directory / "memory.zst"


def saved_of(design: Design) -> Saved:
    """Where this machine's saved state is, or would be; another qemu, or other arguments, have another."""
    version = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256(json.dumps([version, design.words()]).encode()).hexdigest()[:12]
    return Saved(design.image.directory / f"booted-{digest}")


class Machine:
    """One qemu. `disk` is an overlay to write to, for a state that is being saved; else it is thrown away."""

    def __init__(self, design: Design, *, saved: Saved | None = None, overlay: Path | None = None) -> None:
        self.design = design
        self._console = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `close`
        self._ready, self._saying_ready = os.pipe()
        self._process = self._start(saved, overlay)
        self.ask("qmp_capabilities")
        if saved is not None:
            self._go_on()

    def _start(self, saved: Saved | None, overlay: Path | None) -> subprocess.Popen[bytes]:
        if overlay is not None:
            drive = f"file={overlay},format=qcow2"
        elif saved is not None:
            drive = f"file={saved.disk},format=qcow2,snapshot=on"
        else:
            drive = f"file={self.design.image.disk},format=raw,snapshot=on"
        console, ready = self._console.fileno(), self._saying_ready
        return subprocess.Popen(
            [*("setpriv", "--pdeathsig", "KILL"), *self.design.words(),
             "-drive", f"{drive},if=virtio,cache=unsafe,discard=unmap",
             "-chardev", f"file,id=console,path=/dev/fd/{console}", "-serial", "chardev:console",
             "-chardev", f"file,id=ready,path=/dev/fd/{ready}", "-serial", "chardev:ready",
             "-chardev", "stdio,id=control,signal=off", "-mon", "chardev=control,mode=control",
             *(() if saved is None else ("-incoming", f"exec:zstd -dcq {saved.memory}"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(console, ready),
            # where qemu has the overlay that it throws away: on the disk of the images, as /tmp may be memory
            env={**os.environ, "TMPDIR": str(store())},
        )  # fmt: skip

    def _go_on(self) -> None:
        """Once the memory is there: the state says that the guest stood still, and so it would for ever."""
        deadline = time.monotonic() + SAVE_SECONDS
        while self.ask("query-status")["status"] == "inmigrate":
            if time.monotonic() > deadline:
                raise LabError(f"the saved memory was not read in {SAVE_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)  # qemu tells only who asks
        self.ask("cont")

    def ssh_port(self) -> int:
        """The port of the host's loopback that leads to the guest's ssh server; qemu chose a free one."""
        listed = self.ask("human-monitor-command", {"command-line": "info usernet"})
        (port,) = (line.split()[3] for line in listed.splitlines() if "HOST_FORWARD" in line)
        return int(port)

    def ask(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """A command of qemu's monitor protocol, and what it returns. Events are passed over."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        words = json.dumps({"execute": command, "arguments": arguments or {}})
        with contextlib.suppress(BrokenPipeError):  # qemu has ended: the answer tells
            self._process.stdin.write(words.encode() + b"\n")
            self._process.stdin.flush()
        deadline = time.monotonic() + MONITOR_SECONDS
        while (line := _line_before(self._process.stdout, deadline)) is not None:
            answer = json.loads(line)
            if "error" in answer:
                raise LabError(f"qemu refuses {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        if time.monotonic() >= deadline:
            raise LabError(f"qemu did not answer {command} in {MONITOR_SECONDS:.0f} s")
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode(errors="replace").strip()
        raise LabError(f"qemu ended (exit code {self._process.wait()}): {said or 'it said nothing'}")

    def wait_until_ready(self, seconds: float) -> bool:
        """Until the guest says on its second serial line that its ssh server is up; False if it does not.

        GuestLost: qemu ended.
        """
        ended = os.pidfd_open(self._process.pid)
        try:
            said, _, _ = select.select([self._ready, ended], [], [], seconds)
        finally:
            os.close(ended)
        if ended in said:
            raise GuestLost(f"qemu ended; the end of the guest's console:\n{self.console_tail()}")
        if said:
            os.read(self._ready, 4096)
        return bool(said)

    def save(self, target: Saved) -> None:
        """Write the memory of the guest, which stands still from now on; qemu ends."""
        self.ask("stop")
        self.ask("migrate", {"uri": f"exec:zstd -q -1 -o {target.memory}"})
        deadline = time.monotonic() + SAVE_SECONDS
        while (status := self.ask("query-migrate")["status"]) != "completed":
            if status in ("failed", "cancelled") or time.monotonic() > deadline:
                raise LabError(f"the booted guest was not saved: {status}")
            time.sleep(POLL_SECONDS)  # qemu tells only who asks
        self.ask("quit")
        self._process.wait(MONITOR_SECONDS)

    def runs(self) -> bool:
        return self._process.poll() is None

    def wait_for_its_end(self, seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.runs()

    def console_tail(self) -> str:
        """The last lines of the guest's console."""
        size = os.fstat(self._console.fileno()).st_size
        text = os.pread(self._console.fileno(), 65_536, max(0, size - 65_536)).decode(errors="replace")
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def close(self) -> None:
        """End qemu at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                # what was not written to a qemu that is gone is of no interest
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        for descriptor in (self._ready, self._saying_ready):
            os.close(descriptor)
        self._console.close()


def accelerator(image: Image) -> str:
    """`kvm` where it boots a kernel, else `tcg`; CRIB_GUEST_ACCEL chooses by hand.

    That it opens, and runs a BIOS, says little: on some hosts it then hangs, or knows too few instructions.
    So the guest's kernel is booted without a disk, to the end that it must come to. The answer is kept until
    the host boots again.
    """
    chosen = os.environ.get("CRIB_GUEST_ACCEL")
    if chosen in ("kvm", "tcg"):
        return chosen
    if chosen:
        raise LabError(f"CRIB_GUEST_ACCEL is kvm or tcg, not {chosen}")
    if not os.path.exists("/dev/kvm"):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = image.directory / "accelerator.json"
    with contextlib.suppress(OSError, ValueError):
        answer = json.loads(known.read_text())
        if answer["boot"] == boot:
            return str(answer["accelerator"])
    found = "kvm" if _kvm_boots(image) else "tcg"
    with contextlib.suppress(OSError):
        known.write_text(json.dumps({"boot": boot, "accelerator": found}) + "\n")
    return found


def _kvm_boots(image: Image) -> bool:
    with tempfile.TemporaryFile() as console:
        probe = subprocess.Popen(
            [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-accel", "kvm", "-cpu", "host",
             "-m", "512", "-kernel", str(image.directory / "vmlinuz"),
             "-append", "console=ttyS0 root=/dev/none panic=-1", "-no-reboot", "-serial", "stdio"],
            stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with contextlib.suppress(subprocess.TimeoutExpired):
            probe.wait(PROBE_SECONDS)
        probe.kill()
        # one that hangs in the kernel cannot be waited for
        with contextlib.suppress(subprocess.TimeoutExpired):
            probe.wait(1)
        console.seek(0)
        return b"Unable to mount root fs" in console.read()


def _line_before(stream: IO[bytes], deadline: float) -> bytes | None:
    """The next line, or None at the end of the stream or of the time. Nothing else may read this stream."""
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        byte = os.read(stream.fileno(), 1)
        if not byte:
            return None
        line += byte
    return line
