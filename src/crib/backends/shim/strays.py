"""Shims that belong to nobody that is known, beside what has an id of its own (see `pods.strays`)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from crib.backends.bundle.bundles import Bundles
from crib.backends.pods.strays import Strays, find_strays, ids, remove_cgroups
from crib.backends.shim.environment import ShimEnvironment
from crib.backends.shim.processes import kill, remove_sockets, shims_of
from crib.backends.shim.task_client import NAMESPACE
from crib.host.threads import OURS
from crib.model.ids import ContainerId
from crib.model.sandbox import ProcessIdentity


@dataclass(frozen=True, slots=True)
class ShimStrays:
    """With shims without a bundle."""

    known: Strays
    shims: tuple[tuple[str, ProcessIdentity], ...]

    @property
    def words(self) -> list[str]:
        """What there is, for people."""
        return [*self.known.words, *(f"shim {process.pid} of {owner}" for owner, process in self.shims)]


def find_shim_strays(environment: ShimEnvironment, known: Callable[[], Collection[str]]) -> ShimStrays:
    """Look through all that there is of containers, and at processes; then ask what is known. Blocks."""
    root = environment.runtime_root
    shims = tuple(shims_of(environment.program))
    strays = find_strays(environment, ids(f"{root}/{NAMESPACE}") if root else (), known)
    there = {*strays.there, *strays.sandboxes}
    return ShimStrays(strays, tuple(found for found in shims if found[0] not in there))


def has_left_nothing(environment: ShimEnvironment) -> bool:
    """Whether there is neither a shim of the handler nor a container that it has made. Blocks."""
    if any(shims_of(environment.program)):
        return False
    bundles = Bundles(environment.paths)
    notes = (bundles.read_note(ContainerId(name)) for name in ids(environment.paths.containers))
    return not any(note is not None and note.handler == environment.facts.name for note in notes)


async def remove_parts(environment: ShimEnvironment, strays: ShimStrays) -> None:
    """Kill and remove what has no id of its own. Broken when processes do not die."""
    for owner, process in strays.shims:
        await kill(f"removing what belongs to nobody: {owner}", process)
        await OURS.run("removing a shim's socket", remove_sockets, environment.program, owner)
    await remove_cgroups(environment, strays.known)
