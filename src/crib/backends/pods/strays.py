"""What lies under our roots and in our cgroups, and belongs to nobody that is known.

Most of it has an id and goes by the teardown of containers or pods. A cgroup of a container below a pod that
is known is removed by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from crib.backends.environment import HandlerEnvironment
from crib.backends.pods.cgroup_names import CgroupNames
from crib.model.errors import Broken
from crib.model.ids import ContainerId, SandboxId, is_id

_KILL_TIME = 10.0


@dataclass(frozen=True, slots=True)
class Strays:
    """Ids with leftovers, and cgroups of containers that are not among them."""

    containers: tuple[ContainerId, ...]
    sandboxes: tuple[SandboxId, ...]
    cgroups: tuple[str, ...]
    there: frozenset[str]
    """What is known, and these strays of containers."""

    @property
    def words(self) -> list[str]:
        """What there is, for people."""
        return [
            *(f"container {container}" for container in self.containers),
            *(f"sandbox {sandbox}" for sandbox in self.sandboxes),
            *(f"cgroup {cgroup}" for cgroup in self.cgroups),
        ]


def find_strays(
    environment: HandlerEnvironment, made: Iterable[str], known: Callable[[], Collection[str]]
) -> Strays:
    """Look through our directories and our cgroups, and at what the runtime has `made`; then ask what is
    known. Blocks.
    """
    paths, names = environment.paths, CgroupNames.of(environment.settings)
    ours = [name for top in environment.cgroups.directories(names.own) for name in listed(top)]
    pods: set[str] = {*ids(paths.sandboxes), *names.pods_among(ours)}
    found = {name for name in made if is_id(name)}
    for directory in (paths.containers, paths.writable_layers, paths.exits):
        found.update(ids(directory))
    parts = {pod: set(_containers_in(environment, names.own_pod(pod))) for pod in pods}
    # What runs for a pod itself is known under its id.
    found -= pods
    recorded = frozenset(known())
    strays = {ContainerId(name) for name in found - recorded}
    return Strays(
        tuple(sorted(strays)),
        tuple(sorted(SandboxId(name) for name in pods - recorded)),
        tuple(
            sorted(
                names.below(names.own_pod(pod), container)
                for pod, inside in parts.items()
                for container in inside - recorded - {pod}
                if pod in recorded
            )
        ),
        recorded | strays,
    )


async def remove_cgroups(environment: HandlerEnvironment, strays: Strays) -> None:
    """Kill and remove what has no id of its own. Broken when processes do not die."""
    for cgroup in strays.cgroups:
        if not await environment.cgroups.kill(cgroup, _KILL_TIME):
            raise Broken(f"processes in {cgroup}, which belongs to no container, do not die")
        await environment.cgroups.remove(cgroup)


def _containers_in(environment: HandlerEnvironment, pod_cgroup: str) -> Iterator[str]:
    """Ids that the cgroups below a pod's have for names."""
    names = CgroupNames.of(environment.settings)
    for top in environment.cgroups.directories(pod_cgroup):
        for name in listed(top):
            container = name.rpartition("-")[2].removesuffix(".scope")
            if is_id(container) and names.below(pod_cgroup, container).endswith(f"/{name}"):
                yield container


def ids(directory: str) -> Iterator[str]:
    """What is named for one, and what a monitor was killed over: it writes `ID.XXXXXX` and renames that."""
    return (name for name in (name.partition(".")[0] for name in listed(directory)) if is_id(name))


def listed(directory: str) -> list[str]:
    """The names in it; none where it is not there."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
