"""The guest's agent on this host, with a real crun: in mounts and pids of its own, over a socket.

It is much faster than a VM, and the same program. What it lacks is the guest: no limits where this host's
cgroups of version 2 have no controllers, and no pid 1 that starts it again.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from tests.system.labs.vm_agent import AgentCalls, greeted
from tests.system.labs.vm_bundles import make_bundle, make_root

GREETING_SECONDS = 60.0
KILL_SECONDS = 60
SOURCE = Path(__file__).parents[3] / "src"
CGROUPS = Path("/sys/fs/cgroup")
UNIFIED = next((path for path in (CGROUPS / "unified", CGROUPS) if (path / "cgroup.procs").exists()), CGROUPS)
"""Where this host has version 2: beside version 1, or alone."""
_NUMBERS = count()

_PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
from crib.vm.guest import kernel
from crib.vm.guest.agent import Agent
kernel.mount(sys.argv[4], "/sys/fs/cgroup", "", kernel.MS_BIND | kernel.MS_REC)
kernel.adopt_orphans()
os.environ.clear()
Agent(int(sys.argv[2]), 1, {"agent_at": 1}, sys.argv[3]).run()
"""


@dataclass
class HostAgent:
    """An agent and where it works."""

    calls: AgentCalls
    directory: Path
    cgroup: str
    process: subprocess.Popen[bytes]

    def bundle(self, name: str, script: str, **changes: Any) -> str:
        """A bundle for a container, whose root is shared with those of the other containers."""
        bundle = self.directory / name
        bundle.mkdir()
        (bundle / "rootfs").symlink_to(self.directory / "root")
        make_bundle(bundle, script, f"{self.cgroup}/{name}", **changes)
        return str(bundle)

    async def running(self, name: str, script: str, **streams: Any) -> int:
        """A container that runs a script; its pid, as the agent sees it."""
        terminal = {"terminal": True} if streams.get("terminal") else {}
        pid = await self.calls.create(name, self.bundle(name, script, **terminal), **streams)
        await self.calls.start(name)
        return pid


@contextlib.asynccontextmanager
async def host_agent() -> AsyncIterator[HostAgent]:
    """One that has greeted. All that it started ends with it, and its cgroup is removed."""
    name = f"crib-agent-{os.getpid()}-{next(_NUMBERS)}"
    with tempfile.TemporaryDirectory(prefix="cva") as scratch:
        ours, theirs = socket.socketpair()
        make_root(Path(scratch, "root"))
        with theirs:
            process = _agent(theirs.fileno(), Path(scratch, "state"))
        try:
            async with greeted(ours, GREETING_SECONDS) as calls:
                yield HostAgent(calls, Path(scratch), f"/{name}", process)
        finally:
            process.kill()
            process.wait()
            _remove(UNIFIED / name)


def _agent(descriptor: int, state: Path) -> subprocess.Popen[bytes]:
    state.mkdir()
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--ipc"]
    python = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        _PROGRAM,
        str(SOURCE),
        str(descriptor),
        str(state),
        str(UNIFIED),
    ]
    return subprocess.Popen([*words, *python], pass_fds=(descriptor,), stdin=subprocess.DEVNULL)


def _remove(cgroup: Path) -> None:
    if not cgroup.exists():
        return
    with (cgroup / "cgroup.events").open() as events:
        changes = select.poll()
        changes.register(events, select.POLLPRI)
        (cgroup / "cgroup.kill").write_text("1")
        while "populated 1" in os.pread(events.fileno(), 4096, 0).decode():
            assert changes.poll(KILL_SECONDS * 1000), f"processes in {cgroup} do not end"
    for path in sorted(cgroup.rglob("cgroup.procs"), reverse=True):
        path.parent.rmdir()
