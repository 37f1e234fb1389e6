"""The port `Handler` by a shim of containerd's kind. Its ports hand their work to the parts that know how."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Self

from crib.backends.bundle.bundles import Bundles
from crib.backends.container_bundles import ContainerBundles
from crib.backends.environment import HandlerOpening, SharedLayers
from crib.backends.failures import trying
from crib.backends.handler_notes import forget_handler
from crib.backends.pod_handlers import PodHandler
from crib.backends.pods.endings import Endings
from crib.backends.pods.oom import OomKills
from crib.backends.pods.oom_causes import OomCauses
from crib.backends.pods.pods import Pods
from crib.backends.pods.signals import Signals
from crib.backends.pods.usage import UsageReader
from crib.backends.programs import Programs
from crib.backends.shim.container_shims import ContainerShims
from crib.backends.shim.containers import ContainerMaking
from crib.backends.shim.earlier_commands import EarlierCommands
from crib.backends.shim.environment import ShimEnvironment, closed_environment, open_environment
from crib.backends.shim.events import EventsServer
from crib.backends.shim.exits import ShimExits
from crib.backends.shim.first_processes import FirstProcesses
from crib.backends.shim.infra import ShimInfra
from crib.backends.shim.lives import ShimContainers
from crib.backends.shim.pods import ShimPods
from crib.backends.shim.shims import Shims
from crib.backends.shim.statistics import ShimStatistics
from crib.backends.shim.strays import ShimStrays, find_shim_strays, has_left_nothing, remove_parts
from crib.backends.shim.streams import ShimLogs, ShimStreams
from crib.backends.shim.tools import ShimTools
from crib.host.cgroup_stats import StatsReader
from crib.host.memory_limits import MemoryLimits
from crib.host.threads import OURS


class ShimHandler(PodHandler[ShimEnvironment, ShimStrays]):
    """See Handler."""

    checkpoints = None
    _open_environment = staticmethod(open_environment)
    _closed_environment = staticmethod(closed_environment)

    @classmethod
    async def open(cls, opening: HandlerOpening) -> Self:
        """See HandlerKind."""
        made = cls(await cls._open_environment(opening), opening.layers)
        with trying(f"handler {opening.name}"):
            await made.tools.events.open()
        return made

    @classmethod
    def closed(cls, opening: HandlerOpening, problem: str) -> Self:
        """See HandlerKind."""
        return cls(cls._closed_environment(opening, problem), opening.layers)

    def __init__(self, environment: ShimEnvironment, layers: SharedLayers) -> None:
        self.tools = tools = _open_tools(environment, layers)
        self._exits = ShimExits(tools)
        self._infra = ShimInfra(tools, self._exits)
        making, pods = self._open_making(), Pods(environment, self._infra)
        programs = Programs(*environment.programs)
        super().__init__(environment, pods, tools.making, making, programs)
        self.pods = self._open_pods(pods)
        self.containers = self._open_containers(making)
        self._earlier = EarlierCommands(environment, tools.bundles, tools.services)
        self.streams = self._open_streams()
        self.logs = ShimLogs(tools)
        self.statistics = self._open_statistics(pods)

    def _open_making(self) -> ContainerMaking:
        return ContainerMaking(self.tools, self._exits)

    def _open_statistics(self, pods: Pods) -> ShimStatistics:
        return ShimStatistics(self.tools, pods)

    def _open_pods(self, pods: Pods) -> ShimPods:
        return ShimPods(self.tools, pods, self._infra)

    def _open_containers(self, making: ContainerMaking) -> ShimContainers:
        return ShimContainers(self.tools, self._exits, making)

    def _open_streams(self) -> ShimStreams:
        return ShimStreams(self.tools)

    async def sweep(self, known: Callable[[], Collection[str]], *, dry: bool = False) -> Sequence[str]:
        words = await super().sweep(known, dry=dry)
        if dry or not self.facts.retired:
            return words
        if await OURS.run("looking for shims", has_left_nothing, self._env):
            await OURS.run("forgetting a handler", forget_handler, self._paths, self.facts.name)
        return words

    def _find_strays(self, known: Callable[[], Collection[str]]) -> ShimStrays:
        return find_shim_strays(self._env, known)

    async def _remove_parts(self, strays: ShimStrays) -> None:
        await remove_parts(self._env, strays)

    async def _end_earlier_commands(self, known: Collection[str]) -> Sequence[str]:
        return await self._earlier.end(known)

    async def close(self) -> None:
        self._exits.close()
        self._infra.close()
        self.containers.close()
        await self.tools.io.close()
        self.tools.shims.close()
        self.tools.events.close()


def _open_tools(environment: ShimEnvironment, layers: SharedLayers) -> ShimTools:
    """Makes them; nothing is read or started yet."""
    paths = environment.paths
    bundles, shims = Bundles(paths), Shims(environment)
    services = ContainerShims(environment, shims, bundles)
    stats = StatsReader(environment.cgroups.layout)
    oom = OomKills(paths, stats)
    return ShimTools(
        environment=environment,
        layers=layers,
        bundles=bundles,
        making=ContainerBundles(environment, bundles, layers, oom, lambda _inputs: ""),
        shims=shims,
        services=services,
        io=FirstProcesses(paths, services, paths.shim_output(environment.facts.name)),
        signals=Signals(environment, bundles),
        oom=oom,
        endings=Endings(oom, OomCauses(MemoryLimits(environment.cgroups.layout))),
        events=EventsServer(paths.shim_events(environment.facts.name)),
        usage=UsageReader(paths, stats),
    )
