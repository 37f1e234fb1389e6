"""The real cribd as a process of its own: private roots, bridge, range, cgroup and log.

    with running_cribd() as cribd:               # started, READY, one busybox image imported
        async with cribd.connect() as cri:       # both CRI services, and short ways to use them
            pod = await cri.run_pod("web")
            box = await cri.run_container(pod, "true")
            cribd.kill(); cribd.start()          # kill -9, and up again

At the end everything is wiped by `cribd --wipe`, and then nothing may be left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from crib.client import Connection, events, images, pods
from crib.client.pods import Pod
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import BuiltImage, busybox_image, write_saved_archive
from tests.patience import PATIENCE
from tests.shares import own_share
from tests.system.labs.handler_kinds import RUNTIME
from tests.system.labs.leftovers import Leftovers, force_away, processes_holding
from tests.system.labs.nursery import shared_nursery

IMAGE = "docker.io/library/busybox:test"
START_SECONDS = 120.0 * PATIENCE
STOP_SECONDS = 120.0 * PATIENCE
COMMAND_SECONDS = 600.0 * PATIENCE
"""That `crib` may take: it hangs then. Starting Python alone may take a minute on a busy machine."""
SETTLE_SECONDS = 60.0 * PATIENCE
"""What the kernel removes by itself (links of dead namespaces, emptied cgroups) may take as long."""
_SOURCE = Path(__file__).resolve().parents[3] / "src"
_numbers = own_share(1 << 14)


class DaemonProcess(Protocol):
    """A daemon's process, whoever made it."""

    pid: int
    returncode: int | Any  # as `subprocess.Popen` has it in typeshed

    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...
    def send_signal(self, number: int, /) -> None: ...


EXECUTED = ("-m", "crib.daemon")
"""cribd by a Python of its own, as people start it."""


class Cribd:
    """One daemon and its world; it may be stopped, killed and started again."""

    program: Sequence[str] = ()
    """Arguments of a Python that is the daemon. Empty: it is forked, without the imports (`nursery`)."""

    def __init__(self, *, network: str = "", extra: str = "", systemd: bool = False) -> None:
        """`network`: the [network] table's lines instead of a bridge's; `extra`: further lines of the top;
        `systemd`: with its cgroup driver.
        """
        token = secrets.token_hex(3)
        self.root = Path(tempfile.mkdtemp(prefix=f"crib{os.getpid()}-", dir="/tmp"))
        self.root.chmod(0o711)  # as /run: the root of a pod with a user namespace passes through
        self.data, self.state, self.logs = (self.root / name for name in ("d", "s", "logs"))
        self.bridge = f"cr{token}"
        number = next(_numbers)
        self.subnet = f"100.{64 + number // 256}.{number % 256}.0/24"  # RFC 6598: in use nowhere here
        self.cgroup = f"/crib{token}.slice" if systemd else f"/crib-{token}"
        driver = "systemd" if systemd else "cgroupfs"
        self.log_file = self.root / "cribd.log"
        self.config = self.root / "config.toml"
        bridge = f'mode = "bridge"\nbridge = "{self.bridge}"\nsubnet = "{self.subnet}"\n'
        self.config.write_text(
            f'data = "{self.data}"\nstate = "{self.state}"\n'
            f'cgroup_root = "{self.cgroup}"\ncgroup_driver = "{driver}"\n{extra}\n'
            f"[network]\n{network or bridge}\n"
            f'[nri]\nsocket = "{self.plugin_socket}"\nplugin_dir = "{self.plugins}"\n'
        )
        self._process: DaemonProcess | None = None

    @property
    def socket(self) -> Path:
        return self.state / "crib.sock"

    @property
    def plugin_socket(self) -> Path:
        """Where node plugins connect."""
        return self.root / "nri.sock"

    @property
    def plugins(self) -> Path:
        """The directory of node plugins that are installed; it is not there unless a test makes it."""
        return self.root / "plugins"

    @property
    def database(self) -> Path:
        return self.data / "crib.db"

    @property
    def boot_records(self) -> Path:
        """The same as the database, as it is now; the database follows."""
        return self.state / "records.db"

    def written(self) -> None:
        """Wait until the pods' rows are on disk as they are now."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (rows := _pod_rows(self.boot_records)) is None or rows != _pod_rows(self.database):
            assert self.running, f"not on disk, and cribd has ended: {rows}"
            assert time.monotonic() < deadline, f"not on disk: {rows}"
            time.sleep(0.02)  # nobody is told

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def start(self) -> float:
        """Start it and wait until it says READY=1; seconds that this took."""
        began = time.monotonic()
        manager = self.root / "notify"
        manager.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(manager))
            listener.settimeout(0.05)
            self._process = self._spawn(NOTIFY_SOCKET=str(manager))
            while time.monotonic() - began < START_SECONDS:
                with contextlib.suppress(TimeoutError):
                    if listener.recv(256) == b"READY=1":
                        return time.monotonic() - began
                if not self.running:
                    break
        raise AssertionError(f"cribd did not come up:\n{self.log()[-4000:]}")

    def _spawn(self, **environment: str) -> DaemonProcess:
        arguments = ["--config", str(self.config)]
        if not self.program:
            return self._forked("crib.daemon", arguments, self.log_file, environment)
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *self.program, *arguments],
                cwd=self.root,
                env=_environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _forked(
        self, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> DaemonProcess:
        return shared_nursery().start(module, arguments, log, _environment(environment))

    def begin(self, **environment: str) -> None:
        """Start it, and wait for nothing."""
        self._process = self._spawn(**environment)

    def signal(self, number: int) -> None:
        """Send it to the daemon, and wait for nothing."""
        assert self._process is not None
        self._process.send_signal(number)

    def run(self, *arguments: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
        """cribd to its end, for `--wipe`, `--check-config` and starts that are refused."""
        return subprocess.run(
            [sys.executable, *EXECUTED, "--config", str(config or self.config), *arguments],
            cwd=self.root,
            env=_environment({}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def stop(self) -> None:
        """SIGTERM, as a service manager does it; it must end by itself, and well."""
        self._end(signal.SIGTERM)
        assert self._process is not None
        assert self._process.returncode == 0, f"cribd ended with {self._process.returncode}:\n{self.log()}"

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def start_and_kill(self, seconds: float) -> None:
        """Start it, and kill it after that time, ready or not."""
        self._process = self._spawn()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.kill()

    def _end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(STOP_SECONDS)

    @contextlib.asynccontextmanager
    async def story(self) -> AsyncIterator[Cri]:
        """A connection for one story. Pods that it leaves are removed, and then all must be as before."""
        before = self.leftovers()
        try:
            async with self.connect() as cri:
                yield cri
        finally:
            if not self.running:
                self.start()
            async with self.connect() as cri:  # anew: the daemon may have been started again since
                for sandbox in await cri.sandboxes():
                    await cri.remove_pod(sandbox)
        self.settle(before)

    @contextlib.asynccontextmanager
    async def connect(self, timeout: float = 120.0 * PATIENCE) -> AsyncIterator[Cri]:
        async with Connection(str(self.socket), timeout) as connection:
            yield Cri(connection, self)

    def leftovers(self) -> Leftovers:
        """What there is of this daemon's at this moment."""
        return Leftovers.of(self.root, self.cgroup, self.bridge)

    def settle(self, before: Leftovers) -> None:
        """Wait until nothing is here that was not `before`, and nothing that was is gone; AssertionError."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (changes := self.leftovers().differences(before)) and time.monotonic() < deadline:
            time.sleep(0.02)  # the kernel tells nobody when it has removed the last of them
        assert not changes, "not as before: " + "; ".join(changes)

    def wipe(self) -> None:
        """`cribd --wipe`, after which nothing but data without mounts may be there."""
        log = self.root / "wipe.log"
        wiping = self._forked("crib.daemon", ["--config", str(self.config), "--wipe"], log, {})
        try:
            code = wiping.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            wiping.send_signal(signal.SIGKILL)
            wiping.wait(STOP_SECONDS)
            raise
        assert code == 0, f"cribd --wipe: {log.read_text(errors='replace')}"

    def end(self) -> None:
        """Stop, wipe, count, and remove the directories; what should not be there is removed, and told."""
        try:
            if self.running:
                self.stop()
            self.wipe()
            self.settle_empty()
            assert "Traceback" not in self.log(), self.log()
        finally:
            if self.running:
                self.kill()
            force_away(self.root, self.cgroup, self.bridge)
            shutil.rmtree(self.root)

    def settle_empty(self) -> None:
        """Nothing in the kernel, no process, no row of a pod."""

        def now() -> list[str]:
            return [*self.leftovers().in_the_kernel(), *processes_holding(self.root)]

        deadline = time.monotonic() + SETTLE_SECONDS
        while (left := now()) and time.monotonic() < deadline:
            time.sleep(0.02)  # as in `settle`
        assert not left, "left behind: " + "; ".join(left)

    def import_images(self, *built: BuiltImage) -> None:
        """Through crib's Node service, from a docker-archive."""
        archive = write_saved_archive(self.root / "images.tar", built)

        async def bring() -> None:
            async with self.connect() as cri:
                await cri.import_archive(archive)

        _run(bring())
        archive.unlink()

    def warm_up(self) -> None:
        """One pod's whole life: what all pods share (layers' mounts, infra root) is there from now on."""

        async def once() -> None:
            shared = pb.NamespaceOption(pid=pb.POD)
            async with self.connect() as cri:
                pod = await cri.run_pod("warm-up", log_directory="", namespaces=shared)
                await cri.run_container(pod, "true", log_path="", namespaces=shared)
                await cri.remove_pod(pod)

        _run(once())


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_SOURCE), **more}


def _pod_rows(database: Path) -> list[object] | None:
    """None of a file that is just being made anew."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{database}?mode=rw", timeout=60, uri=True)
        ) as connection:
            return [
                connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
                for table in ("sandboxes", "containers")
            ]
    except sqlite3.OperationalError:
        return None


def _run(work: Coroutine[Any, Any, None]) -> None:
    """In a thread: the test may be on a loop of its own."""

    def all_of_it() -> None:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(work)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(all_of_it).result()


def default_handler(program: str) -> str:
    """Lines of the configuration's top that make this runtime the default one."""
    return f'default_handler = "{program}"\n[handlers.{program}]\n'


def default_shim(program: str = "crun") -> str:
    """The same for a handler that runs it by containerd's shim."""
    return f'default_handler = "shim"\n{shim_table(program)}'


def shim_table(program: str = "crun") -> str:
    """A handler `shim` that runs this program by containerd's shim."""
    shim = f'kind = "shim"\nruntime = "{RUNTIME}"\noptions = {{ BinaryName = "{program}" }}\n'
    return f"[handlers.shim]\n{shim}"


def default_docker(socket: str) -> str:
    """The same for a handler by the Engine at this socket; nothing of ours stays there unused."""
    table = f'[handlers.docker.docker]\nsocket = "{socket}"\nimage_time = 0\n'
    return f'default_handler = "docker"\n[handlers.docker]\nkind = "docker"\n{table}'


def crib(cribd: Cribd, pods: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`crib ARGUMENTS` to its end; `pods` is where it keeps what it made of manifests."""
    command = [sys.executable, "-c", "from crib.cli.app import main; main()"]
    where = ["-e", str(cribd.socket), "--pods-dir", str(pods)]
    return subprocess.run(
        [*command, *where, *arguments],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
        env=_environment({}),
    )


@contextlib.contextmanager
def running_cribd(
    *,
    network: str = "",
    extra: str = "",
    systemd: bool = False,
    built: Sequence[BuiltImage] | None = None,
    warm: bool = True,
    kind: type[Cribd] = Cribd,
) -> Iterator[Cribd]:
    """A daemon that is up, with these images (default: one busybox); everything goes at the end."""
    cribd = kind(network=network, extra=extra, systemd=systemd)
    try:
        cribd.start()
        if wanted := (busybox_image(name=IMAGE),) if built is None else built:
            cribd.import_images(*wanted)
            if warm:
                cribd.warm_up()
        yield cribd
    finally:
        cribd.end()


@dataclass
class ExecOutcome:
    """What ExecSync answered."""

    code: int
    out: str
    err: str


class Cri:
    """A connection, and short ways to make the calls that the stories are made of."""

    def __init__(self, connection: Connection, cribd: Cribd) -> None:
        self.connection = connection
        self.call = connection.call
        self.runtime, self.image, self.node = connection.runtime, connection.image, connection.node
        self.cribd = cribd

    def pod_config(self, name: str, **fields: object) -> pb.PodSandboxConfig:
        """A pod of its own uid; namespaces as a kubelet asks for them (CONTAINER pids)."""
        fields.setdefault("log_directory", str(self.cribd.logs / name))
        options = fields.pop("namespaces", pb.NamespaceOption(pid=pb.CONTAINER))
        sysctls = fields.pop("sysctls", None)
        linux = pb.LinuxPodSandboxConfig(
            security_context=pb.LinuxSandboxSecurityContext(namespace_options=options),  # type: ignore[arg-type]
            sysctls=sysctls,  # type: ignore[arg-type]
        )
        metadata = pb.PodSandboxMetadata(name=name, uid=secrets.token_hex(8), namespace="stories")
        fields.setdefault("hostname", name)
        return pb.PodSandboxConfig(metadata=metadata, linux=linux, **fields)  # type: ignore[arg-type]

    def container_config(self, *command: str, name: str = "box", **fields: Any) -> pb.ContainerConfig:
        """A container that runs `command` from the busybox image; `resources`, `mounts` and so on by name."""
        fields.setdefault("log_path", f"{name}.log")
        image = pb.ImageSpec(image=str(fields.pop("image", IMAGE)))
        linux = pb.LinuxContainerConfig(
            resources=fields.pop("resources", None),
            security_context=pb.LinuxContainerSecurityContext(
                namespace_options=fields.pop("namespaces", pb.NamespaceOption(pid=pb.CONTAINER))
            ),
        )
        metadata = pb.ContainerMetadata(name=name)
        return pb.ContainerConfig(
            metadata=metadata,
            image=image,
            command=command,
            linux=linux,
            **fields,
        )

    async def run_pod(self, name: str, **fields: object) -> Pod:
        return await pods.run_sandbox(self.connection, self.pod_config(name, **fields))

    async def create(self, pod: Pod, *command: str, **fields: Any) -> str:
        return await pods.create_container(self.connection, pod, self.container_config(*command, **fields))

    async def start(self, container: str) -> None:
        await pods.start_container(self.connection, container)

    async def run_container(self, pod: Pod, *command: str, **fields: object) -> str:
        """Created and started."""
        container = await self.create(pod, *command, **fields)
        await self.start(container)
        return container

    async def status(self, container: str) -> pb.ContainerStatus:
        return await pods.container_status(self.connection, container)

    async def exited(self, container: str, timeout: float = 60.0 * PATIENCE) -> pb.ContainerStatus:
        """Its status, once it has ended."""
        return await events.wait_exited(self.connection, container, timeout)

    async def execute(self, container: str, *command: str, timeout: int = 0) -> ExecOutcome:
        request = pb.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout)
        reply = await self.call(self.runtime.ExecSync, request)
        return ExecOutcome(reply.exit_code, reply.stdout.decode(), reply.stderr.decode())

    async def sh(self, container: str, script: str, timeout: int = 0) -> str:
        """What a shell script in the container prints; it must succeed."""
        outcome = await self.execute(container, "sh", "-c", script, timeout=timeout)
        assert outcome.code == 0, outcome
        return outcome.out.strip()

    async def stop_container(self, container: str, grace: int = 0) -> None:
        await pods.stop_container(self.connection, container, grace)

    async def remove_container(self, container: str) -> None:
        await self.call(self.runtime.RemoveContainer, pb.RemoveContainerRequest(container_id=container))

    async def stop_pod(self, pod: Pod | str) -> None:
        request = pb.StopPodSandboxRequest(pod_sandbox_id=pod if isinstance(pod, str) else pod.id)
        await self.call(self.runtime.StopPodSandbox, request)

    async def remove_pod(self, pod: Pod | str) -> None:
        """Stopped and removed."""
        await self.stop_pod(pod)
        await pods.remove(self.connection, pod if isinstance(pod, str) else pod.id)

    async def pod_status(self, pod: Pod) -> pb.PodSandboxStatus:
        return await pods.sandbox_status(self.connection, pod.id)

    async def sandboxes(self) -> dict[str, pb.PodSandbox]:
        reply = await self.call(self.runtime.ListPodSandbox, pb.ListPodSandboxRequest())
        return {item.id: item for item in reply.items}

    async def containers(self) -> dict[str, pb.Container]:
        reply = await self.call(self.runtime.ListContainers, pb.ListContainersRequest())
        return {item.id: item for item in reply.containers}

    async def image_names(self) -> set[str]:
        return {tag for image in await images.list_images(self.connection) for tag in image.repo_tags}

    async def import_archive(self, path: Path) -> list[str]:
        """The names that came."""
        names: list[str] = []
        async for progress in images.import_progress(self.connection, str(path)):
            names += [name for image in progress.images for name in image.names]
        return names


async def until(question: Callable[..., object], seconds: float = 120.0 * PATIENCE) -> Any:
    """The first true answer of `question` (it may be async), asked again and again; AssertionError."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        answer = await answer if asyncio.iscoroutine(answer) else answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.01)  # what is waited for tells nobody


async def first_pid(cri: Cri, container: str) -> int:
    """Of the container's first process, as the host sees it."""
    note = cri.cribd.state / "containers" / container / "pidfile"
    return int(note.read_text())


async def page(address: str, port: int) -> str:
    """The host name of the pod whose web server answers there; empty when none does."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 10)
    except (OSError, TimeoutError):
        return ""
    try:
        writer.write(b"GET /hostname HTTP/1.0\r\n\r\n")
        return (await asyncio.wait_for(reader.read(), 10)).decode().rpartition("\r\n")[2].strip()
    except (OSError, TimeoutError):
        return ""
    finally:
        writer.close()


def log_contents(path: Path | str) -> Mapping[str, bytes]:
    """What a CRI log holds, by stream, parts joined."""
    from crib.wire.crilog import parse_line

    found = {"stdout": b"", "stderr": b""}
    for raw in Path(path).read_bytes().splitlines():
        line = parse_line(raw)
        found[line.stream] += line.content + (b"" if line.partial else b"\n")
    return found
