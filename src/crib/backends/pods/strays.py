"""What lies under our roots and in our cgroups, and belongs to nobody that is known.

Most of it has an id and goes by the teardown of containers or pods. A cgroup of a container below a pod that
is known is removed by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from crib.backends.bundle.bundles import Bundles
from crib.backends.environment import HandlerEnvironment
from crib.backends.pods.cgroup_names import CgroupNames
from crib.model.errors import Broken
from crib.model.ids import ContainerId, SandboxId, is_id

_KILL_TIME = 10.0
_LONGEST_NAME = 4096


@dataclass(frozen=True, slots=True)
class Strays:
    """Ids with leftovers, and cgroups of containers that are not among them."""

    containers: tuple[ContainerId, ...]
    sandboxes: tuple[SandboxId, ...]
    cgroups: tuple[str, ...]
    there: frozenset[str]
    """What is known, and all strays of containers, also of other handlers."""

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
    """Look through our directories and cgroups, and at the names of what the kind of handler has `made`; then
    ask what is known. Blocks.
    """
    paths, names = environment.paths, CgroupNames.of(environment.settings)
    ours = [name for top in environment.cgroups.directories(names.own) for name in listed(top)]
    pods: set[str] = {*ids(paths.sandboxes), *names.pods_among(ours)}
    found: set[str] = set()
    for directory in (paths.containers, paths.writable_layers, paths.exits):
        found.update(ids(directory))
    found.update(filter(is_id, made))
    parts = {pod: set(_containers_in(environment, names.own_pod(pod))) for pod in pods}
    # What runs for a pod itself is known under its id.
    found -= pods
    recorded = frozenset(known())
    owners, strays = _Owners(environment), {ContainerId(name) for name in found - recorded}
    return Strays(
        tuple(sorted(filter(owners.has_container, strays))),
        tuple(sorted(filter(owners.has_pod, (SandboxId(name) for name in pods - recorded)))),
        tuple(
            sorted(
                names.below(names.own_pod(pod), container)
                for pod, inside in parts.items()
                for container in inside - recorded - {pod}
                if pod in recorded and owners.has_container(ContainerId(container))
            )
        ),
        recorded | strays,
    )


class _Owners:
    """Whose a stray is: its own kind of handler knows best how to end it. One that nobody's name is on is
    everybody's.
    """

    def __init__(self, environment: HandlerEnvironment) -> None:
        self._env = environment
        self._bundles = Bundles(environment.paths)

    def has_container(self, container: ContainerId) -> bool:
        note = self._bundles.read_note(container)
        return note is None or self._env.owns(note.handler)

    def has_pod(self, sandbox: SandboxId) -> bool:
        try:
            with open(self._env.paths.pod_handler(sandbox), encoding="utf-8") as file:
                return self._env.owns(file.read(_LONGEST_NAME))
        except (OSError, UnicodeDecodeError):
            return True


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
