"""The port `Handler` by a shim of containerd's kind. Its ports hand their work to the parts that know how."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from typing import Self

from crib.backends.bundle.bundles import Bundles
from crib.backends.container_bundles import ContainerBundles
from crib.backends.environment import HandlerOpening, SharedLayers
from crib.backends.failures import trying
from crib.backends.pods.endings import Endings
from crib.backends.pods.oom import OomKills
from crib.backends.pods.oom_causes import OomCauses
from crib.backends.pods.pods import Pods
from crib.backends.pods.signals import Signals
from crib.backends.pods.slices import stop_slice
from crib.backends.pods.usage import UsageReader
from crib.backends.programs import Programs
from crib.backends.shim.container_shims import ContainerShims
from crib.backends.shim.containers import ContainerMaking
from crib.backends.shim.earlier_commands import EarlierCommands
from crib.backends.shim.environment import ShimEnvironment, closed_environment, open_environment
from crib.backends.shim.events import EventsServer
from crib.backends.shim.exits import ShimExits
from crib.backends.shim.first_processes import FirstProcesses
from crib.backends.shim.handler_notes import forget_handler
from crib.backends.shim.infra import ShimInfra
from crib.backends.shim.lives import ShimContainers
from crib.backends.shim.pods import ShimPods
from crib.backends.shim.shims import Shims
from crib.backends.shim.statistics import ShimStatistics
from crib.backends.shim.strays import find_shim_strays, has_left_nothing, remove_parts
from crib.backends.shim.streams import ShimLogs, ShimStreams
from crib.backends.shim.tools import ShimTools
from crib.host.cgroup_stats import StatsReader
from crib.host.memory_limits import MemoryLimits
from crib.host.mounts import unmount_tree
from crib.host.threads import OURS
from crib.model.facts import HandlerFacts, Readiness
from crib.model.settings import Settings


class ShimHandler:
    """See Handler."""

    @classmethod
    async def open(cls, opening: HandlerOpening) -> Self:
        """See HandlerKind."""
        made = cls(await open_environment(opening), opening.layers)
        with trying(f"handler {opening.name}"):
            await made.tools.events.open()
        return made

    @classmethod
    def closed(cls, opening: HandlerOpening, problem: str) -> Self:
        """See HandlerKind."""
        return cls(closed_environment(opening, problem), opening.layers)

    def __init__(self, environment: ShimEnvironment, layers: SharedLayers) -> None:
        self._env = environment
        self._paths = environment.paths
        self.tools = tools = _open_tools(environment, layers)
        self._exits = ShimExits(tools)
        self._making = ContainerMaking(tools, self._exits)
        self._infra = ShimInfra(tools, self._exits)
        self._pods = Pods(environment, self._infra)
        self._programs = Programs(environment.program.path, environment.facts.program)
        self.pods = ShimPods(tools, self._pods, self._infra)
        self.containers = ShimContainers(tools, self._exits, self._making)
        self._earlier = EarlierCommands(environment, tools.bundles, tools.services)
        self.streams = ShimStreams(tools)
        self.logs = ShimLogs(tools)
        self.statistics = ShimStatistics(tools, self._pods)

    @property
    def facts(self) -> HandlerFacts:
        return self._env.facts

    def adapt(self, settings: Settings) -> None:
        self._env.adapt(settings)
        self.tools.making.adapt()

    async def readiness(self) -> Readiness:
        problem = await self._programs.missing() or self.facts.problem
        return Readiness(not problem, "HandlerNotReady" if problem else "", problem)

    async def sweep(self, known: Callable[[], Collection[str]], *, dry: bool = False) -> Sequence[str]:
        with trying("looking for what belongs to nobody"):
            strays = await OURS.run("looking for what belongs to nobody", find_shim_strays, self._env, known)
        if dry:
            return strays.words
        for container in strays.known.containers:
            await self._making.delete(container)
        for sandbox in strays.known.sandboxes:
            await self._pods.remove_unknown(sandbox)
        with trying("removing what belongs to nobody"):
            await remove_parts(self._env, strays)
        words = [*strays.words, *await self._earlier.end(known())]
        if self.facts.retired and await OURS.run("looking for shims", has_left_nothing, self._env):
            await OURS.run("forgetting a handler", forget_handler, self._paths, self.facts.name)
        return words

    async def dismantle(self) -> None:
        with trying("undoing what all containers share"):
            for tree in (self._paths.containers, self._paths.sandboxes, self._paths.infra_root):
                await OURS.run(f"unmounting {tree}", unmount_tree, tree)
            if self._env.names.systemd:
                await stop_slice(os.path.basename(self._env.names.own))
            await self._env.cgroups.remove(self._env.names.own)

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
