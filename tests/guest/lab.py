"""A guest under qemu: boot it, run commands in it, reset it, and leave nothing.

    with Guest(images.image("trixie")) as guest:    # booted, its ssh server answers
        guest.copy_checkout()
        guest.run("systemctl", "is-system-running", check=False)
        guest.reset()                               # a power cut: what its kernel had not written is lost

Each guest writes to a throw-away overlay of its image, a file that qemu has unlinked: nothing is left even if
this process is killed, whose death ends qemu as well. A port of the host's loopback leads to its ssh server.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.guest.images import CHECKOUT, ROOT, SYSTEM_PATH, Image, LabError, store

BOOT_SECONDS = 300.0
"""From a start or reset to an ssh server that answers: minutes where the CPU is emulated and busy."""
STOP_SECONDS = 120.0
"""For an orderly power-off."""
PROBE_SECONDS = 10.0
"""For KVM to boot a kernel that finds no root: it takes one where KVM works."""
QMP_SECONDS = 30.0
SSH_SECONDS = 60.0
"""For one try to reach the guest's ssh server once it has said that it is there."""
TAIL_LINES = 40
MEMORY_MIB = 3072
CPUS = 2
ARTEFACTS = "/root/artefacts"
"""What a command leaves there is brought back."""
ENVIRONMENT = {
    "PATH": f"{CHECKOUT}/.venv/bin:{SYSTEM_PATH}",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "no_proxy": "127.0.0.1,localhost",
    "NO_PROXY": "127.0.0.1,localhost",
    "CRIB_ARTEFACTS": ARTEFACTS,
}
LOST = 255
"""ssh's own exit code for a connection that failed or broke."""


class GuestLost(LabError):
    """The guest ended, was reset, or does not answer."""


class Guest:
    """One virtual machine. Use it in a `with` block, from the thread that made it."""

    def __init__(self, image: Image, *, memory: int = MEMORY_MIB, cpus: int = CPUS) -> None:
        self.image = image
        self.accelerator = accelerator(image)
        self._memory, self._cpus = memory, cpus
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="crib-guest-")
        self._console = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `close`
        self._ready, self._saying_ready = os.pipe()
        self._ssh: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- commands --------------------------------------------------------------------------------------------

    def run(
        self,
        *argv: str,
        check: bool = True,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root, in the checkout if it is there. Raises LabError when `check` and it fails.

        GuestLost: the connection broke, as it does when the guest is reset meanwhile.
        """
        done = subprocess.run(
            [*self._ssh, self._line(argv, env)],
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        self._look_for_loss(done.returncode)
        result = subprocess.CompletedProcess(
            argv, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check and result.returncode != 0:
            said = (result.stderr or result.stdout).strip()[-2000:]
            raise LabError(f"{shlex.join(argv)} failed in the guest (exit code {result.returncode}): {said}")
        return result

    def stream(self, *argv: str, env: Mapping[str, str] | None = None) -> int:
        """Run a command with this process's own streams (a terminal where they are one); its exit code."""
        terminal = ["-t"] if os.isatty(0) and os.isatty(1) else []
        code = subprocess.run([*self._ssh, *terminal, self._line(argv, env)], check=False).returncode
        self._look_for_loss(code)
        return code

    @property
    def ssh_command(self) -> str:
        """How to enter the guest by hand."""
        return shlex.join(self._ssh)

    def _line(self, argv: tuple[str, ...], env: Mapping[str, str] | None) -> str:
        words = [f"{name}={value}" for name, value in {**ENVIRONMENT, **(env or {})}.items()]
        return f"mkdir -p {ARTEFACTS} {CHECKOUT} && cd {CHECKOUT} && exec env {shlex.join([*words, *argv])}"

    def _look_for_loss(self, code: int) -> None:
        if code == LOST and (
            self._process is None or self._process.poll() is not None or not self._answers()
        ):
            raise GuestLost(
                f"the guest {self.image.recipe.name} was lost; the end of its console:\n{self.console_tail()}"
            )

    def _answers(self) -> bool:
        return subprocess.run([*self._ssh, "true"], capture_output=True, check=False).returncode == 0

    # -- files -----------------------------------------------------------------------------------------------

    def copy_checkout(self) -> None:
        """The working tree as it is, committed or not, without what git ignores."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True,
        ).stdout  # fmt: skip
        names = [name for name in listed.decode().split("\0") if name and os.path.lexists(ROOT / name)]
        self._send(((ROOT / name, name) for name in names), CHECKOUT)

    def copy_in(self, path: Path, target: str) -> None:
        """A file or directory of the host, as `target` in the guest."""
        self._send([(path, os.path.basename(target))], os.path.dirname(target))

    def _send(self, members: Any, directory: str) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for path, name in members:
                tar.add(path, name)
        self.run("tar", "--extract", "--no-same-owner", "--directory", directory, stdin=packed.getvalue())

    def copy_out(self, source: str, directory: Path) -> None:
        """What is in the directory `source` of the guest, into one of the host."""
        done = subprocess.run(
            [*self._ssh, shlex.join(["tar", "--create", "--directory", source, "."])],
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise LabError(
                f"{source} cannot be copied out of the guest: {done.stderr.decode(errors='replace').strip()}"
            )
        directory.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            tar.extractall(directory, filter="data")

    # -- power -----------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """As if power was cut and came back. A command that runs meanwhile ends with GuestLost."""
        self._hang_up()
        self._ask("system_reset")
        self._wait_until_ready()

    def reboot(self) -> None:
        """An orderly reboot."""
        self.run("systemctl", "--no-block", "reboot")
        self._wait_until_ready()

    def shutdown(self) -> None:
        """An orderly power-off; qemu has ended then."""
        self.run("systemctl", "--no-block", "poweroff")
        try:
            self._running().wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise LabError(
                f"the guest did not power off in {STOP_SECONDS:.0f} s:\n{self.console_tail()}"
            ) from None

    def close(self) -> None:
        """End qemu at once, and remove what belonged to this guest."""
        self._hang_up()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()
            self._process = None
        for descriptor in (self._ready, self._saying_ready):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._console.close()
        self._scratch.cleanup()

    def console_tail(self) -> str:
        """The last lines of the guest's console."""
        size = os.fstat(self._console.fileno()).st_size
        text = os.pread(self._console.fileno(), 65_536, max(0, size - 65_536)).decode(errors="replace")
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    # -- qemu ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        scratch = self._scratch.name
        kernel = f"root=/dev/vda rw console=ttyS0 quiet mitigations=off panic=-1 {self.image.recipe.kernel}"
        self._process = subprocess.Popen(
            [*("setpriv", "--pdeathsig", "KILL"),
             *qemu(self.image, self.accelerator, self._memory, self._cpus), "-append", kernel,
             "-drive", f"file={self.image.disk},format=raw,if=virtio,snapshot=on,cache=unsafe,discard=unmap",
             "-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:22",
             "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci",
             "-chardev", f"file,id=console,path=/dev/fd/{self._console.fileno()}",
             "-serial", "chardev:console",
             "-chardev", f"file,id=ready,path=/dev/fd/{self._saying_ready}", "-serial", "chardev:ready",
             "-chardev", "stdio,id=control,signal=off", "-mon", "chardev=control,mode=control"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=(self._console.fileno(), self._saying_ready),
            # where qemu has the overlay: on the disk of the images, as /tmp may be memory
            env={**os.environ, "TMPDIR": str(store())},
        )  # fmt: skip
        self._ask("qmp_capabilities")
        listed = self._ask("human-monitor-command", {"command-line": "info usernet"})
        (port,) = (line.split()[3] for line in listed.splitlines() if "HOST_FORWARD" in line)
        options = {
            "UserKnownHostsFile": self.image.directory / "known_hosts", "HostKeyAlias": "guest",
            "StrictHostKeyChecking": "yes", "BatchMode": "yes", "LogLevel": "ERROR",
            "ConnectTimeout": f"{SSH_SECONDS:.0f}",
            # one handshake is enough: the ciphers' arithmetic is emulated
            "ControlMaster": "auto", "ControlPath": f"{scratch}/ssh", "ControlPersist": "yes",
        }  # fmt: skip
        words = [f"-o{name}={value}" for name, value in options.items()]
        self._ssh = ["ssh", "-F", "none", "-i", str(self.image.key), "-p", port, *words, "root@127.0.0.1"]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise GuestLost(f"the guest {self.image.recipe.name} does not run")
        return self._process

    def _ask(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """A command of qemu's monitor protocol, and what it returns. Events are passed over."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        words = json.dumps({"execute": command, "arguments": arguments or {}})
        with contextlib.suppress(BrokenPipeError):  # qemu has ended: the answer tells
            process.stdin.write(words.encode() + b"\n")
            process.stdin.flush()
        deadline = time.monotonic() + QMP_SECONDS
        while (line := _line_before(process.stdout, deadline)) is not None:
            answer = json.loads(line)
            if "error" in answer:
                raise LabError(f"qemu refuses {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        if process.poll() is None:
            raise LabError(f"qemu did not answer {command} in {QMP_SECONDS:.0f} s")
        assert process.stderr is not None
        raise LabError(
            f"qemu ended (exit code {process.returncode}): {process.stderr.read().decode().strip()}"
        )

    def _wait_until_ready(self) -> None:
        """Until the guest says on its second serial line that its ssh server is up, and that answers."""
        self._hang_up()
        process = self._running()
        deadline = time.monotonic() + BOOT_SECONDS
        ended = os.pidfd_open(process.pid)
        try:
            said, _, _ = select.select([self._ready, ended], [], [], BOOT_SECONDS)
        finally:
            os.close(ended)
        if ended in said:
            raise GuestLost(
                f"qemu ended while the guest booted; the end of its console:\n{self.console_tail()}"
            )
        while said and not self._answers():
            said = said if time.monotonic() < deadline else []
        if not said:
            raise GuestLost(
                f"the guest {self.image.recipe.name} did not come up in {BOOT_SECONDS:.0f} s "
                f"({self.accelerator}); the end of its console:\n{self.console_tail()}"
            )
        os.read(self._ready, 4096)

    def _hang_up(self) -> None:
        """End the shared connection and all that goes through it."""
        if self._ssh and os.path.exists(f"{self._scratch.name}/ssh"):
            subprocess.run([*self._ssh[:-1], "-O", "exit", self._ssh[-1]], capture_output=True, check=False)


def qemu(image: Image, accelerator: str, memory: int, cpus: int) -> list[str]:
    """The machine: direct kernel boot, nothing that a guest does not need. Raises LabError without qemu."""
    if shutil.which("qemu-system-x86_64") is None:
        raise LabError("qemu-system-x86_64 not found: apt-get install qemu-system-x86")
    accel = (
        ["kvm", "-cpu", "host"]
        if accelerator == "kvm"
        else ["tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off"]
    )
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-accel", *accel,
        "-m", str(memory), "-smp", str(cpus), "-kernel", str(image.directory / "vmlinuz"),
        "-initrd", str(image.directory / "initrd"),
    ]  # fmt: skip


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
        words = qemu(image, "kvm", 512, 1)
        words = [word for word in words if word not in ("-initrd", str(image.directory / "initrd"))]
        probe = subprocess.Popen(
            [*words, "-append", "console=ttyS0 root=/dev/none panic=-1", "-no-reboot", "-serial", "stdio"],
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
    """The next line, or None at the end of the stream or of the time. The stream must not be buffered."""
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        byte = os.read(stream.fileno(), 1)
        if not byte:
            return None
        line += byte
    return line


@contextlib.contextmanager
def booted(name: str, **machine: int) -> Iterator[Guest]:
    """A guest by name, with the checkout in it."""
    from tests.guest.images import image

    with Guest(image(name), **machine) as guest:
        guest.copy_checkout()
        yield guest
