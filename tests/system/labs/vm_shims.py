"""A VM's shim as its program runs it, driven by crib's own client of shims: one pod, no daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crib.backends.known_processes import identity, is_alive
from crib.backends.shim.bootstrap import ShimProgram, read_answer
from crib.backends.shim.fifo_ends import make_fifos, open_output
from crib.backends.shim.nouns import Stdio, Typed
from crib.backends.shim.sandbox_service import SERVICE
from crib.backends.shim.task_client import ShimCalls, ShimTasks
from crib.host.cgroups import Cgroups, detect_layout
from crib.host.mounts import Tmpfs, perform, unmount_tree
from crib.host.processes import RunOptions, run
from crib.stubs.shim import sandbox_pb2
from crib.stubs.shim.runtime_options_pb2 import Options
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.client import TtrpcClient
from tests.system.labs.oci_setup import make_busybox_root

BOUND = 180.0
"""Seconds for a boot under emulation on a busy machine, and for whatever else is waited for."""
POD = "pod-of-a-vm"
CAPABILITIES = ("CAP_KILL", "CAP_NET_RAW", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID")
MODULE = ("-I", "-m", "crib.vm.shim")


@dataclass
class VmShim:
    """One pod's shim, and where it works."""

    top: str
    program: ShimProgram
    network: str
    image: str
    client: TtrpcClient = field(init=False)
    tasks: ShimTasks = field(init=False)
    sandbox: ShimCalls = field(init=False)
    shim: int = 0
    socket: str = ""

    @property
    def cgroup(self) -> str:
        return f"/crib-test-{os.path.basename(self.top)}/pod"

    def bundle(self, instance: str) -> str:
        return f"{self.top}/{instance}"

    async def begin(self, **notes: str) -> None:
        """Start the shim in the pod's bundle, and connect to it."""
        bundle = self.bundle(POD)
        os.makedirs(bundle, exist_ok=True)
        spec = {
            "ociVersion": "1.0.2",
            "hostname": "vm-pod",
            "annotations": notes,
            "linux": {
                "cgroupsPath": self.cgroup,
                "namespaces": [{"type": "network", "path": self.network}] if self.network else [],
            },
        }
        Path(bundle, "config.json").write_text(json.dumps(spec))
        said = await self.run_start(POD, bundle)
        self.socket = said
        loop = asyncio.get_running_loop()
        _, carrier = await loop.create_unix_connection(SocketCarrier, said)
        self.client = TtrpcClient(carrier)
        self.tasks = ShimTasks(self.client, 3, lambda: BOUND)
        self.sandbox = ShimCalls(self.client, SERVICE, lambda: BOUND)
        self.shim = (await self.tasks.connect(POD)).shim

    async def run_start(self, instance: str, bundle: str) -> str:
        """What `start` answers in a bundle: a socket's path."""
        words = self.program.start(instance)
        said = await run(
            (words[0], *MODULE, *words[1:]),
            timeout=BOUND,
            stdin=self.program.input(instance, whole=False),
            env=self.program.environment(os.environ),
            options=RunOptions(cwd=bundle),
        )
        assert said.exit_code == 0, said.stderr
        return read_answer(said.stdout).path

    async def delete(self, instance: str) -> bytes:
        """What `delete` answers in a bundle."""
        words = self.program.delete(instance, self.bundle(instance))
        said = await run(
            (words[0], *MODULE, *words[1:]),
            timeout=BOUND,
            env=self.program.environment(os.environ),
            options=RunOptions(cwd=self.bundle(instance)),
        )
        assert said.exit_code == 0, said.stderr
        return said.stdout

    async def boot(self, **notes: str) -> int:
        """The shim, its VM, and a guest that is ready; qemu's pid."""
        await self.begin(**notes)
        await self.create()
        return await self.start()

    async def create(self) -> None:
        await self.sandbox.call(
            "CreateSandbox",
            sandbox_pb2.CreateSandboxRequest(
                sandbox_id=POD, bundle_path=self.bundle(POD), netns_path=self.network
            ),
            sandbox_pb2.CreateSandboxResponse,
        )

    async def start(self) -> int:
        said = await self.sandbox.call(
            "StartSandbox",
            sandbox_pb2.StartSandboxRequest(sandbox_id=POD),
            sandbox_pb2.StartSandboxResponse,
        )
        return said.pid

    async def facts(self) -> dict[str, str]:
        said = await self.sandbox.call(
            "SandboxStatus",
            sandbox_pb2.SandboxStatusRequest(sandbox_id=POD, verbose=True),
            sandbox_pb2.SandboxStatusResponse,
        )
        return dict(said.info)

    async def stop(self) -> None:
        """As cribd ends a pod."""
        stop = sandbox_pb2.StopSandboxRequest(sandbox_id=POD, timeout_secs=10)
        await self.sandbox.call("StopSandbox", stop, sandbox_pb2.StopSandboxResponse)
        shutdown = sandbox_pb2.ShutdownSandboxRequest(sandbox_id=POD)
        await self.sandbox.call("ShutdownSandbox", shutdown, sandbox_pb2.ShutdownSandboxResponse)
        async with asyncio.timeout(BOUND):
            await self.client.gone()

    def container(self, name: str, *argv: str, **changes: Any) -> VmContainer:
        """A bundle with a root of busybox."""
        bundle = self.bundle(name)
        with contextlib.suppress(FileNotFoundError):  # of an earlier one of that name
            shutil.rmtree(bundle)
        os.makedirs(f"{bundle}/rootfs")
        make_busybox_root(f"{bundle}/rootfs")
        Path(bundle, "config.json").write_text(json.dumps(plain_spec(argv, **changes)))
        return VmContainer(self, name, bundle)

    def end(self) -> None:
        """Whatever is left of the shim."""
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if self.shim and b"crib.vm.shim" in Path(f"/proc/{self.shim}/cmdline").read_bytes():
                os.kill(self.shim, signal.SIGKILL)
        if self.socket:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.socket)


@dataclass
class VmContainer:
    """One container's bundle, and the fifos of its processes."""

    vm: VmShim
    name: str
    bundle: str

    def stdio(self, exec_id: str = "", *, stdin: bool = False, terminal: bool = False) -> Stdio:
        """Fifos that are made."""
        top = f"{self.bundle}/io{exec_id}"
        os.makedirs(top)
        made = Stdio(
            f"{top}/stdin" if stdin else "", f"{top}/stdout", "" if terminal else f"{top}/stderr", terminal
        )
        make_fifos(made)
        return made

    async def create(self, stdio: Stdio) -> tuple[FifoText, FifoText]:
        """What it will say on either output."""
        out, err = FifoText(stdio.stdout), FifoText(stdio.stderr)
        await self.vm.tasks.create(self.name, self.bundle, stdio, None)
        return out, err

    async def run(self) -> tuple[int, bytes, bytes]:
        """To its end, and delete it: exit code and outputs."""
        out, err = await self.create(self.stdio())
        await self.vm.tasks.start(self.name)
        async with asyncio.timeout(BOUND):
            ended = await self.vm.tasks.wait(self.name)
            said = await out.all(), await err.all()
            await self.vm.tasks.delete(self.name)
        return ended.code, *said

    async def execute(self, exec_id: str, *argv: str) -> tuple[int, bytes, bytes]:
        """A command in it, to its end."""
        stdio = self.stdio(exec_id)
        out, err = FifoText(stdio.stdout), FifoText(stdio.stderr)
        process = {"args": list(argv), "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
        await self.vm.tasks.exec(self.name, exec_id, json.dumps(process).encode(), stdio)
        await self.vm.tasks.start(self.name, exec_id)
        async with asyncio.timeout(BOUND):
            ended = await self.vm.tasks.wait(self.name, exec_id)
            said = await out.all(), await err.all()
            await self.vm.tasks.delete(self.name, exec_id)
        return ended.code, *said


class FifoText:
    """What comes out of a fifo, as it comes."""

    def __init__(self, path: str) -> None:
        self.text = b""
        self._news = asyncio.Event()
        self._has_ended = not path
        self._fd = open_output(path) if path else -1
        self._loop = asyncio.get_running_loop()
        if path:
            self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        self.text += data
        if not data:
            self._has_ended = True
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
        self._news.set()

    async def all(self) -> bytes:
        """Up to its end."""
        while not self._has_ended:
            self._news.clear()
            await self._news.wait()
        return self.text

    async def until(self, part: bytes) -> bytes:
        """Up to where this has been said."""
        async with asyncio.timeout(BOUND):
            while part not in self.text:
                assert not self._has_ended, self.text
                self._news.clear()
                await self._news.wait()
        return self.text


def plain_spec(argv: tuple[str, ...], **changes: Any) -> dict[str, Any]:
    """As cribd writes one for a kernel that is not the host's."""
    name = changes.pop("name", "")
    linux = {
        "namespaces": [
            {"type": "mount"},
            {"type": "network", "path": "/some/net"},
            {"type": "ipc", "path": "/some/ipc"},
            {"type": "uts", "path": "/some/uts"},
            {"type": "pid", "path": f"/containers/{name}/ns/pid"} if name else {"type": "pid"},
        ],
        "cgroupsPath": "/somewhere/on/the/host",
        "resources": {"devices": [{"allow": False, "access": "rwm"}], **changes.pop("resources", {})},
        **changes.pop("linux", {}),
    }
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": list(argv),
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "terminal": changes.pop("terminal", False),
            **({"oomScoreAdj": changes.pop("score")} if "score" in changes else {}),
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
        },
        "root": {"path": "rootfs"},
        "hostname": "vm-pod",
        "mounts": [
            {
                "destination": "/proc",
                "type": "proc",
                "source": "proc",
                "options": ["nosuid", "noexec", "nodev"],
            },
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            *changes.pop("mounts", ()),
        ],
        "linux": linux,
        **changes,
    }


@contextlib.asynccontextmanager
async def vm_shim(
    image: str, network: str = "", options: Mapping[str, Any] | None = None
) -> AsyncIterator[VmShim]:
    """A place of its own, from which all has gone at the end."""
    top = tempfile.mkdtemp(prefix="crib-vm-")
    perform(Tmpfs(top, 256 << 20, mode=0o755))
    body = {"image": image, "acceleration": "tcg", "boot_time": BOUND, **(options or {})}
    document = "".join(f"{name} = {json.dumps(value)}\n" for name, value in body.items())
    program = ShimProgram(
        path=sys.executable,
        address=top,
        events=f"{top}/events",
        sockets=top,
        publisher=shutil.which("true") or "/bin/true",
        options=Typed(
            "runtimeoptions.v1.Options", Options(config_body=document.encode()).SerializeToString()
        ),
    )
    made = VmShim(top, program, network, image)
    try:
        yield made
    finally:
        made.end()
        cgroups, above = Cgroups(detect_layout()), os.path.dirname(made.cgroup)
        await cgroups.kill(above)
        await cgroups.remove(above)
        unmount_tree(top)
        shutil.rmtree(top)


def programs_of(pids: tuple[int, ...]) -> list[str]:
    """Those that still run, by their command lines."""
    found = []
    for pid in pids:
        process = identity(pid)
        if process is not None and is_alive(process):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def ip(*words: str) -> str:
    """What ip(8) says."""
    return subprocess.run(("ip", *words), check=True, capture_output=True, text=True).stdout
