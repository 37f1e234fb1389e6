"""What lies under our roots and belongs to nobody that is known."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from crib.backends.oci.environment import OciEnvironment
from crib.model.ids import ContainerId, SandboxId, is_id


@dataclass(frozen=True, slots=True)
class Strays:
    """Ids with leftovers."""

    containers: tuple[ContainerId, ...]
    sandboxes: tuple[SandboxId, ...]


def find_strays(environment: OciEnvironment, known: Callable[[], Collection[str]]) -> Strays:
    """Look through directories, exit files, the runtime's state and our cgroups; then ask what is known."""
    paths, cgroups = environment.paths, environment.cgroups
    names = environment.names
    ours = (name for top in cgroups.directories(names.own) for name in _listed(top))
    pods: set[str] = {*_ids(paths.sandboxes), *names.pods_among(ours)}
    found: set[str] = set()
    states = tuple(runtime.root for runtime in environment.runtimes())
    for directory in (paths.containers, paths.writable_layers, paths.exits, *states):
        found.update(_ids(directory))
    # An infra process is known to the runtime under its sandbox's id.
    found -= pods
    recorded = frozenset(known())
    return Strays(
        tuple(sorted(ContainerId(name) for name in found - recorded)),
        tuple(sorted(SandboxId(name) for name in pods - recorded)),
    )


def _ids(directory: str) -> Iterator[str]:
    return (name for name in _listed(directory) if is_id(name))


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
