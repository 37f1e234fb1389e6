"""What those kinds of handler have in common whose pods are made by `pods`: see `ports.handler.Handler`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Generic, Protocol, TypeVar

from crib.backends.container_bundles import ContainerBundles
from crib.backends.container_deletes import ContainerDeletes
from crib.backends.environment import HandlerEnvironment
from crib.backends.failures import trying
from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.pods import Pods
from crib.backends.pods.slices import stop_slice
from crib.backends.pods.strays import Strays
from crib.backends.programs import Programs
from crib.host.mounts import unmount_tree
from crib.host.threads import OURS
from crib.model.facts import HandlerFacts, Readiness
from crib.model.settings import Settings


class FoundStrays(Protocol):
    """What belongs to nobody, by this kind's look."""

    @property
    def known(self) -> Strays:
        """What is found by its id."""
        ...

    @property
    def words(self) -> list[str]:
        """All of it, for people."""
        ...


E = TypeVar("E", bound=HandlerEnvironment)
S = TypeVar("S", bound=FoundStrays)


class PodHandler(ABC, Generic[E, S]):
    """A handler, but for its ports."""

    def __init__(
        self,
        environment: E,
        pods: Pods,
        making: ContainerBundles,
        containers: ContainerDeletes,
        programs: Programs,
    ) -> None:
        self._env = environment
        self._paths = environment.paths
        self._pods = pods
        self._making = making
        self._containers = containers
        self._programs = programs

    @property
    def facts(self) -> HandlerFacts:
        return self._env.facts

    def adapt(self, settings: Settings) -> None:
        self._env.adapt(settings)
        self._making.adapt()

    async def readiness(self) -> Readiness:
        problem = await self._programs.missing() or self.facts.problem
        return Readiness(not problem, "HandlerNotReady" if problem else "", problem)

    async def sweep(self, known: Callable[[], Collection[str]], *, dry: bool = False) -> Sequence[str]:
        what = "looking for what belongs to nobody"
        with trying(what):
            strays = await OURS.run(what, self._find_strays, known)
        if dry:
            return strays.words
        for container in strays.known.containers:
            await self._containers.delete(container)
        for sandbox in strays.known.sandboxes:
            await self._pods.remove_unknown(sandbox)
        with trying("removing what belongs to nobody"):
            await self._remove_parts(strays)
        return [*strays.words, *await self._end_earlier_commands(known())]

    async def dismantle(self) -> None:
        names = CgroupNames.of(self._env.settings)
        with trying("undoing what all containers share"):
            for tree in (self._paths.containers, self._paths.sandboxes, self._paths.infra_root):
                await OURS.run(f"unmounting {tree}", unmount_tree, tree)
            if names.systemd:
                await stop_slice(os.path.basename(names.own))
            await self._env.cgroups.remove(names.own)

    @abstractmethod
    def _find_strays(self, known: Callable[[], Collection[str]]) -> S:
        """Look, then ask what is known. Blocks."""

    @abstractmethod
    async def _remove_parts(self, strays: S) -> None:
        """Kill and remove what has no id of its own. Broken when processes do not die."""

    @abstractmethod
    async def _end_earlier_commands(self, known: Collection[str]) -> Sequence[str]:
        """End contained commands of an earlier daemon in these containers; says what was."""
