"""A private OCI handler for tests.

Its own roots below a temporary directory, its own cgroup, a busybox root.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

from crib.backends.environment import HandlerEnvironment, HandlerOpening
from crib.backends.host_facts import read_host_facts
from crib.backends.oci.environment import OciEnvironment, open_environment
from crib.backends.oci.handler import OciHandler
from crib.engine.containers.execute import run_command
from crib.host import orphans
from crib.host.cgroups import detect_layout
from crib.host.mounts import Tmpfs, perform, unmount_tree
from crib.model.container import (
    ContainerConfig,
    ContainerRecord,
    ContainerState,
    ExecCommand,
    ExecResult,
)
from crib.model.facts import HostFacts
from crib.model.ids import Digest, HandlerName, ImageId, new_container_id, new_sandbox_id
from crib.model.image import ImageConfig
from crib.model.paths import Paths
from crib.model.sandbox import (
    NamespaceMode,
    NamespaceOptions,
    PodMetadata,
    PodSecurity,
    SandboxConfig,
    SandboxRecord,
    SandboxState,
)
from crib.model.settings import HandlerSettings, Settings
from crib.ports.containers import CreateRequest
from crib.ports.handler import Handler
from tests.fakes.stages import NoStages
from tests.patience import PATIENCE


def host_facts() -> HostFacts:
    """Facts of the machine that the tests run on."""
    return replace(read_host_facts(detect_layout()), idmapped_mounts=True)


class PlainLayers:
    """A layer is a directory, named by its digest."""

    def __init__(self, directories: dict[Digest, str]) -> None:
        self._directories = directories

    async def acquire(self, layers: Sequence[Digest]) -> Sequence[str]:
        return [self._directories[layer] for layer in layers]


STAGE = NoStages()
BOUND = 60.0 * PATIENCE
"""Seconds that anything awaited may take: it hangs then. A busy machine is many times slower than others."""
PR_SET_CHILD_SUBREAPER = 36
LAYER = Digest("sha256:" + "b" * 64)


def make_busybox_root(root: str) -> None:
    """A root with a static busybox under the names that the tests use."""
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev"):
        os.makedirs(f"{root}/{name}")
    os.chmod(f"{root}/tmp", 0o1777)
    shutil.copy("/bin/busybox", f"{root}/bin/busybox")
    for applet in (
        *(
            "sh",
            "true",
            "false",
            "sleep",
            "cat",
            "echo",
            "id",
            "env",
            "ls",
            "hostname",
            "setsid",
            "head",
            "pwd",
        ),
        *(
            "ps",
            "mount",
            "touch",
            "stat",
            "dd",
            "yes",
            "kill",
            "grep",
            "wc",
            "mkdir",
            "tail",
            "test",
            "printf",
        ),
    ):
        os.symlink("busybox", f"{root}/bin/{applet}")
    with open(f"{root}/etc/passwd", "w") as file:
        file.write("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n")
    with open(f"{root}/etc/group", "w") as file:
        file.write("root:x:0:\nalice:x:1001:\nwheel:x:10:alice\n")


@dataclass
class PodLab:
    """A handler with what it needs, and short ways to make records."""

    handler: Handler
    environment: HandlerEnvironment
    paths: Paths
    logs: str
    runtime_root: str
    """Where the runtime has the states of containers."""

    def sandbox(
        self,
        *,
        pid: NamespaceMode = NamespaceMode.CONTAINER,
        network: NamespaceMode = NamespaceMode.POD,
        ipc: NamespaceMode = NamespaceMode.POD,
        **config: object,
    ) -> SandboxRecord:
        return SandboxRecord(
            id=new_sandbox_id(),
            config=SandboxConfig(
                metadata=PodMetadata("pod", "uid", "default"),
                hostname="pod-host",
                log_directory=self.logs,
                security=PodSecurity(namespaces=NamespaceOptions(network, pid, ipc)),
                **config,  # type: ignore[arg-type]
            ),
            handler=HandlerName(self.environment.facts.name),
            state=SandboxState.CREATING,
            created_at=time.time_ns(),
            boot_id="",
        )

    def container(
        self, sandbox: SandboxRecord, config: ContainerConfig, *, log: bool = True
    ) -> ContainerRecord:
        container = new_container_id()
        return ContainerRecord(
            id=container,
            sandbox_id=sandbox.id,
            config=config,
            state=ContainerState.CREATING,
            created_at=time.time_ns(),
            image_id=ImageId("sha256:" + "a" * 64),
            image_ref="busybox",
            layers=(LAYER,),
            log_path=f"{self.logs}/{container}.log" if log else "",
            resources=config.resources,
        )

    async def create(self, record: ContainerRecord, sandbox: SandboxRecord) -> ContainerRecord:
        made = await self.handler.containers.create(CreateRequest(record, sandbox, ImageConfig()), STAGE)
        return replace(record, process=made.process, monitor=made.monitor, user=made.user)

    async def begin(self, record: SandboxRecord) -> SandboxRecord:
        """Prepare and start a pod that has no network."""
        await self.handler.pods.prepare(record, STAGE)
        return replace(record, infra=await self.handler.pods.start(record, STAGE))

    @contextlib.asynccontextmanager
    async def pod(self, record: SandboxRecord) -> AsyncIterator[SandboxRecord]:
        """A started pod; removed at the end."""
        try:
            yield await self.begin(record)
        finally:
            await self.handler.pods.remove(record)

    @contextlib.asynccontextmanager
    async def running(
        self, sandbox: SandboxRecord, config: ContainerConfig
    ) -> AsyncIterator[ContainerRecord]:
        """A container that runs; deleted at the end."""
        record = self.container(sandbox, config)
        try:
            record = await self.create(record, sandbox)
            await self.handler.containers.start(record)
            yield record
        finally:
            await self.handler.containers.delete(record)

    async def execute(self, record: ContainerRecord, *argv: str) -> ExecResult:
        return await run_command(self.handler.streams, record, ExecCommand(argv, timeout=BOUND))


@dataclass
class OciLab(PodLab):
    """One of kind `oci`."""

    handler: OciHandler
    environment: OciEnvironment


@contextlib.contextmanager
def orphans_come_here() -> Iterator[None]:
    """As in the daemon, to which the runtime leaves the commands that it starts; orphans are collected."""
    orphans.become_subreaper()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, orphans.reap_orphans)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        assert prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0
        orphans.reap_orphans()


@contextlib.asynccontextmanager
async def oci_lab(
    program: str = "crun", handler: HandlerSettings | None = None, **settings: object
) -> AsyncIterator[OciLab]:
    """A lab whose state and data lie on a tmpfs of their own, as /run does on a node.

    All of it goes at the end.
    """
    top = tempfile.mkdtemp(prefix="crib-oci-")
    perform(Tmpfs(top, 512 << 20, mode=0o755))
    lower, logs = f"{top}/lower", f"{top}/logs"
    os.makedirs(lower)
    os.makedirs(logs)
    make_busybox_root(lower)
    paths = Paths(data=f"{top}/data", state=f"{top}/run")
    cgroup_root = f"/crib-test-{os.path.basename(top)}"
    options = Settings(
        data=paths.data,
        state=paths.state,
        cgroup_root=cgroup_root,
        verb_timeout=BOUND,
        handlers={program: handler or HandlerSettings()},
        default_handler=program,
        **settings,  # type: ignore[arg-type]
    )
    try:
        layers = PlainLayers({LAYER: lower})
        opening = HandlerOpening(HandlerName(program), options, paths, host_facts(), layers)
        environment = await open_environment(opening)
    except BaseException:
        unmount_tree(top)
        shutil.rmtree(top)
        raise
    try:
        with orphans_come_here():
            made = OciHandler(environment, layers)
            yield OciLab(made, environment, paths, logs, environment.runtime.root)
            await made.close()
    finally:
        await environment.cgroups.kill(cgroup_root)
        await environment.cgroups.remove(cgroup_root)
        unmount_tree(top)
        shutil.rmtree(top)
