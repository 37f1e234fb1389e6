"""What belongs to nobody, of the Engine's containers and of ours; and commands of an earlier daemon."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from crib.backends.bundle.bundles import Bundles
from crib.backends.docker.environment import DockerEnvironment
from crib.backends.failures import trying
from crib.backends.pods.strays import Strays, find_strays, remove_cgroups
from crib.backends.streams.command_names import earlier_name
from crib.host.threads import OURS
from crib.model.ids import ContainerId, SandboxId
from crib.tasks.groups import all_of

_DYING_TIME = 2.0
"""Seconds that all of one command get to die from SIGKILL, and its cgroup to be removed."""


@dataclass(frozen=True, slots=True)
class DockerStrays:
    """With pods of which only the Engine knows."""

    known: Strays

    @property
    def words(self) -> list[str]:
        """What there is, for people."""
        return self.known.words


def find_docker_strays(
    environment: DockerEnvironment,
    containers: Iterable[str],
    pods: Collection[str],
    known: Callable[[], Collection[str]],
) -> DockerStrays:
    """Look through all that there is beside what the Engine has; then ask what is known. Blocks."""
    strays = find_strays(environment, containers, known)
    more = {SandboxId(pod) for pod in pods} - set(strays.sandboxes) - set(known())
    return DockerStrays(
        Strays(strays.containers, tuple(sorted({*strays.sandboxes, *more})), strays.cgroups, strays.there)
    )


async def remove_parts(environment: DockerEnvironment, strays: DockerStrays) -> None:
    """Kill and remove what has no id of its own. Broken when processes do not die."""
    await remove_cgroups(environment, strays.known)


async def end_earlier_commands(
    environment: DockerEnvironment, bundles: Bundles, known: Collection[str]
) -> Sequence[str]:
    """End contained commands that an earlier daemon has left in these containers; says what was."""
    with trying("ending commands of an earlier daemon"):
        found = await OURS.run(
            "looking for commands of an earlier daemon", lambda: list(_find(environment, bundles, known))
        )
    await all_of("earlier commands", (_end(environment, cgroup) for _, cgroup in found))
    owners = [container for container, _ in found]
    return [
        f"{owners.count(container)} commands of an earlier daemon in container {container}"
        for container in dict.fromkeys(owners)
    ]


def _find(
    environment: DockerEnvironment, bundles: Bundles, known: Collection[str]
) -> Iterator[tuple[ContainerId, str]]:
    for container in map(ContainerId, known):
        note = bundles.read_note(container)
        if note is None or not environment.owns(note.handler):
            continue
        for name in environment.cgroups.below(note.cgroup):
            if earlier_name(name):
                yield container, f"{note.cgroup}/{name}"


async def _end(environment: DockerEnvironment, cgroup: str) -> None:
    died = await environment.cgroups.kill(cgroup, _DYING_TIME)
    with contextlib.suppress(OSError):
        await environment.cgroups.remove(cgroup, timeout=_DYING_TIME if died else 0)
