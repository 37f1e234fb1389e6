"""Docker's Engine from Debian's packages, private to a test: unpacked into a cache, never installed.

It has a containerd, directories, a socket and a parent cgroup of its own, and no network of any kind. Where
its packages cannot be had, the tests that need it are skipped, with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crib.backends.docker.handler import DockerHandler
from crib.backends.environment import HandlerOpening
from crib.host.cgroups import Cgroups, detect_layout
from crib.host.mounts import Tmpfs, perform, unmount_tree
from crib.model.docker_settings import DockerSettings
from crib.model.ids import HandlerName
from crib.model.paths import Paths
from crib.model.settings import HandlerSettings, Settings
from tests.system.labs.oci_setup import (
    BOUND,
    LAYER,
    PlainLayers,
    host_facts,
    make_busybox_root,
    orphans_come_here,
)

PACKAGES = ("docker.io", "containerd", "runc", "tini")
CACHE = Path(os.environ.get("CRIB_TEST_CACHE", "/var/tmp/crib-test-cache")) / "docker"
START_TIME = 60.0
"""Seconds that each of the two daemons has to answer."""
STOP_TIME = 30.0
_FETCH_TIME = 300.0


@functools.cache
def engine_programs() -> str:
    """PATH of the unpacked programs. Skips, with the reason, where they cannot be had."""
    done = CACHE / "unpacked"
    if not done.exists() and (problem := _fetch(done)):
        pytest.skip(f"Docker's Engine cannot be had: {problem}")
    return f"{done}/usr/bin:{done}/usr/sbin"


def _fetch(done: Path) -> str:
    """What is wrong; empty when it is there."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return "this is no Debian"
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        fetched = subprocess.run(
            ("apt-get", "download", *PACKAGES),
            cwd=work,
            capture_output=True,
            timeout=_FETCH_TIME,
            check=False,
        )
        if fetched.returncode:
            return fetched.stderr.decode()[-300:]
        for package in Path(work).glob("*.deb"):
            subprocess.run(("dpkg", "-x", str(package), f"{work}/root"), check=True, timeout=_FETCH_TIME)
        with contextlib.suppress(OSError):  # somebody else was faster
            os.rename(f"{work}/root", done)
    return ""


@dataclass
class Engine:
    """A private one; it can be killed and started again."""

    top: str
    path: str
    live_restore: bool = True
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def socket(self) -> str:
        return f"{self.top}/docker.sock"

    @property
    def cgroup(self) -> str:
        """The parent of containers that name none."""
        return f"/crib-test-{os.path.basename(self.top)}"

    def start(self) -> None:
        """Both daemons; returns when the Engine answers."""
        os.makedirs(f"{self.top}/tmp", exist_ok=True)
        if "containerd" not in self._processes:
            self._start("containerd", "containerd", "-c", f"{self.top}/containerd.toml")
            self._wait("containerd", f"{self.top}/containerd.sock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        self._start(
            "dockerd",
            "dockerd",
            *("--config-file", f"{self.top}/daemon.json", "--containerd", f"{self.top}/containerd.sock"),
            *("--data-root", f"{self.top}/data", "--exec-root", f"{self.top}/exec"),
            *("--pidfile", f"{self.top}/dockerd.pid", "-H", f"unix://{self.socket}"),
            *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
            *("--ip-masq=false", f"--cgroup-parent={self.cgroup}"),
            *(("--live-restore",) if self.live_restore else ()),
        )
        self._wait("dockerd", self.socket)

    def kill(self, name: str = "dockerd") -> None:
        """With SIGKILL; containers go on."""
        self._end(name, signal.SIGKILL)

    def stop(self) -> None:
        """Both, with all containers that are left."""
        with contextlib.suppress(OSError, ValueError):
            for one in json.loads(self.ask("GET", "/containers/json?all=1")):
                self.ask("DELETE", f"/containers/{one['Id']}?force=1")
        for name in ("dockerd", "containerd"):
            if name in self._processes:
                self._end(name, signal.SIGTERM)

    def ask(self, method: str, path: str) -> bytes:
        """The body of an answer, by the simplest HTTP."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(BOUND)
            link.connect(self.socket)
            link.sendall(f"{method} {path} HTTP/1.0\r\nHost: engine\r\n\r\n".encode())
            answer = b""
            while data := link.recv(65536):
                answer += data
        return answer.partition(b"\r\n\r\n")[2]

    def count(self) -> tuple[int, int]:
        """Containers and images that there are."""
        containers = json.loads(self.ask("GET", "/containers/json?all=1"))
        return len(containers), len(json.loads(self.ask("GET", "/images/json?all=1")))

    def _start(self, name: str, *argv: str) -> None:
        environment = {**os.environ, "PATH": f"{self.path}:{os.environ['PATH']}", "TMPDIR": f"{self.top}/tmp"}
        with open(f"{self.top}/{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _end(self, name: str, signum: int) -> None:
        process = self._processes.pop(name)
        process.send_signal(signum)
        try:
            process.wait(STOP_TIME)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, name: str, path: str) -> None:
        """Nothing tells when it answers."""
        until = time.monotonic() + START_TIME
        while time.monotonic() < until:
            if self._processes[name].poll() is not None:
                break
            with contextlib.suppress(OSError):
                if name == "containerd":
                    with socket.socket(socket.AF_UNIX) as link:
                        link.connect(path)
                    return
                if self.ask("GET", "/_ping") == b"OK":
                    return
            time.sleep(0.05)  # nothing tells when a socket answers
        words = Path(f"{self.top}/{name}.log").read_text()[-1500:]
        raise AssertionError(f"{name} does not answer: {words}")


@contextlib.contextmanager
def docker_engine(*, live_restore: bool = True) -> Iterator[Engine]:
    """One that runs; all of it goes at the end."""
    path = engine_programs()
    top = tempfile.mkdtemp(prefix="crib-engine-", dir="/var/tmp")  # overlayfs wants a disk
    engine = Engine(top, path, live_restore)
    Path(f"{top}/daemon.json").write_text("{}")
    Path(f"{top}/containerd.toml").write_text(
        "version = 2\n"
        f'root = "{top}/containerd"\nstate = "{top}/containerd-run"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{top}/containerd.sock"\n'
    )
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        for left in _left(top):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        unmount_tree(top)
        shutil.rmtree(top)
        cgroups = Cgroups(detect_layout())
        for directory in cgroups.directories(engine.cgroup):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def _left(top: str) -> Iterator[int]:
    """Shims of its containerd: their arguments name its socket."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            if f"{top}/containerd.sock".encode() in command:
                yield int(name)


@pytest.fixture(scope="session")
def shared_engine() -> Iterator[Engine]:
    """One for all tests of a session that do not harm it."""
    with docker_engine() as engine:
        yield engine


@dataclass
class DockerLab:
    """A handler, and where it works; `again` opens it as the next daemon would."""

    handler: DockerHandler
    opening: HandlerOpening
    logs: str
    engine: Engine

    @property
    def paths(self) -> Paths:
        return self.opening.paths

    async def again(self) -> DockerHandler:
        """The daemon is killed, and another begins: what it holds is let go of, nothing is told."""
        await self.handler.close()
        self.handler = await DockerHandler.open(self.opening)
        return self.handler


@contextlib.asynccontextmanager
async def docker_lab(engine: Engine, name: str = "crun", **settings: object) -> AsyncIterator[DockerLab]:
    """A lab whose state and data lie on a tmpfs of their own; all of it goes at the end."""
    top = tempfile.mkdtemp(prefix="crib-docker-")
    perform(Tmpfs(top, 512 << 20, mode=0o755))
    lower, logs = f"{top}/lower", f"{top}/logs"
    os.makedirs(lower)
    os.makedirs(logs)
    make_busybox_root(lower)
    paths = Paths(data=f"{top}/data", state=f"{top}/run")
    cgroup_root = f"/crib-test-{os.path.basename(top)}"
    docker = DockerSettings(socket=engine.socket, image_time=0)
    made = Settings(
        data=paths.data,
        state=paths.state,
        cgroup_root=cgroup_root,
        verb_timeout=BOUND,
        handlers={name: HandlerSettings(kind="docker", docker=docker)},
        default_handler=name,
        **settings,  # type: ignore[arg-type]
    )
    opening = HandlerOpening(HandlerName(name), made, paths, host_facts(), PlainLayers({LAYER: lower}))
    cgroups = Cgroups(detect_layout())
    try:
        with orphans_come_here():
            lab = DockerLab(await DockerHandler.open(opening), opening, logs, engine)
            try:
                yield lab
            finally:
                await lab.handler.sweep(lambda: ())
                await lab.handler.dismantle()
                await lab.handler.close()
    finally:
        await cgroups.kill(cgroup_root)
        await cgroups.remove(cgroup_root)
        unmount_tree(top)
        shutil.rmtree(top)
