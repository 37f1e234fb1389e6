"""An engine with fakes for hands: what the tests of the verbs play with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from crib.engine.core import Ports
from crib.engine.events import Subscription
from crib.engine.node import Node
from crib.model.container import ContainerConfig
from crib.model.events import ContainerEvent
from crib.model.facts import HostFacts
from crib.model.ids import ContainerId, HandlerName, SandboxId
from crib.model.image import ImageConfig, ImageRecord, PullOrder, parse_reference
from crib.model.sandbox import NamespaceMode, NamespaceOptions, PodMetadata, PodSecurity, SandboxConfig
from crib.model.settings import Settings
from crib.ports.extensions import ImageVerifier, LifecycleHook
from tests.fakes.clock import ManualClock
from tests.fakes.configuration import FakeConfiguration
from tests.fakes.handler import FakeHandler
from tests.fakes.host import FakeContainer
from tests.fakes.images import FakeImages, made_image
from tests.fakes.insight import FakeInsight
from tests.fakes.journal import MemoryJournal
from tests.fakes.kept import FakeKeptPods
from tests.fakes.networks import FakeNetworks
from tests.fakes.plugins import FakePlugins
from tests.fakes.records import MemoryRecords
from tests.fakes.settings import image_settings
from tests.fakes.volumes import FakeVolumePorts
from tests.patience import PATIENCE

IMAGE = "docker.io/library/busybox:latest"
BOUND = 20.0 * PATIENCE
"""Seconds that anything awaited in a test may take: it fails then, as something hangs."""


def order(name: str) -> PullOrder:
    """A pull of that name, with nothing else asked for."""
    return PullOrder(parse_reference(name))


def bounded() -> asyncio.Timeout:
    """Around whatever could hang."""
    return asyncio.timeout(BOUND)


def host_facts(boot_id: str = "boot-1") -> HostFacts:
    return HostFacts(
        kernel="6.18",
        boot_id=boot_id,
        architecture="amd64",
        cgroup_layout="v1",
        cgroup_controllers=("cpu", "memory"),
        capabilities=("CAP_CHOWN",),
        oom_score_adj=0,
        may_lower_oom=True,
        apparmor=False,
        selinux=False,
        seccomp=True,
        idmapped_mounts=True,
        open_files=(1024, 4096),
        memory_bytes=1 << 30,
        swap_accounting=False,
    )


def pod_config(
    name: str = "web",
    *,
    attempt: int = 0,
    host_network: bool = False,
    pid: NamespaceMode = NamespaceMode.CONTAINER,
    hostname: str = "",
    labels: Mapping[str, str] | None = None,
    sysctls: Mapping[str, str] | None = None,
) -> SandboxConfig:
    network = NamespaceMode.NODE if host_network else NamespaceMode.POD
    return SandboxConfig(
        metadata=PodMetadata(name, f"uid-{name}", "default", attempt),
        hostname=hostname,
        log_directory=f"/var/log/pods/{name}",
        labels=labels or {},
        sysctls=sysctls or {},
        security=PodSecurity(
            namespaces=NamespaceOptions(network=network, pid=pid),
        ),
    )


def container_config(
    name: str = "app",
    *args: str,
    attempt: int = 0,
    image: str = IMAGE,
    log_path: str = "",
    stop_signal: int = 0,
) -> ContainerConfig:
    return ContainerConfig(
        name=name,
        image=image,
        attempt=attempt,
        args=args or ("sleep", "60"),
        log_path=log_path,
        stop_signal=stop_signal,
    )


class World:
    """One engine. `restarted` gives the next daemon over the same records and the same world."""

    def __init__(self, settings: Settings | None = None, boot_id: str = "boot-1") -> None:
        self.clock = ManualClock()
        self.settings = settings or Settings(images=image_settings(pull_linger=0.0))
        self.boot_id = boot_id
        self.handler = FakeHandler(self.clock)
        self.networks = FakeNetworks()
        self.images = FakeImages()
        self.configuration = FakeConfiguration()
        self.records = MemoryRecords()
        self.journal = MemoryJournal(self.clock)
        self.images.publish(IMAGE, made_image("busybox", "base", config=ImageConfig(cmd=("sleep", "60"))))
        self.plugins = FakePlugins()
        self.volumes = FakeVolumePorts()
        self.hooks: list[LifecycleHook] = []
        self.verifiers: list[ImageVerifier] = []
        self.node = self._new_node()

    def _new_node(self) -> Node:
        ports = Ports(
            handlers={HandlerName("crun"): self.handler},
            networks=self.networks,
            images=self.images,
            records=self.records,
            journal=self.journal,
            clock=self.clock,
            insight=FakeInsight(),
            hooks=self.hooks,
            verifiers=self.verifiers,
            configuration=self.configuration,
            kept=FakeKeptPods(),
            volumes=self.volumes.ports(),
            plugins=self.plugins,
        )
        return Node(self.settings, host_facts(self.boot_id), ports)

    async def start(self) -> None:
        """Up, and also through with what goes on behind the gate."""
        async with bounded():
            await self.node.start()
            await self.node.let_plugins_in()
            await self.node.settled()

    async def close(self) -> None:
        async with bounded():
            await self.node.close(0.05)

    async def restarted(self, *, boot_id: str = "", start: bool = True) -> World:
        """The daemon was killed; what it wrote and what runs is there still. After a reboot nothing runs."""
        await self.node.keeper.close(0.0)
        if boot_id and boot_id != self.boot_id:
            self.boot_id = boot_id
            self.handler.host.pods.clear()
            self.handler.host.containers.clear()
        self.handler = self.handler.restarted()
        self.networks.restarted()
        self.journal.restarted()
        self.node = self._new_node()
        if start:
            await self.start()
        return self

    # shortcuts

    async def pod(self, name: str = "web", *, attempt: int = 0) -> SandboxId:
        async with bounded():
            return await self.node.sandboxes.run(pod_config(name, attempt=attempt), "")

    async def pull(self, name: str, pod: PodMetadata | None = None) -> ImageRecord:
        """Pull an image by its name."""
        return await self.node.images.pull(order(name), pod)

    async def pulled(self, name: str = IMAGE) -> None:
        async with bounded():
            await self.pull(name)

    async def created(self, pod: SandboxId, name: str = "app", *args: str) -> ContainerId:
        if self.node.images.status(IMAGE) is None:
            await self.pulled()
        async with bounded():
            return await self.node.containers.create(pod, container_config(name, *args))

    async def running(self, pod: SandboxId, name: str = "app", *args: str) -> ContainerId:
        container = await self.created(pod, name, *args)
        async with bounded():
            await self.node.containers.start(container)
        return container

    def inside(self, container: ContainerId) -> FakeContainer:
        return self.handler.host.containers[container]


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop turns until it is so; nothing in the fakes takes time, so a few turns are plenty."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to be")


async def turns(number: int = 20) -> None:
    """Let everything that can go on go on."""
    for _ in range(number):
        await asyncio.sleep(0)


async def next_events(subscription: Subscription, number: int) -> list[ContainerEvent]:
    """The next events of a subscription."""
    found: list[ContainerEvent] = []
    async with bounded():
        async for event in subscription.events():
            found.append(event)
            if len(found) == number:
                break
    return found
