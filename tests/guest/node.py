"""The node that a guest is: cribd as its unit, and everything of it that could be left behind.

Runs in a guest and takes that for its own: /etc/crib, /run/crib, /var/lib/crib, the unit cribd.service.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from crib.client import Connection
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd

CHECKOUT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
CONFIG = Path("/etc/crib/config.toml")
UNIT = Path("/etc/systemd/system/cribd.service")
DROP_IN = Path("/etc/systemd/system/cribd.service.d/selinux.conf")
UNCONFINED = "[Service]\nSELinuxContext=unconfined_u:unconfined_r:unconfined_t:s0\n"
"""How cribd starts under Debian's SELinux policy (docs/kubelet.md)."""
STATE, DATA = Path("/run/crib"), Path("/var/lib/crib")
SOCKET = STATE / "crib.sock"
START_SECONDS = 900.0
"""Emulated, on a host with other work, cribd has taken minutes to its first answer."""
CALL_SECONDS = 300.0
SETTLE_SECONDS = 120.0
"""What systemd and the kernel remove by themselves may take as long."""
_OF_PODS = re.compile(r"crib|kubepods|conmon")
"""Names of cgroups and units that are cribd's work, or its own."""


@dataclass(frozen=True)
class Traces:
    """What cribd and its pods have on this machine, by kind."""

    mounts: frozenset[str]
    cgroups: frozenset[str]
    units: frozenset[str]
    interfaces: frozenset[str]
    tables: frozenset[str]
    processes: frozenset[str]
    files: frozenset[str]
    """Of pods and containers in the state directory: `containers`, `exits`, `sandboxes`."""

    @staticmethod
    def now() -> Traces:
        listed = output("systemctl", "list-units", "--all", "--plain", "--no-legend")
        transient = Path("/run/systemd/transient")
        units = {line.split()[0] for line in listed.splitlines()}
        units |= {entry.name for entry in transient.iterdir()} if transient.exists() else set()
        cgroups = (path for path, _, _ in os.walk("/sys/fs/cgroup"))
        mounts = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
        return Traces(
            mounts=frozenset(path for path in mounts if not path.startswith("/run/credentials/")),
            cgroups=frozenset(path for path in cgroups if _OF_PODS.search(path)),
            units=frozenset(name for name in units if _OF_PODS.search(name)),
            interfaces=frozenset(os.listdir("/sys/class/net")),
            tables=frozenset(output("nft", "list", "tables").splitlines()),
            processes=frozenset(_processes()),
            files=frozenset(str(path) for path in STATE.glob("[ces]*/*")),
        )

    def beyond(self, before: Traces) -> list[str]:
        """What is here now and was not before."""
        return [
            f"{kind.name}: {name}"
            for kind in fields(self)
            for name in sorted(getattr(self, kind.name) - getattr(before, kind.name))
        ]


def _processes() -> list[str]:
    """Monitors, runtimes, and whatever is in a pod's cgroup."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            cgroup = Path(f"/proc/{pid}/cgroup").read_text()
            if re.match(r"\S*(conmon|crun|runc|catatonit)\b", command) or "crib-" in cgroup:
                found.append(f"{pid} {command.strip()}")
    return found


class Node:
    """cribd as the unit of this machine. `logs` is where pods' logs go."""

    def __init__(self, settings: str) -> None:
        self.logs = Path("/var/log/pods")
        self._settings = settings
        self._before = Traces.now()

    def start(self) -> float:
        """Write configuration and unit, and start it; seconds until it said READY."""
        CONFIG.parent.mkdir(exist_ok=True)
        CONFIG.write_text(self._settings)
        UNIT.write_text(unit_text())
        if Path("/sys/fs/selinux/enforce").exists():
            DROP_IN.parent.mkdir(exist_ok=True)
            DROP_IN.write_text(UNCONFINED)
        run("systemctl", "daemon-reload")
        began = time.monotonic()
        run("systemctl", "start", "cribd")
        return time.monotonic() - began

    def end(self) -> None:
        """Stop it, wipe, and count: AssertionError tells what is left."""
        try:
            run("systemctl", "stop", "cribd")
            run(str(PROGRAMS / "cribd"), "--wipe")
        finally:
            UNIT.unlink()
            shutil.rmtree(DROP_IN.parent, ignore_errors=True)  # only under SELinux
            run("systemctl", "daemon-reload")
            shutil.rmtree(CONFIG.parent)
        self.settle(self._before)

    def settle(self, before: Traces) -> None:
        """Wait until nothing is here that was not `before`."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (left := Traces.now().beyond(before)) and time.monotonic() < deadline:
            time.sleep(0.2)  # neither the kernel nor systemd tells when it has removed the last of them
        assert not left, "left behind: " + "; ".join(left)

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Cri]:
        async with Connection(f"unix://{SOCKET}", CALL_SECONDS) as connection:
            yield Cri(connection, cast(Cribd, self))  # which it asks for no more than the logs' place

    def pid(self) -> int:
        """cribd's own, or 0."""
        return int(output("systemctl", "show", "--property=MainPID", "--value", "cribd"))

    def journal(self) -> str:
        return output("journalctl", "--unit=cribd", "--output=cat", "--no-pager")


def unit_text() -> str:
    """The package's unit, with the program of this checkout, and time for a guest that is slow."""
    text = (CHECKOUT / "packaging" / "cribd.service").read_text()
    for key, value in (
        ("ExecStart", f"{PROGRAMS}/cribd"),
        ("TimeoutStartSec", f"{START_SECONDS:.0f}"),
        ("WatchdogSec", f"{START_SECONDS:.0f}"),
    ):
        text, count = re.subn(rf"^{key}=.*$", f"{key}={value}", text, flags=re.MULTILINE)
        assert count == 1, f"packaging/cribd.service has {count} lines of {key}"
    return text


def run(*argv: str) -> str:
    """A program that must succeed; what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    assert done.returncode == 0, (
        f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr or done.stdout}"
    )
    return done.stdout


def output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=START_SECONDS, check=False).stdout


def crib(*argv: str) -> str:
    """The command line, which must succeed; what it printed."""
    return run(str(PROGRAMS / "crib"), "--timeout", f"{CALL_SECONDS:.0f}", *argv)


async def init_pid(cri: Cri, container: str) -> int:
    """The container's first process, as the host sees it."""
    request = pb.ContainerStatusRequest(container_id=container, verbose=True)
    reply = await cri.call(cri.runtime.ContainerStatus, request)
    info: dict[str, Any] = json.loads(reply.info["info"])
    return int(info["pid"])


def cgroup_of(pid: int) -> Path:
    """The directory of this process's cgroup, of version 2."""
    (line,) = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return Path("/sys/fs/cgroup" + line.removeprefix("0::"))
