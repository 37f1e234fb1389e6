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
import os
import shlex
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.guest.images import (
    CHECKOUT,
    ROOT,
    SYSTEM_PATH,
    Image,
    LabError,
    checkout_files,
    image,
    one_at_a_time,
    require,
)
from tests.guest.machine import QEMU, Design, GuestLost, Machine, Saved, accelerator, saved_of

BOOT_SECONDS = 1800.0
"""From a start or reset to an ssh server that answers. It takes 66 s of CPU: a busy host gives that late."""
STOP_SECONDS = 120.0
"""For an orderly power-off."""
SSH_SECONDS = 60.0
"""For one try to reach the guest's ssh server once it has said that it is there."""
MEMORY_MIB = 3072
CPUS = 2
ARTEFACTS = "/root/artefacts"
"""What a command leaves there is brought back."""
ENVIRONMENT = {
    "PATH": f"{CHECKOUT}/.venv/bin:{SYSTEM_PATH}",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "no_proxy": "127.0.0.1,localhost",
    "NO_PROXY": "127.0.0.1,localhost",
    "PYTHONUNBUFFERED": "1",
    "CRIB_ARTEFACTS": ARTEFACTS,
    "CRIB_TEST_PATIENCE": "10",
}
LOST = 255
"""ssh's own exit code for a connection that failed or broke."""


class Guest:
    """One virtual machine. Use it in a `with` block, from the thread that made it: qemu ends with that.

    It goes on from the state of one that has booted, which the first start saves; a `cold` one boots.
    """

    def __init__(
        self, image: Image, *, memory: int = MEMORY_MIB, cpus: int = CPUS, cold: bool = False
    ) -> None:
        require(QEMU, "qemu-img", "ssh", "setpriv", "zstd", "git")
        self._design = Design(image, accelerator(image), memory, cpus)
        self._cold = cold
        self._scratch = tempfile.TemporaryDirectory(prefix="crib-guest-")
        self._machine: Machine | None = None
        self._ssh: list[str] = []
        self._boots = 0

    def __enter__(self) -> Self:
        try:
            if self._cold:
                self._boot()
            else:
                self._resume(booted_state(self._design))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _boot(self, overlay: Path | None = None) -> None:
        self._machine = Machine(self._design, overlay=overlay)
        self._ssh = self._ssh_words(self._machine.ssh_port())
        self._wait_until_ready()

    def _resume(self, saved: Saved) -> None:
        self._machine = Machine(self._design, saved=saved)
        self._ssh = self._ssh_words(self._machine.ssh_port())
        self.run("true", timeout=BOOT_SECONDS)  # the connection is there: what follows takes no time
        # its clock stood still since it was saved
        self.run("date", "--set", f"@{time.time():.3f}", timeout=BOOT_SECONDS)

    def _ssh_words(self, port: int) -> list[str]:
        options = {
            "UserKnownHostsFile": self._design.image.directory / "known_hosts", "HostKeyAlias": "guest",
            "StrictHostKeyChecking": "yes", "BatchMode": "yes", "LogLevel": "ERROR",
            "ConnectTimeout": f"{SSH_SECONDS:.0f}",
            # one handshake is enough: the ciphers' arithmetic is emulated
            "ControlMaster": "auto", "ControlPath": f"{self._scratch.name}/ssh", "ControlPersist": "yes",
        }  # fmt: skip
        words = [f"-o{name}={value}" for name, value in options.items()]
        return [
            "ssh", "-F", "none", "-i", str(self._design.image.key), "-p", str(port), *words, "root@127.0.0.1",
        ]  # fmt: skip

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
        subprocess.TimeoutExpired: it took more than `timeout` seconds; the command goes on in the guest.
        """
        boots = self._boots
        done = subprocess.run(
            [*self._ssh, self._line(argv, env)],
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        self._look_for_loss(done.returncode, boots)
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
        boots = self._boots
        code = subprocess.run([*self._ssh, *terminal, self._line(argv, env)], check=False).returncode
        self._look_for_loss(code, boots)
        return code

    @property
    def name(self) -> str:
        return self._design.image.recipe.name

    @property
    def level_of_services(self) -> tuple[str, ...]:
        """Before a command that starts containers. With SELinux these may not use the pipes of a process that
        has all categories, as root's shell has.
        """
        return ("runcon", "-l", "s0") if self._design.image.recipe.selinux else ()

    @property
    def ssh_command(self) -> str:
        """How to enter the guest by hand."""
        return shlex.join(self._ssh)

    def _line(self, argv: tuple[str, ...], env: Mapping[str, str] | None) -> str:
        words = [f"{name}={value}" for name, value in {**ENVIRONMENT, **(env or {})}.items()]
        return f"mkdir -p {ARTEFACTS} {CHECKOUT} && cd {CHECKOUT} && exec env {shlex.join([*words, *argv])}"

    def _look_for_loss(self, code: int, boots: int) -> None:
        """A command may end with that code too: then the guest is still there, and still the same."""
        if code == LOST and not (boots == self._boots and self._running().runs() and self._answers()):
            raise GuestLost(f"the guest was lost; the end of its console:\n{self._running().console_tail()}")

    def _answers(self) -> bool:
        return subprocess.run([*self._ssh, "true"], capture_output=True, check=False).returncode == 0

    # -- files -----------------------------------------------------------------------------------------------

    def copy_checkout(self) -> None:
        """The working tree as it is, committed or not, without what git ignores."""
        self._send(((ROOT / name, name) for name in checkout_files()), CHECKOUT)

    def copy_in(self, path: Path, target: str) -> None:
        """A file or directory of the host, as `target` in the guest."""
        self._send([(path, os.path.basename(target))], os.path.dirname(target))

    def _send(self, members: Iterable[tuple[Path, str]], directory: str) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for path, name in members:
                tar.add(path, name)
        self.run(
            "tar", "-x", "--no-same-owner", "--warning=no-timestamp", "-C", directory, stdin=packed.getvalue()
        )

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
        self._boots += 1
        self._hang_up()
        self._running().ask("system_reset")
        self._wait_until_ready()

    def reboot(self) -> None:
        """An orderly reboot."""
        self.run("systemctl", "--no-block", "reboot")
        self._wait_until_ready()

    def shutdown(self) -> None:
        """An orderly power-off; qemu has ended then."""
        self.run("systemctl", "--no-block", "poweroff")
        if not self._running().wait_for_its_end(STOP_SECONDS):
            tail = self._running().console_tail()
            raise LabError(f"the guest did not power off in {STOP_SECONDS:.0f} s:\n{tail}")

    def close(self) -> None:
        """End qemu at once, and remove what belonged to this guest."""
        self._hang_up()
        if self._machine is not None:
            self._machine.close()
            self._machine = None
        self._scratch.cleanup()

    def save(self, target: Saved) -> None:
        """Keep the state of this guest, booted onto `target.disk`, for others to go on from; it has ended."""
        self.run("systemctl", "is-system-running", "--wait", check=False, timeout=BOOT_SECONDS)
        self.run("sync")
        self._hang_up()
        self._running().save(target)

    def _running(self) -> Machine:
        if self._machine is None:
            raise GuestLost("the guest does not run")
        return self._machine

    def _wait_until_ready(self) -> None:
        """Until the guest says that its ssh server is up, and that answers."""
        machine = self._running()
        deadline = time.monotonic() + BOOT_SECONDS
        up = machine.wait_until_ready(BOOT_SECONDS)
        self._hang_up()
        while up and not self._answers():
            up = machine.runs() and time.monotonic() < deadline
        if not up:
            raise GuestLost(
                f"the guest did not come up in {BOOT_SECONDS:.0f} s ({self._design.accelerator}); "
                f"the end of its console:\n{machine.console_tail()}"
            )

    def _hang_up(self) -> None:
        """End the shared connection and all that goes through it."""
        if self._ssh and os.path.exists(f"{self._scratch.name}/ssh"):
            subprocess.run([*self._ssh[:-1], "-O", "exit", self._ssh[-1]], capture_output=True, check=False)


def booted_state(design: Design) -> Saved:
    """The saved state of this machine, made now if there is none: one guest boots for it."""
    saved = saved_of(design)
    if not saved.directory.exists():
        with one_at_a_time(design.image.recipe.name):
            if not saved.directory.exists():
                _save_booted(design, saved)
    return saved


def _save_booted(design: Design, saved: Saved) -> None:
    with tempfile.TemporaryDirectory(prefix=".booted-", dir=design.image.directory) as scratch:
        made = Saved(Path(scratch, "state"))
        made.directory.mkdir()
        disk = [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            str(design.image.disk),
            str(made.disk),
        ]
        done = subprocess.run(disk, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"qemu-img create failed: {done.stderr.strip()}")
        guest = Guest(design.image, memory=design.memory, cpus=design.cpus, cold=True)
        try:
            guest._boot(made.disk)
            guest.save(made)
        finally:
            guest.close()
        made.directory.rename(saved.directory)


@contextlib.contextmanager
def booted(name: str) -> Iterator[Guest]:
    """A guest by name, with the checkout in it."""
    with Guest(image(name)) as guest:
        guest.copy_checkout()
        yield guest
