"""The port `Handler` by Docker's Engine. Its ports hand their work to the parts that know how."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Self

from crib.backends.bundle.bundles import Bundles
from crib.backends.container_bundles import ContainerBundles
from crib.backends.docker.containers import DockerMaking
from crib.backends.docker.environment import DockerEnvironment, closed_environment, open_environment
from crib.backends.docker.exits import DockerExits
from crib.backends.docker.images import EngineImages
from crib.backends.docker.infra import DockerInfra, DockerPods
from crib.backends.docker.known import KnownContainers
from crib.backends.docker.lives import DockerContainers
from crib.backends.docker.logs import LogCopies
from crib.backends.docker.statistics import DockerStatistics
from crib.backends.docker.strays import (
    DockerStrays,
    end_earlier_commands,
    find_docker_strays,
    remove_parts,
)
from crib.backends.docker.streams import DockerLogs, DockerStreams
from crib.backends.docker.tools import DockerTools
from crib.backends.environment import HandlerOpening, SharedLayers
from crib.backends.handler_notes import forget_handler
from crib.backends.pod_handlers import PodHandler
from crib.backends.pods.endings import Endings
from crib.backends.pods.oom import OomKills
from crib.backends.pods.oom_causes import OomCauses
from crib.backends.pods.running import RunningPods
from crib.backends.pods.signals import Signals
from crib.backends.pods.usage import UsageReader
from crib.backends.programs import Programs
from crib.host.cgroup_stats import StatsReader
from crib.host.memory_limits import MemoryLimits
from crib.host.threads import OURS
from crib.model.errors import CribError
from crib.model.facts import Readiness


class DockerHandler(PodHandler[DockerEnvironment, DockerStrays]):
    """See Handler."""

    checkpoints = None

    @classmethod
    async def open(cls, opening: HandlerOpening) -> Self:
        """See HandlerKind. An Engine that is away may come later."""
        return cls(await open_environment(opening), opening.layers)

    @classmethod
    def closed(cls, opening: HandlerOpening, problem: str) -> Self:
        """See HandlerKind."""
        return cls(closed_environment(opening, problem), opening.layers)

    def __init__(self, environment: DockerEnvironment, layers: SharedLayers) -> None:
        self.tools = tools = _open_tools(environment, layers)
        self._exits = DockerExits(tools)
        self._infra = DockerInfra(environment, tools.images, tools.containers)
        making, pods = DockerMaking(tools, self._exits), DockerPods(environment, self._infra)
        programs = Programs(*filter(None, (environment.catatonit,)))
        super().__init__(environment, pods, tools.making, making, programs)
        self.pods = RunningPods(environment, pods, tools.bundles)
        self.containers = DockerContainers(tools, self._exits, making)
        self.streams = DockerStreams(tools, self._exits)
        self.logs = DockerLogs(tools)
        self.statistics = DockerStatistics(tools, pods)
        self._listed: Mapping[str, bool] = {}

    async def readiness(self) -> Readiness:
        problem = await self._programs.missing() or await self._env.unusable()
        return Readiness(not problem, "HandlerNotReady" if problem else "", problem)

    async def sweep(self, known: Callable[[], Collection[str]], *, dry: bool = False) -> Sequence[str]:
        try:
            self._listed = await self.tools.containers.all()
            self._infra.note_listed(name for name, is_pod in self._listed.items() if is_pod)
        except CribError:  # what an Engine that is away has, is swept when it is back
            self._listed = {}
        words = await super().sweep(known, dry=dry)
        if self.facts.retired and not dry:
            await self._end_retired()
        elif not dry:
            await self._release_images()
        return words

    async def dismantle(self) -> None:
        await super().dismantle()
        await self.tools.images.remove_all()

    async def _release_images(self) -> None:
        try:
            await self.tools.images.release_unused()
        except CribError:
            return

    async def _end_retired(self) -> None:
        """Once nothing of a handler that was taken out is left in the Engine, it is forgotten."""
        try:
            if await self.tools.containers.all():
                return
            await self.tools.images.remove_all()
        except CribError:  # the Engine is away: what it has is looked for again
            return
        await OURS.run("forgetting a handler", forget_handler, self._paths, self.facts.name)

    def _find_strays(self, known: Callable[[], Collection[str]]) -> DockerStrays:
        pods = {name for name, is_pod in self._listed.items() if is_pod}
        return find_docker_strays(self._env, self._listed.keys() - pods, pods, known)

    async def _remove_parts(self, strays: DockerStrays) -> None:
        await remove_parts(self._env, strays)

    async def _end_earlier_commands(self, known: Collection[str]) -> Sequence[str]:
        return await end_earlier_commands(self._env, self.tools.bundles, known)

    async def close(self) -> None:
        self._exits.close()
        self.containers.close()
        self.tools.images.close()
        await self.tools.logs.close()
        await self._env.api.close()


def _open_tools(environment: DockerEnvironment, layers: SharedLayers) -> DockerTools:
    """Makes them; nothing is asked or started yet."""
    paths = environment.paths
    bundles, containers = Bundles(paths), KnownContainers(environment)
    stats = StatsReader(environment.cgroups.layout)
    oom = OomKills(paths, stats)
    return DockerTools(
        environment=environment,
        layers=layers,
        bundles=bundles,
        making=ContainerBundles(environment, bundles, layers, oom, lambda _inputs: ""),
        images=EngineImages(environment, layers),
        containers=containers,
        logs=LogCopies(environment, containers),
        signals=Signals(environment, bundles),
        oom=oom,
        endings=Endings(oom, OomCauses(MemoryLimits(environment.cgroups.layout))),
        usage=UsageReader(paths, stats),
    )
