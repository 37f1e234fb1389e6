"""The node as the doors see it: nouns with their verbs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from crib.engine.abandon import Abandon
from crib.engine.checks.check import CheckNode
from crib.engine.checks.images import CheckImages, ImageFindings
from crib.engine.containers.checkpoint import CheckpointContainer
from crib.engine.containers.create import CreateContainer
from crib.engine.containers.execute import ExecSync, ReopenLog
from crib.engine.containers.remove import RemoveContainer
from crib.engine.containers.rotation import RotateLogs
from crib.engine.containers.start import StartContainer
from crib.engine.containers.stop import StopContainer
from crib.engine.containers.update import UpdateContainer
from crib.engine.core import Core, Ports
from crib.engine.disk import MeasureDisk
from crib.engine.explain import ExplainContainer
from crib.engine.gauges import Gauges, gauges
from crib.engine.host_end import EndWithHost
from crib.engine.images.catalogue import Catalogue
from crib.engine.images.policy import PolicyGuard
from crib.engine.images.upkeep import Upkeep
from crib.engine.images.verbs import ImageVerbs
from crib.engine.metrics import Metrics
from crib.engine.networks import Networks
from crib.engine.plugin_wishes import PluginWishes
from crib.engine.recovery.recover import recover, watch_handler
from crib.engine.sandboxes.checkpoint import CheckpointPod, RestorePod
from crib.engine.sandboxes.remove import RemoveSandbox
from crib.engine.sandboxes.run import RunSandbox
from crib.engine.sandboxes.stop import StopSandbox
from crib.engine.sandboxes.update import UpdateSandbox
from crib.engine.stats import Stats
from crib.engine.status import NodeStatus, node_status
from crib.engine.streams.verbs import Streams
from crib.engine.timeline import PodStages
from crib.engine.volumes.verbs import NodeVolumes
from crib.engine.why import Why
from crib.engine.wipe import Wipe, WipeVerbs
from crib.model.container import ContainerRecord
from crib.model.errors import NotFound
from crib.model.events import EventKind, NodeEvent, Stage
from crib.model.facts import HostFacts
from crib.model.ids import ContainerId, HandlerName, SandboxId
from crib.model.image import ImageRecord
from crib.model.lifecycle import is_listed
from crib.model.plugin_status import PluginFigures, PluginStatus
from crib.model.sandbox import SandboxRecord
from crib.model.settings import HandlerSettings, Settings
from crib.ports.handler import Handler


class NodeSandboxes:
    """Pod sandboxes. `get` raises NotFound."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.run = RunSandbox(core)
        self.stop = StopSandbox(core)
        self.remove = RemoveSandbox(core)
        self.update = UpdateSandbox(core)
        self.checkpoint = CheckpointPod(core)
        self.get = core.sandbox

    def list(self) -> Iterator[SandboxRecord]:
        """Those that callers may see."""
        return (row for row in self._core.sandboxes if is_listed(row))

    def netns(self, record: SandboxRecord) -> str:
        """Where the pod's network namespace is pinned; empty when it has none of its own (any more)."""
        if record.config.host_network or record.released:
            return ""
        return self._core.pod_network(record).netns

    def spec(self, record: SandboxRecord) -> bytes:
        """See PodRuntime.made_spec."""
        return self._core.caretaker(record).pods.made_spec(record)


class NodeContainers:
    """Containers. `get` raises NotFound."""

    def __init__(self, core: Core, catalogue: Catalogue, policy: PolicyGuard) -> None:
        self._core = core
        self.create = CreateContainer(core, catalogue, policy)
        self.start = StartContainer(core)
        self.stop = StopContainer(core)
        self.remove = RemoveContainer(core)
        self.update = UpdateContainer(core)
        self.checkpoint = CheckpointContainer(core)
        self.explain = ExplainContainer(core, catalogue, self.create)
        self.exec_sync = ExecSync(core)
        self.reopen_log = ReopenLog(core)
        self.rotate_logs = RotateLogs(core)
        self.get = core.container

    def list(self) -> Iterator[ContainerRecord]:
        """Those that callers may see."""
        return (row for row in self._core.containers if is_listed(row))

    def spec(self, record: ContainerRecord) -> bytes:
        """See ContainerRuntime.made_spec."""
        sandbox = self._core.sandboxes.get(record.sandbox_id)
        return self._core.caretaker(sandbox).containers.made_spec(record)

    def of_sandbox(self, sandbox: SandboxId) -> Iterator[ContainerRecord]:
        return (row for row in self._core.containers_of(sandbox) if is_listed(row))


class ImageStore:
    """Images."""

    def __init__(self, core: Core, catalogue: Catalogue, verbs: ImageVerbs) -> None:
        self._catalogue = catalogue
        self.pull = verbs.pull
        self.follow_pull = verbs.follow_pull
        self.import_archive = verbs.import_archive
        self.export = verbs.export
        self.remove = verbs.remove
        self.explain = verbs.explain
        self.documents = verbs.documents
        self.fs_usage = verbs.fs_usage
        self.sweep = verbs.sweep
        self.check = CheckImages(core, catalogue, verbs)
        self.upkeep = Upkeep(core, catalogue, verbs)

    def status(self, text: str) -> ImageRecord | None:
        """By id, name or digest; None when it is not here, or not whole as far as is known."""
        return self._catalogue.find_here(text)

    def list(self) -> Iterator[ImageRecord]:
        return self._catalogue.here()


class Node:
    """Everything that a door may ask for."""

    def __init__(self, settings: Settings, facts: HostFacts, ports: Ports) -> None:
        self._core = Core(settings, facts, ports)
        self._catalogue = Catalogue(ports.records, ports.clock, settings.images.upkeep.pinned)
        policy = PolicyGuard(settings.images.trust, ports.images, ports.verifiers)
        verbs = ImageVerbs(self._core, self._catalogue, policy)
        self.adapt = self._core.adapt
        self.configuration = ports.configuration
        self.describe = self._core.describe
        self.held_locks = self._core.locks.held
        self.insight = ports.insight
        self.kept = ports.kept
        self.plugin_statuses: Callable[[], Sequence[PluginStatus]] = tuple
        """Each node plugin, those that take part first."""
        self.plugin_figures = PluginFigures()
        if ports.plugins is not None:
            self.plugin_statuses, self.plugin_figures = ports.plugins.statuses, ports.plugins.figures
        self.keeper = self._core.keeper
        self.events = self._core.events
        self.history = self._core.history
        self.notices = self._core.notices
        self.figures = self._core.figures
        self.network_programs = ports.networks.programs
        """What programs did for pods' networks, by name and command."""
        self.admission = self._core.admission
        self.sandboxes = NodeSandboxes(self._core)
        self.containers = NodeContainers(self._core, self._catalogue, policy)
        run, remove = self.sandboxes.run, self.sandboxes.remove
        self.restore_pod = RestorePod(self._core, run, self.containers.create, remove)
        self.images = ImageStore(self._core, self._catalogue, verbs)
        self.networks = Networks(self._core)
        self.volumes = NodeVolumes(self._core, self._catalogue, policy)
        findings = ImageFindings(self._core, self._catalogue, verbs)
        self.check = CheckNode(self._core, findings, self.networks, self.volumes, self.sandboxes.stop)
        removals = WipeVerbs(
            self.sandboxes.remove, self.containers.remove, verbs, self.networks, self.volumes
        )
        self.wipe = Wipe(self._core, self._catalogue, removals)
        self.end_with_host = EndWithHost(self._core)
        self.stats = Stats(self._core)
        self.why = Why(self._core)
        self.disk_usage = MeasureDisk(self._core, self._catalogue)
        self.metrics = Metrics(self._core, self.stats)
        self.abandon = Abandon(self._core)
        self.streams = Streams(self._core)
        self._core.container_gone = self._sweep_if_last
        self._wishes = PluginWishes(self._core, self.containers.update, self.containers.stop)
        self._settling: asyncio.Task[None] | None = None
        self._is_loaded = False

        self._core.followers.append(lambda new: self._catalogue.pin(new.images.upkeep.pinned))
        self._core.followers.append(lambda new: policy.adapt(new.images.trust))

    @property
    def settings(self) -> Settings:
        """Those that hold now."""
        return self._core.settings

    @property
    def cgroup_driver(self) -> str:
        """CRI RuntimeConfig: whom a kubelet must make pods' cgroups through."""
        return self.settings.cgroup_driver

    async def load(self) -> None:
        """Read the records, and see which layers are on disk; once, though a check may come before."""
        if self._is_loaded:
            return
        self._is_loaded = True
        rows = self._core.ports.records.load()
        self._core.sandboxes.fill(rows.sandboxes)
        self._core.containers.fill(rows.containers)
        self.volumes.fill(rows)
        self._catalogue.fill(rows.images)
        await self._catalogue.look(self._core.ports.images)
        if rows.lost_images:
            await self._catalogue.doubt(self._core.ports.images)
            lost = "; ".join(rows.lost_images)
            text = f"records were lost, so layers that may be theirs are not removed: {lost}"
            self._core.notices.past("images", text)

    async def start(self) -> None:
        """Bring records and world together, and watch for exits. The gate opens after this.

        What needs nobody's waiting goes on behind it: see `settled`.
        """
        await self.load()
        core = self._core
        there = f"{len(core.sandboxes)} pods and {len(core.containers)} containers on record"
        core.history.happened(EventKind.NODE, "started", "cribd", there)
        self.volumes.recover()
        rest = await recover(core)
        self._settling = self.keeper.serve("sweep of layers", self._settle(rest))
        self.keeper.serve("events", core.history.forget_for_ever())
        self.keeper.serve("timelines", core.timeline.keep_for_ever())
        self.containers.rotate_logs.begin()
        self.networks.begin()
        self.check.is_live = True

    async def let_plugins_in(self) -> None:
        """From now on node plugins can come. After a start, and before clients: they miss nothing then."""
        if (plugins := self._core.ports.plugins) is not None:
            await plugins.begin(self._wishes)

    async def _settle(self, rest: asyncio.Task[None]) -> None:
        await asyncio.wait([rest])
        await self.images.sweep()

    async def settled(self) -> None:
        """Wait until all that a start does is done, also what goes on behind the gate."""
        if self._settling is not None:
            await asyncio.wait([self._settling])

    def _sweep_if_last(self, container: ContainerRecord) -> None:
        """The layers of an image that was removed stay as long as a container needs them."""
        if self._catalogue.find(container.image_id) is None:
            self.keeper.start(f"sweep of layers of {container.image_id}", self.images.sweep())

    async def close(self, grace: float) -> None:
        """Let verbs finish within `grace` seconds. Containers go on running."""
        self.events.close()
        await self.keeper.close(grace)
        self._core.history.happened(EventKind.NODE, "stopped", "cribd")
        if self._core.ports.plugins is not None:
            await self._core.ports.plugins.close()
        self._core.timeline.write_all()
        self.history.close()
        for handler in self._core.ports.handlers.values():
            await handler.close()
        await self._core.ports.images.close()
        await self._core.ports.networks.close()

    async def status(self) -> NodeStatus:
        network = await self.networks.readiness()
        status = await node_status(self._core, len(self._catalogue), network)
        self.history.network_is(status.network)
        return status

    def kept_pod_changed(self, event: NodeEvent) -> None:
        """Who keeps a pod up starts a container of it again, waits before that, or has probed it."""
        container = self._core.containers.get(ContainerId(event.subject))
        if event.action == "restarted" and container and self.history.may_have_told("restarted", container):
            return  # before the daemon was killed
        found = self._core.describe(event.pod_id or event.subject)
        self.history.tell(replace(event, pod=found.pod, pod_id=found.sandbox or event.pod_id))

    def missing_handlers(self, settings: Settings) -> list[HandlerName]:
        """Handlers of these settings that were not opened yet."""
        return [
            HandlerName(name) for name in settings.handlers if HandlerName(name) not in self._core.handlers
        ]

    def bound_handlers(self) -> dict[str, HandlerSettings | None]:
        """Names that no new handler may have while the daemon runs, as something was made under them.

        A withdrawn one comes back with the settings that it had; the others do not.
        """
        names = {row.handler for row in self._core.sandboxes} - self._core.handlers.keys()
        return {**dict.fromkeys(names), **self._core.handlers.gone}

    def offer(self, handlers: Mapping[HandlerName, Handler]) -> None:
        """New pods may ask for these, which have made nothing yet."""
        self._core.handlers.add(handlers)
        for name, handler in handlers.items():
            watch_handler(self._core, name, handler)

    def gauges(self) -> Gauges:
        """How much of everything there is now."""
        return gauges(self._core, self._catalogue)

    async def configure_network(self, pod_cidr: str) -> None:
        """CRI UpdateRuntimeConfig."""
        work = self._core.ports.networks.configure(pod_cidr)
        await self.keeper.begin("the node's pod ranges", work).wait()
        self.history.happened(EventKind.NETWORK, "configured", "network", pod_cidr)

    def timeline(self, text: str) -> PodStages:
        """Where the time of a pod went, by id or name; one that failed or was removed lately too."""
        found = self._core.timeline.find(text)
        if found is None:
            raise NotFound(f"no timeline of a pod {text!r} is kept")
        return found

    def timelines(self) -> AsyncIterator[PodStages]:
        """All that are kept, the latest first."""
        return self._core.timeline.all()

    def stages(self, sandbox: SandboxId) -> Sequence[Stage]:
        """The stages of one sandbox; none when it is not remembered."""
        return self._core.timeline.get(sandbox).stages
